package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/runner/localpg"
)

// limitBatch is how many decisions a runner asks for at once.
const limitBatch = 50

// redisServer is a redis-server for the limits alone, without persistence.
type redisServer struct {
	folder, url string
	process     *localpg.Process
}

func startRedis() (*redisServer, error) {
	folder, err := os.MkdirTemp("", "pgtick-bench-redis-")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		return nil, err
	}
	conf := filepath.Join(folder, "redis.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "bind 127.0.0.1\nport %d\nsave \"\"\ndir %s\n", port, folder), 0o600); err != nil {
		return nil, err
	}
	r := &redisServer{folder: folder, url: "redis://127.0.0.1:" + strconv.Itoa(port)}
	program, err := osexec.LookPath("redis-server")
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	if r.process, err = localpg.Supervise(folder, "TERM", program, conf); err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	for range 500 { // until it listens
		if conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "redis://")); err == nil {
			return r, conn.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("redis-server does not listen"), r.close())
}

func (r *redisServer) close() error { return errors.Join(r.process.Stop(), os.RemoveAll(r.folder)) }

// limiter waits until it has found the server. Each has a connection of its own.
func (r *redisServer) limiter(ctx context.Context) (l *limit.Limiter, done func(), err error) {
	client, err := limit.Connect(r.url)
	if err != nil {
		return nil, nil, err
	}
	l = limit.New(limit.Options{Redis: client})
	for !l.HasRedis() {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return l, func() { l.Close(); _ = client.Close() }, nil
}

// limiter asks one batch after another, as a runner does that claims as fast as it can: how many decisions a second, and how long a batch takes.
func (b *bench) limiter(ctx context.Context, taken samples) (err error) {
	server, err := startRedis()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	l, done, err := server.limiter(ctx)
	if err != nil {
		return err
	}
	defer done()
	requests := make([]limit.Request, limitBatch)
	for range b.size.runs {
		var took []time.Duration
		decided, begun := 0, time.Now()
		for time.Since(begun) < time.Duration(b.size.limits)*time.Second/12 {
			for i := range requests { // a thousand keys, each rarely at its limit
				requests[i] = limit.Request{Rule: limit.Rule{Task: "bench", Rate: 1000, Period: time.Second, Burst: 100}, Key: strconv.Itoa((decided + i*7) % 1000)}
			}
			asked := time.Now()
			l.Decide(ctx, requests)
			took = append(took, time.Since(asked))
			decided += len(requests)
		}
		_, p99 := quantiles(took)
		taken.add("limiter_decisions", "pgtick", float64(decided)/time.Since(begun).Seconds())
		taken.add("limiter_p99", "pgtick", p99)
	}
	if !l.HasRedis() {
		return errors.New("not all of this was decided by Redis")
	}
	return nil
}

// accuracy has four limiters share one limit, each asking all the time for jobs that are never fewer than the limit lets start.
func (b *bench) accuracy(ctx context.Context, taken samples) (err error) {
	server, err := startRedis()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	rule := limit.Rule{Task: "bench", Rate: 1000, Period: time.Second, Burst: 100}
	length := time.Duration(b.size.limits) * time.Second
	var group sync.WaitGroup
	counts := make([]int, 4)
	limiters := make([]*limit.Limiter, len(counts))
	for i := range limiters {
		l, done, err := server.limiter(ctx)
		if err != nil {
			return err
		}
		defer done()
		limiters[i] = l
	}
	begun := time.Now()
	for i, l := range limiters {
		group.Go(func() { counts[i] = startAll(ctx, l, rule, begun.Add(length)) })
	}
	group.Wait()
	started := 0
	for i, n := range counts {
		if !limiters[i].HasRedis() {
			return errors.New("not all of this was decided by Redis")
		}
		started += n
	}
	ideal := float64(rule.Rate)*length.Seconds() + float64(rule.Burst)
	taken.add("limiter_accuracy", "pgtick", 100*(float64(started)-ideal)/ideal)
	return nil
}

// startAll has 500 jobs wait, each for its time, and replaces each that starts by a new one.
func startAll(ctx context.Context, l *limit.Limiter, rule limit.Rule, until time.Time) (started int) {
	type job struct {
		at    time.Time
		token string
	}
	jobs := make([]job, 500)
	for time.Now().Before(until) && ctx.Err() == nil {
		var requests []limit.Request
		var of []int
		next := until
		for i, now := 0, time.Now(); i < len(jobs); i++ {
			if jobs[i].at.After(now) {
				if jobs[i].at.Before(next) {
					next = jobs[i].at
				}
				continue
			}
			requests, of = append(requests, limit.Request{Rule: rule, Reserved: jobs[i].token}), append(of, i)
		}
		if len(requests) == 0 {
			time.Sleep(time.Until(next))
			continue
		}
		decisions, now := l.Decide(ctx, requests), time.Now()
		for n, d := range decisions {
			jobs[of[n]] = job{at: now.Add(d.Wait), token: d.Reserved}
			if d.OK {
				started++
			}
		}
	}
	return started
}
