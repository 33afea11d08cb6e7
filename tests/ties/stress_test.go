package ties

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// seed is that of a random run. What sessions do at once is not repeated by it, but what each of them does is.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("PGTICK_SEED"); text != "" {
		parsed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		n = parsed
	}
	t.Logf("PGTICK_SEED=%d", n)
	return n
}

// amount is how much a random run does: "make ties-proof" all of it, "make test" a sample.
func amount(sample, full int) int {
	if os.Getenv("PGTICK_PROOF") == "full" {
		return full
	}
	return sample
}

// together runs f in n goroutines and returns the first error.
func together(n int, f func(i int) error) (first error) {
	var once sync.Once
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := f(i); err != nil {
				once.Do(func() { first = fmt.Errorf("session %d: %w", i, err) })
			}
		})
	}
	all.Wait()
	return first
}

// settle reports until the report is taken.
func settle(ctx context.Context, q asker, runnerID int64, c claim, outcome string) error {
	for {
		answer, err := report(ctx, q, runnerID, c, outcome)
		if err != nil || answer == "accepted" {
			return err
		}
		if answer == "refused" {
			return fmt.Errorf("the report on job %d was refused", c.id)
		}
	}
}

// Eight sessions end what jobs and a batch wait for in the same moment. Nothing stays behind; what a session could not do for another's lock,
// the next rescue() does, without its search of once a minute.
func TestFanIn_AllBlockersEndAtOnce_NothingStaysBlocked(t *testing.T) {
	t.Parallel()
	const sessions = 8
	db := pgtest.New(t)
	conns := make([]*pgx.Conn, sessions)
	for i := range conns {
		conns[i] = session(t, db)
	}
	r := register(t, db.Pool)
	byThemselves := 0
	for round := range amount(20, 1000) {
		id, callback, members := batch(t, db, sessions, "")
		waiting := []int64{callback}
		for range 3 {
			waiting = append(waiting, enqueue(t, db.Pool, "echo", after(members...)))
		}
		held := r.claim(t, db.Pool, sessions, "member")
		require.Len(t, held, sessions)
		begin := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			ended <- together(sessions, func(i int) error {
				<-begin
				return settle(t.Context(), conns[i], r.id, held[i], "done")
			})
		}()
		close(begin)
		require.NoError(t, <-ended)
		if one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where blocked_by is not null") == 0 {
			byThemselves++
		}
		rescue(t, db.Pool)
		claims := r.claim(t, db.Pool, 100)
		require.ElementsMatch(t, waiting, idsOf(claims), "round %d, batch %d", round, id)
		for _, c := range claims {
			r.finish(t, db.Pool, c, "done")
		}
	}
	require.Positive(t, byThemselves, "rescue() was needed each time")
	clean(t, db)
}

// crew is a number of workers that run jobs and write down when each run began and ended, as seen by the worker: after its claim, and
// before its report. Now and then one of them is killed.
type crew struct {
	t     *testing.T
	db    *pgtest.DB
	tasks []string
	most  int // jobs a claim
	until int // finished jobs
	seed  uint64
	kills bool
	check func(ctx context.Context, conn *pgx.Conn) error
}

func (c crew) run(workers int) {
	c.t.Helper()
	exec(c.t, c.db.Pool, "create unlogged table if not exists public.runs (runner bigint, job bigint, key text, limit_key text, began timestamptz default clock_timestamp(), ended timestamptz)")
	require.NoError(c.t, together(workers, c.work))
}

func (c crew) work(i int) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Minute)
	defer cancel()
	random := rand.New(rand.NewPCG(c.seed, uint64(i)))
	for {
		over, err := c.live(ctx, random)
		if over || !isCode(err, "57P01") && err != nil {
			return err
		}
	}
}

// live is one life of a worker: it ends when there is nothing more to do, or when it is killed.
func (c crew) live(ctx context.Context, random *rand.Rand) (over bool, err error) {
	conn, err := pgx.Connect(ctx, c.db.URL)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var id int64
	if err := conn.QueryRow(ctx, "select pgtick.register('r', '{default}', $1)", c.tasks).Scan(&id); err != nil {
		return false, err
	}
	defer func() { // what it held goes back
		_, wrong := c.db.Pool.Exec(context.WithoutCancel(ctx), "update public.runs set ended = clock_timestamp() where runner = $1 and ended is null", id)
		if wrong == nil {
			_, wrong = c.db.Pool.Exec(context.WithoutCancel(ctx), "select pgtick.leave($1)", id)
		}
		if wrong != nil {
			err = wrong
		}
	}()
	for {
		var finished int
		if err := conn.QueryRow(ctx, "select count(*) from pgtick.history where task = any ($1)", c.tasks).Scan(&finished); err != nil || finished >= c.until {
			return err == nil, err
		}
		if c.kills && random.IntN(25) == 0 {
			_, err := c.db.Pool.Exec(ctx, "select pg_terminate_backend($1)", conn.PgConn().PID())
			if err != nil {
				return false, err
			}
		}
		if err := c.turn(ctx, conn, id, random); err != nil {
			return false, err
		}
	}
}

func (c crew) turn(ctx context.Context, conn *pgx.Conn, id int64, random *rand.Rand) error {
	claims, err := tryClaim(ctx, conn, id, 1+random.IntN(c.most), c.tasks...)
	if err != nil {
		return err
	}
	if len(claims) == 0 || random.IntN(20) == 0 {
		if _, err := conn.Exec(ctx, "select pgtick.rescue()"); err != nil {
			return err
		}
	}
	if len(claims) == 0 {
		return nil
	}
	var ids, fences []int64
	var outcomes []string
	for _, c := range claims {
		ids, fences = append(ids, c.id), append(fences, c.fence)
		outcomes = append(outcomes, []string{"done", "done", "done", "done", "error", "snoozed", "failed"}[random.IntN(7)])
	}
	if _, err := conn.Exec(ctx, "insert into public.runs (runner, job, key, limit_key) select $1, j.id, j.sequence_key, j.limit_key from pgtick.live_jobs as j where j.id = any ($2)", id, ids); err != nil {
		return err
	}
	if c.check != nil {
		if err := c.check(ctx, conn); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, "update public.runs set ended = clock_timestamp() where runner = $1 and ended is null", id); err != nil {
		return err
	}
	for {
		var open bool
		err := conn.QueryRow(ctx, `select bool_or(f.accepted is null) from pgtick.finish($1, $2, $3, $4,
			p_retry_at => array_fill(pgtick.now(), array[cardinality($2::bigint[])])) as f`, id, ids, fences, outcomes).Scan(&open)
		if err != nil || !open {
			return err
		}
	}
}

// Jobs of fifty keys, run by four workers that fail, put off, die and leave: of each key one at a time, and in order.
func TestSequences_UnderWorkersThatFailAndDie_KeepTheirOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	keys, jobs := 50, amount(16, 200)
	exec(t, db.Pool, `select pgtick.enqueue_many('echo', array_fill('{}'::jsonb, array[$1::int * $2::int]), p_sequence_failure => 'skip', p_max_attempts => 3,
		p_sequence_keys => array(select 'key ' || k from generate_series(1, $2::int) as n, generate_series(1, $1::int) as k))`, keys, jobs)
	crew{t: t, db: db, tasks: []string{"echo"}, most: 20, until: keys * jobs, seed: seed(t), kills: true}.run(4)
	require.Empty(t, all[string](t, db.Pool, `select format('key %s: job %s began at %s, before job %s ended at %s', b.key, b.job, b.began, b.before, b.ended_before)
		from (select r.key, r.job, r.began, lag(r.job) over w as before, lag(r.ended) over w as ended_before from public.runs as r window w as (partition by r.key order by r.began)) as b
		where b.began < b.ended_before or b.job < b.before limit 5`))
	require.Equal(t, keys*jobs, one[int](t, db.Pool, "select count(distinct job) from public.runs"))
	require.Positive(t, one[int](t, db.Pool, "select count(*) from pgtick.history where state = 'failed'"))
	clean(t, db)
}

// Eight workers, a task of which five may run at once, and two of each of its keys.
func TestMaxRunning_UnderEightWorkers_IsNeverExceeded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "p_max_running => 5")
	limit(t, db.Pool, "p_max_running => 2, p_per_key => true")
	jobs := amount(250, 10000)
	add := func() {
		exec(t, db.Pool, `select pgtick.enqueue_many('limited', array_fill('{}'::jsonb, array[$1::int]), p_max_attempts => 3,
			p_limit_keys => array(select 'key ' || n % 4 from generate_series(1, $1::int) as n))`, jobs)
	}
	add()
	most := func() int {
		return one[int](t, db.Pool, `select max(n) from (select (select count(*) from public.runs as b where b.began <= a.began and b.ended > a.began) as n from public.runs as a) as x`)
	}
	workers := crew{t: t, db: db, tasks: []string{"limited"}, most: 6, until: jobs, seed: seed(t), kills: true, check: func(ctx context.Context, conn *pgx.Conn) error {
		var task, key int // in one snapshot
		err := conn.QueryRow(ctx, `select coalesce(sum(k.n), 0), coalesce(max(k.n), 0)
			from (select count(*) as n from pgtick.live_jobs as j where j.task = 'limited' and j.runner_id is not null group by j.limit_key) as k`).Scan(&task, &key)
		if err == nil && (task > 5 || key > 2) {
			err = fmt.Errorf("%d run, and %d of one key", task, key)
		}
		return err
	}}
	workers.run(8)
	for most() < 5 && workers.until < 10*jobs { // on a machine that is busy with other things they may not have met
		add()
		workers.until += jobs
		workers.run(8)
	}
	require.Equal(t, 5, most(), "all places were used, and no more")
	clean(t, db)
}
