package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgtick/pgtick/tasks"
)

// warmUp is cut off: the runner's first ticks find nothing of theirs in any cache.
const warmUp = 5 * time.Second

// starts are, by slot, when the last of its jobs reached its task's first line.
type starts struct {
	mu   sync.Mutex
	late map[time.Time]time.Duration
}

func (s *starts) note(slot time.Time) {
	late := time.Since(slot)
	s.mu.Lock()
	s.late[slot] = max(s.late[slot], late)
	s.mu.Unlock()
}

// lateness is how long after their time slots are recorded, and their jobs started, by a runner that has nothing else to do. Slots of one
// moment share a tick, so they are one sample, the latest of them. The bare side is a timer and a round trip, at the half seconds between.
func (b *bench) lateness(ctx context.Context, taken samples) error {
	s, err := b.punctual(ctx, "punctual")
	if err != nil {
		return err
	}
	defer s.pool.Close()
	seen := starts{late: map[time.Time]time.Duration{}}
	stop, err := s.watch(ctx, &seen, &counter{})
	if err != nil {
		return err
	}
	begin := time.Now()
	bare, err := s.halfSeconds(ctx, warmUp+time.Duration(b.size.seconds)*time.Second)
	end := time.Now()
	time.Sleep(2 * time.Second) // for the jobs of the last slots
	stop()
	if err != nil {
		return err
	}
	begin = begin.Add(warmUp)
	late, err := s.recorded(ctx, begin, end)
	if err != nil {
		return err
	}
	var started []time.Duration
	for slot := range late {
		took, ok := seen.late[slot.UTC()]
		if !ok {
			return fmt.Errorf("no job of slot %s has started", slot)
		}
		started = append(started, took)
	}
	p50, p99 := quantiles(values(late))
	taken.add("slot_lateness_p50", "pgtick", p50)
	taken.add("slot_lateness_p99", "pgtick", p99)
	_, p99 = quantiles(started)
	taken.add("job_start_p99", "pgtick", p99)
	p50, p99 = quantiles(bare)
	taken.add("slot_lateness_p50", "bare", p50)
	taken.add("slot_lateness_p99", "bare", p99)
	return nil
}

// busyLateness is the same of a runner that has a backlog to work through on the same connection, as fast as it can.
func (b *bench) busyLateness(ctx context.Context, taken samples) error {
	s, err := b.punctual(ctx, "busy")
	if err != nil {
		return err
	}
	defer s.pool.Close()
	var all []time.Duration
	for range b.size.runs {
		if err := errors.Join(s.clear(ctx), (&ours{pool: s.pool}).fill(ctx, b.size.backlog)); err != nil {
			return err
		}
		var done counter
		begin := time.Now().Add(2 * time.Second)
		stop, err := s.watch(ctx, &starts{late: map[time.Time]time.Duration{}}, &done)
		if err != nil {
			return err
		}
		err = until(ctx, 5*time.Minute, func() (bool, error) { return done.done.Load() >= int64(b.size.backlog), nil })
		end := time.Now()
		stop()
		if err != nil {
			return err
		}
		late, err := s.recorded(ctx, begin, end.Add(-time.Second))
		if err != nil {
			return err
		}
		all = append(all, values(late)...)
	}
	_, p99 := quantiles(all)
	taken.add("slot_lateness_busy_p99", "pgtick", p99)
	return nil
}

// punctual is a store on the real clock with 50 schedules of each second and 20 of each seventh.
func (b *bench) punctual(ctx context.Context, name string) (*store, error) {
	s, err := b.store(ctx, name)
	if err != nil {
		return nil, err
	}
	return s, exec(ctx, s.pool,
		`select pgtick.schedule('1s ' || i, '@every 1s', 'punctual', p_on_overlap => 'allow') from generate_series(1, 50) as i`,
		`select pgtick.schedule('7s ' || i, '@every 7s', 'punctual', p_on_overlap => 'allow') from generate_series(1, 20) as i`)
}

func (s *store) watch(ctx context.Context, seen *starts, done *counter) (stop func(), err error) {
	registry := tasks.NewRegistry()
	tasks.Register(registry, "punctual", func(_ context.Context, job *tasks.Job[json.RawMessage]) error {
		seen.note(job.Slot.UTC())
		return nil
	})
	tasks.Register(registry, "noop", func(_ context.Context, job *tasks.Job[args]) error {
		done.started(job.Args.Stamp)
		return nil
	})
	return (&ours{pool: s.pool}).run(ctx, registry)
}

// recorded returns, for each second, how late the last of its slots was recorded, and fails where a slot of any is missing.
func (s *store) recorded(ctx context.Context, begin, end time.Time) (map[time.Time]time.Duration, error) {
	rows, err := s.pool.Query(ctx, `select slot, count(*), max(recorded_at) from pgtick.slots where slot > $1 and slot <= $2 group by slot`, begin, end)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	late := map[time.Time]time.Duration{}
	for rows.Next() {
		var slot, at time.Time
		var slots int
		if err := rows.Scan(&slot, &slots, &at); err != nil {
			return nil, err
		}
		want := 50
		if slot.Unix()%7 == 0 {
			want += 20
		}
		if slots != want {
			return nil, fmt.Errorf("%d slots at %s, not %d", slots, slot, want)
		}
		late[slot] = at.Sub(slot)
	}
	if want := int(end.Unix() - begin.Unix()); len(late) != want {
		return nil, fmt.Errorf("slots at %d seconds, not at %d", len(late), want)
	}
	return late, rows.Err()
}

// halfSeconds waits for each half second and asks the server what time it is.
func (s *store) halfSeconds(ctx context.Context, lasts time.Duration) ([]time.Duration, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	var late []time.Duration
	for begin := time.Now(); time.Since(begin) < lasts; {
		at := time.Now().Truncate(time.Second).Add(1500 * time.Millisecond)
		time.Sleep(time.Until(at))
		asked, err := askTime(ctx, conn)
		if err != nil {
			return nil, err
		}
		if time.Since(begin) > warmUp {
			late = append(late, asked.Sub(at))
		}
	}
	return late, nil
}

func askTime(ctx context.Context, conn *pgxpool.Conn) (at time.Time, err error) {
	err = conn.QueryRow(ctx, `select clock_timestamp()`).Scan(&at)
	return at, err
}

func values(late map[time.Time]time.Duration) []time.Duration {
	var all []time.Duration
	for _, d := range late {
		all = append(all, d)
	}
	return all
}
