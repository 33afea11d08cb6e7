package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// latency enqueues one job every 20 ms on an idle queue and measures until the task's first line.
func (b *bench) latency(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, append(c.engines(), &bareCall{c.ours}), func(r runner) error {
		p50, p99, err := latency(ctx, r, b.size.samples)
		taken.add("latency_p50", r.name(), p50)
		taken.add("latency_p99", r.name(), p99)
		tell(r, "latency p50 %.2f ms, p99 %.2f ms", p50, p99)
		return err
	})
}

func latency(ctx context.Context, r runner, jobs int) (p50, p99 float64, err error) {
	if err := errors.Join(r.clear(ctx), r.settle(ctx)); err != nil {
		return 0, 0, err
	}
	var c counter
	stop, err := r.work(ctx, &c)
	if err != nil {
		return 0, 0, err
	}
	const every = 20 * time.Millisecond
	one := load{clients: 1, every: every, lasts: time.Second}
	warm, err := r.produce(ctx, one)
	if err != nil {
		return 0, 0, err
	}
	one.lasts, one.stamped = time.Duration(jobs)*every, true
	made, err := r.produce(ctx, one)
	if err != nil {
		return 0, 0, err
	}
	err = c.completed(ctx, r, warm.jobs+made.jobs)
	stop()
	p50, p99 = quantiles(c.seen())
	return p50, p99, errors.Join(err, c.exactly(warm.jobs+made.jobs))
}

// bareCall shows what a notification and a claim take without an engine: one connection listens, another claims one job and finishes it. The
// runner has announced that it sleeps, so that each enqueue notifies, and never takes that back.
type bareCall struct{ *ours }

func (*bareCall) name() string { return "bare" }

func (b *bareCall) work(ctx context.Context, c *counter) (func(), error) {
	connection := b.pool.Config().ConnConfig
	listener, err := pgx.ConnectConfig(ctx, connection)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, connection)
	if err != nil {
		return nil, err
	}
	var runner int64
	err = conn.QueryRow(ctx, `select pgtick.register('bare', '{default}', '{noop}', '1 hour')`).Scan(&runner)
	if err == nil {
		_, err = conn.Exec(ctx, `select pgtick.sleep($1, '1 hour')`, runner)
	}
	if err == nil {
		_, err = listener.Exec(ctx, `listen pgtick`)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := listener.WaitForNotification(ctx); err != nil {
				return
			}
			for b.one(ctx, conn, runner, c) {
			}
		}
	}()
	return func() {
		cancel()
		<-done
		_ = errors.Join(listener.Close(context.Background()), conn.Close(context.Background()))
	}, nil
}

// one claims and finishes a job, and says whether there was one.
func (b *bareCall) one(ctx context.Context, conn *pgx.Conn, runner int64, c *counter) bool {
	var id, fence, stamp int64
	err := conn.QueryRow(ctx, `select id, fence, (args->>'stamp')::bigint from pgtick.claim($1, '{default}', '{noop}', 1)`, runner).Scan(&id, &fence, &stamp)
	if err != nil {
		return false
	}
	c.started(stamp)
	_, err = conn.Exec(ctx, `select pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}')`, runner, id, fence)
	return err == nil
}
