package main

import (
	"context"
	"errors"
	"time"

	"github.com/pgtick/pgtick/runner/localpg"
)

// idle is what the program asks of a server and of a processor while there is nothing to do. The server is one of its own, which counts
// statements, and on which nobody else is.
func (b *bench) idle(ctx context.Context, taken samples) error {
	path, err := b.built(ctx, "runner/cmd/pgtick")
	if err != nil {
		return err
	}
	server, err := localpg.Start(ctx, localpg.Options{Durable: true, Settings: map[string]string{
		"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "top"}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	s, err := (&bench{server: server}).store(ctx, "idle")
	if err != nil {
		return err
	}
	defer s.pool.Close()
	if err := exec(ctx, s.pool, `create extension pg_stat_statements`); err != nil {
		return err
	}
	p, err := startProgram(path, s)
	if err != nil {
		return err
	}
	measured := errors.Join(asleep(ctx, s.pool, 1), b.watchIdle(ctx, s, server.Pid(), p, taken))
	return errors.Join(measured, p.stop())
}

func (b *bench) watchIdle(ctx context.Context, s *store, server int, p *program, taken samples) error {
	time.Sleep(5 * time.Second) // for what it does once
	statements, used, err := soFar(ctx, s, server, p)
	if err != nil {
		return err
	}
	begin := time.Now()
	time.Sleep(time.Duration(b.size.idle) * time.Second)
	later, usedLater, err := soFar(ctx, s, server, p)
	if err != nil {
		return err
	}
	took := time.Since(begin).Seconds()
	taken.add("idle_statements", "pgtick", float64(later-statements)/took)
	taken.add("idle_cpu", "pgtick", 100*(usedLater-used).Seconds()/took)
	return nil
}

// soFar leaves our own statements out.
func soFar(ctx context.Context, s *store, server int, p *program) (statements int, used time.Duration, err error) {
	statements, err = number[int](ctx, s, `select coalesce(sum(s.calls), 0)::integer from pg_stat_statements as s
		where s.dbid = (select d.oid from pg_database as d where d.datname = current_database()) and s.query not like '%pg_stat_statements%'`)
	if err != nil {
		return 0, 0, err
	}
	runner, err := processorTime(p.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	postgres, err := familyTime(server)
	return statements, runner + postgres, err
}
