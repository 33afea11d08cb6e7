package ties

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// world is what the sessions of a random run know together.
type world struct {
	mu      sync.Mutex
	jobs    []int64
	batches []int64
	retried []int64
}

func (w *world) add(list *[]int64, id int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*list = append(*list, id)
}

// some returns up to n of the latest twenty, or nothing.
func (w *world) some(random *rand.Rand, list *[]int64, n int) []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	latest := slices.Clone((*list)[max(0, len(*list)-20):])
	random.Shuffle(len(latest), func(i, j int) { latest[i], latest[j] = latest[j], latest[i] })
	return latest[:min(n, len(latest))]
}

// actor is a session that does at random what applications, workers and people do.
type actor struct {
	*world
	conn   *pgx.Conn
	random *rand.Rand
	runner int64
	held   []claim
}

// expected are the refusals that are right in some state of affairs; 40P01 may come where a transaction does several things.
var expected = []string{"TK001", "TK004", "TK005", "TK008", "TK021", "40P01"}

func (a *actor) step(ctx context.Context) error {
	var err error
	switch n := a.random.IntN(100); {
	case n < 35:
		err = a.enqueue(ctx)
	case n < 45:
		err = a.transaction(ctx)
	case n < 60:
		err = a.claim(ctx)
	case n < 85:
		err = a.report(ctx)
	case n < 88:
		err = a.call(ctx, "select pgtick.cancel($1)", &a.jobs)
	case n < 92:
		ids := a.some(a.random, &a.jobs, 1)
		for _, id := range ids {
			a.add(&a.retried, id)
		}
		_, err = a.conn.Exec(ctx, "select pgtick.retry(i) from unnest($1::bigint[]) as i", ids)
	case n < 94:
		_, err = a.conn.Exec(ctx, "select pgtick.resume_sequence('key ' || $1::int)", a.random.IntN(4))
	case n < 95:
		_, err = a.conn.Exec(ctx, "select pgtick.cancel_where(jsonb_build_object('sequence_key', 'key ' || $1::int))", a.random.IntN(4))
	case n < 97:
		_, err = a.conn.Exec(ctx, "delete from pgtick.upkeep where what = 'ties'")
	case n < 98:
		err = a.anew(ctx)
	default:
		_, err = a.conn.Exec(ctx, "select pgtick.rescue()")
	}
	if isCode(err, expected...) {
		return nil
	}
	return err
}

func (a *actor) call(ctx context.Context, sql string, list *[]int64) error {
	for _, id := range a.some(a.random, list, 1) {
		if _, err := a.conn.Exec(ctx, sql, id); err != nil {
			return err
		}
	}
	return nil
}

func (a *actor) enqueue(ctx context.Context) error {
	var afterJobs []int64
	var sequenceKey, limitKey, uniqueKey *int
	var batchID *int64
	for _, id := range a.some(a.random, &a.batches, a.random.IntN(3)/2) {
		batchID = &id
	}
	if a.random.IntN(2) == 0 {
		afterJobs = a.some(a.random, &a.jobs, 1+a.random.IntN(3))
	}
	for _, key := range []**int{&sequenceKey, &limitKey, &uniqueKey} {
		if n := a.random.IntN(12); n < 4 {
			*key = &n
		}
	}
	var id int64
	err := a.conn.QueryRow(ctx, `select pgtick.enqueue(case when $1::int is null then 'echo' else 'limited' end, p_limit_key => 'key ' || $1::int, p_sequence_key => 'key ' || $2::int,
		p_unique_key => 'key ' || $3::int, p_after => $4::bigint[], p_batch_id => $5::bigint, p_after_outcome => $6, p_sequence_failure => $7, p_priority => $8, p_max_attempts => 3)`,
		limitKey, sequenceKey, uniqueKey, afterJobs, batchID, []string{"done", "any"}[a.random.IntN(2)], []string{"stop", "skip"}[a.random.IntN(2)], a.random.IntN(10)).Scan(&id)
	if err == nil {
		a.add(&a.jobs, id)
	}
	return err
}

// transaction does a few things that take effect together, or not at all.
func (a *actor) transaction(ctx context.Context) error {
	if _, err := a.conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	var id, job int64
	err := a.conn.QueryRow(ctx, "select pgtick.create_batch('callback', p_outcome => $1)", []string{"done", "any"}[a.random.IntN(2)]).Scan(&id)
	if err == nil {
		err = a.conn.QueryRow(ctx, "select job_id from pgtick.batch_defs where id = $1", id).Scan(&job)
	}
	if err == nil && a.random.IntN(4) > 0 {
		_, err = a.conn.Exec(ctx, "select pgtick.enqueue_many('member', array_fill('{}'::jsonb, array[$1::int]), p_batch_id => $2)", 1+a.random.IntN(4), id)
	}
	for range a.random.IntN(3) {
		if err == nil {
			err = a.enqueue(ctx)
		}
	}
	if err != nil || a.random.IntN(4) == 0 {
		_, undo := a.conn.Exec(ctx, "rollback")
		return errors.Join(err, undo)
	}
	if _, err := a.conn.Exec(ctx, "commit"); err != nil {
		return err
	}
	a.add(&a.batches, id)
	a.add(&a.jobs, job)
	return nil
}

func (a *actor) claim(ctx context.Context) error {
	claims, err := tryClaim(ctx, a.conn, a.runner, 1+a.random.IntN(8))
	a.held = append(a.held, claims...)
	return err
}

func (a *actor) report(ctx context.Context) error {
	if len(a.held) == 0 {
		return nil
	}
	i := a.random.IntN(len(a.held))
	c := a.held[i]
	a.held = slices.Delete(a.held, i, i+1)
	if n := a.random.IntN(10); n < 2 {
		_, err := a.conn.Exec(ctx, "select pgtick.wait_for($1, $2, $3, $4)", c.id, c.fence, append([]int64{}, a.some(a.random, &a.jobs, a.random.IntN(3))...), []string{"done", "any"}[n])
		if err != nil {
			a.held = append(a.held, c)
		}
		return err
	} else if n < 4 {
		_, err := a.conn.Exec(ctx, "select pgtick.finish_in_transaction($1, $2)", c.id, c.fence)
		if err != nil {
			a.held = append(a.held, c)
		}
		return err
	}
	return settle(ctx, a.conn, a.runner, c, []string{"done", "done", "done", "failed", "error", "snoozed", "released", "cancelled"}[a.random.IntN(8)])
}

// anew leaves, and comes back as another runner.
func (a *actor) anew(ctx context.Context) error {
	a.held = nil
	if _, err := a.conn.Exec(ctx, "select pgtick.leave($1)", a.runner); err != nil {
		return err
	}
	return a.conn.QueryRow(ctx, "select pgtick.register('r', '{default}', $1)", everyTask).Scan(&a.runner)
}

// Six sessions do all of it at random, with each other in the way. Whatever they did: in the end nothing is blocked for ever, nothing ran before
// what it waited for had ended, and of each sequence one ran at a time.
func TestModel_WhateverIsDoneAtOnce_EveryJobComesToItsEnd(t *testing.T) {
	t.Parallel()
	const sessions = 6
	db := pgtest.New(t)
	db.Quiet(t)
	limit(t, db.Pool, "p_max_running => 3")
	limit(t, db.Pool, "p_max_running => 1, p_per_key => true")
	w, n := &world{}, seed(t)
	actors := make([]*actor, sessions)
	for i := range actors {
		actors[i] = &actor{world: w, conn: session(t, db), random: rand.New(rand.NewPCG(n, uint64(i))), runner: register(t, db.Pool).id}
	}
	require.NoError(t, together(sessions, func(i int) error {
		for range amount(150, 10000) {
			if err := actors[i].step(t.Context()); err != nil {
				return err
			}
		}
		return actors[i].anew(t.Context())
	}))
	drain(t, db)
	clean(t, db)
	w.requireOrder(t, db)
}

// drain runs what there is until nothing is left; only what people would have to do, resume a sequence, is done for them.
func drain(t *testing.T, db *pgtest.DB) {
	t.Helper()
	r := register(t, db.Pool)
	idle := 0
	for one[int](t, db.Pool, "select count(*) from pgtick.live_jobs") > 0 {
		claims := r.claim(t, db.Pool, 50)
		for _, c := range claims {
			require.NoError(t, settle(t.Context(), db.Pool, r.id, c, "done"))
		}
		exec(t, db.Pool, "select pgtick.resume_sequence(key) from pgtick.sequence_stops")
		rescue(t, db.Pool)
		if len(claims) > 0 {
			idle = 0
			continue
		}
		idle++
		require.Less(t, idle, 20, "stuck: %v", all[string](t, db.Pool, `select format('job %s %s %s, blocked by %s, waits for %s, after %s, sequence %s, batch %s, limit %s', j.id, j.task, j.state, j.blocked_by,
			array(select on_job_id from pgtick.job_links as l where l.job_id = j.id), j.after, j.sequence_key, j.batch_id, j.limit_key) from pgtick.jobs as j where j.state in ('ready', 'running')
			union all select u::text from pgtick.unsettled as u union all select s::text from pgtick.sequences as s union all select p::text from pgtick.limit_places as p`))
	}
}

// requireOrder reads the history. Jobs that were retried by hand are left out where that may change the order.
func (w *world) requireOrder(t *testing.T, db *pgtest.DB) {
	t.Helper()
	require.Empty(t, all[string](t, db.Pool, `select format('sequence %s: job %s ran from %s to %s, and job %s from %s', a.key, a.id, a.began, a.ended, b.id, b.began)
		from (select j.sequence_key as key, j.id, x.started_at as began, x.finished_at as ended, lead(x.started_at) over w as next_began, lead(j.id) over w as next_id
			from pgtick.jobs as j join pgtick.attempts as x on x.job_id = j.id where j.sequence_key is not null window w as (partition by j.sequence_key order by x.started_at, x.finished_at)) as a,
		lateral (select a.next_id as id, a.next_began as began) as b where b.began < a.ended limit 5`), "two of a sequence at once")
	require.Empty(t, all[string](t, db.Pool, `select format('job %s began at %s, and job %s, for which it waited, ended at %s as %s', x.id, x.started_at, b.id, b.finished_at, b.state)
		from pgtick.history as x cross join unnest(x.after_jobs) as a(id) join pgtick.history as b on b.id = a.id
		where x.id <> all ($1) and b.id <> all ($1) and x.started_at < b.finished_at limit 5`, w.retried), "before what it waited for")
	require.Empty(t, all[string](t, db.Pool, `select format('job %s is done, and job %s, which had to be, is %s', x.id, b.id, b.state)
		from pgtick.history as x cross join unnest(x.after_jobs) as a(id) join pgtick.history as b on b.id = a.id
		where x.id <> all ($1) and b.id <> all ($1) and x.state = 'done' and not x.after_any and b.state <> 'done'
		  and not coalesce(x.earlier_attempts, '[]') @> '[{"outcome": "waiting"}]' limit 5`, w.retried))
	require.Empty(t, all[string](t, db.Pool, `select format('callback %s of batch %s began at %s, and job %s ended at %s', c.id, b.id, c.started_at, m.id, m.finished_at)
		from pgtick.batch_defs as b join pgtick.history as c on c.id = b.job_id join pgtick.history as m on m.batch_id = b.id
		where c.id <> all ($1) and m.id <> all ($1) and c.started_at < m.finished_at limit 5`, w.retried), "before the end of its batch")
	require.Positive(t, one[int](t, db.Pool, "select count(*) from pgtick.history where state = 'done' and after_jobs is not null"))
}
