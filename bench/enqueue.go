package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// clients enqueue at a time wherever somebody enqueues flat out.
const clients = 8

// enqueue is how many jobs are enqueued one by one, each in a transaction of its own, while nobody works.
func (b *bench) enqueue(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, append(c.peers(), c.inserts), func(p peer) error {
		made, err := b.flatOut(ctx, p)
		taken.add("enqueue", p.name(), made.rate())
		tell(p, "enqueue %8.0f jobs/s", made.rate())
		return err
	})
}

func (b *bench) flatOut(ctx context.Context, p peer) (made produced, err error) {
	if err := p.clear(ctx); err != nil {
		return made, err
	}
	made, err = p.produce(ctx, load{clients: clients, lasts: time.Duration(b.size.enqueue) * time.Second})
	if err != nil {
		return made, err
	}
	return made, allThere(ctx, p, made.jobs)
}

func allThere(ctx context.Context, p peer, jobs int) error {
	left, err := p.left(ctx)
	if err == nil && left != jobs {
		err = fmt.Errorf("%d jobs of %d are there", left, jobs)
	}
	return err
}

// enqueueBulk is how many are enqueued in batches. Of the bare ways the faster one counts.
func (b *bench) enqueueBulk(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, append(c.peers(), c.inserts), func(p peer) error {
		rate, err := b.inBulk(ctx, p, p.bulk)
		if err == nil && p == peer(c.inserts) {
			var other float64
			other, err = b.inBulk(ctx, p, c.inserts.copy)
			rate = max(rate, other)
		}
		taken.add("enqueue_bulk", p.name(), rate)
		tell(p, "enqueue_bulk %8.0f jobs/s", rate)
		return err
	})
}

func (b *bench) inBulk(ctx context.Context, p peer, enqueue func(context.Context, int) error) (rate float64, err error) {
	if err := errors.Join(p.clear(ctx), exec(ctx, b.sides.ours.pool, `checkpoint`)); err != nil {
		return 0, err
	}
	started := time.Now()
	if err := enqueue(ctx, b.size.jobs); err != nil {
		return 0, err
	}
	took := time.Since(started)
	return float64(b.size.jobs) / took.Seconds(), allThere(ctx, p, b.size.jobs)
}

// enqueueSleeping is the same where a runner sleeps that is slow to wake: until it says that it is awake, each enqueue must notify it.
func (b *bench) enqueueSleeping(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, []*ours{c.ours}, func(o *ours) error {
		s, err := o.fallAsleep(ctx)
		if err != nil {
			return err
		}
		made, err := b.flatOut(ctx, s)
		heard, problem := s.end()
		taken.add("enqueue_sleeping", o.name(), made.rate())
		taken.add("enqueue_notifications", o.name(), float64(heard))
		tell(o, "enqueue_sleeping %8.0f jobs/s, %d notifications", made.rate(), heard)
		return errors.Join(err, problem)
	})
}

// sleeper is a runner without an engine that sleeps, and wakes 20 ms after its first notification.
type sleeper struct {
	*ours
	runner int64
	conn   *pgx.Conn // listens
	heard  atomic.Int64
	cancel context.CancelFunc
	woken  chan error
	done   chan struct{}
}

// clear is left out: it would forget the runner.
func (s *sleeper) clear(context.Context) error { return nil }

func (o *ours) fallAsleep(ctx context.Context) (*sleeper, error) {
	if err := o.clear(ctx); err != nil {
		return nil, err
	}
	s := &sleeper{ours: o, woken: make(chan error, 1), done: make(chan struct{})}
	var err error
	if s.conn, err = pgx.ConnectConfig(ctx, o.pool.Config().ConnConfig); err != nil {
		return nil, err
	}
	if _, err := s.conn.Exec(ctx, `listen pgtick`); err != nil {
		return nil, err
	}
	if err := o.pool.QueryRow(ctx, `select pgtick.register('sleeper', '{default}', '{noop}')`).Scan(&s.runner); err != nil {
		return nil, err
	}
	if err := exec(ctx, o.pool, fmt.Sprintf(`select pgtick.sleep(%d, '1 hour')`, s.runner)); err != nil {
		return nil, err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	go s.listen(ctx)
	return s, nil
}

func (s *sleeper) listen(ctx context.Context) {
	defer close(s.done)
	for {
		if _, err := s.conn.WaitForNotification(ctx); err != nil {
			return
		}
		if s.heard.Add(1) == 1 {
			time.AfterFunc(20*time.Millisecond, func() {
				s.woken <- exec(ctx, s.pool, fmt.Sprintf(`select pgtick.awake(%d)`, s.runner))
			})
		}
	}
}

// end returns how many notifications came in all. They are sent at commit, so none is on its way any more.
func (s *sleeper) end() (heard int64, err error) {
	if s.heard.Load() == 0 {
		err = errors.New("the sleeping runner heard nothing")
	} else {
		err = <-s.woken
	}
	time.Sleep(100 * time.Millisecond)
	s.cancel()
	<-s.done
	s.conn.Close(context.Background())
	return s.heard.Load(), err
}
