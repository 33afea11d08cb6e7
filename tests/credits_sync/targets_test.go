package creditssync

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/credits"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestTarget_HasEachEntryOnce_AndNothingTheSecondTime(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, to target) {
		l := ledger(t, 10)
		h := &host{db: l}
		c, err := h.sync(t, to)
		require.NoError(t, err)
		require.Equal(t, counts{Synced: 40, Added: 1000, Deducted: 110}, c)
		require.Equal(t, "40 of 40", h.note)
		require.EqualValues(t, 40, one[int64](t, to.db, `select count(*) from analytics.credit_usage`))
		requireSame(t, l, to.db)
		require.Equal(t, counts{}, run(t, l, to))
		require.Zero(t, one[int64](t, l, `select count(*) from credits.violations`))
	})
}

// What is there already, as after a runner was killed, is not counted again, nor doubled; what is wrong there is put right.
func TestPostgres_CountsWhatWasReallyInserted(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 5), usage(t)
	h := &host{db: l, atCommit: func(n int) error {
		if n == 4 { // read, marked, read, and now the claim is gone
			return tasks.ErrFenced
		}
		return nil
	}}
	_, err := h.sync(t, credits.Postgres(there.Config(t)))
	require.ErrorIs(t, err, tasks.ErrFenced)
	require.EqualValues(t, 16, one[int64](t, there, `select count(*) from analytics.credit_usage`))
	require.EqualValues(t, 12, one[int64](t, l, unsynced))
	do(t, there, `update analytics.credit_usage set amount = 5 where transaction_id = (select max(transaction_id) from analytics.credit_usage)`)
	require.EqualValues(t, 4, run(t, l, credits.Postgres(there.Config(t))).Synced)
	requireSame(t, l, there)
}

func TestREST_FencedBeforeItsMark_LeavesItToTheNext(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 5), usage(t)
	to := newREST(t, there).target(t)
	h := &host{db: l, atCommit: func(n int) error { return map[bool]error{true: tasks.ErrFenced}[n == 2] }}
	_, err := h.sync(t, to)
	require.ErrorIs(t, err, tasks.ErrFenced)
	require.EqualValues(t, 8, one[int64](t, there, `select count(*) from analytics.credit_usage`))
	require.EqualValues(t, 20, one[int64](t, l, unsynced))
	require.EqualValues(t, 20, run(t, l, to).Synced)
	requireSame(t, l, there)
}

func TestTarget_TwoCopiesAtOnce_CountEachEntryOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, to target) {
		l := ledger(t, 50)
		var copies sync.WaitGroup
		var mu sync.Mutex
		var sum int64
		for range 3 {
			copies.Go(func() {
				c, err := (&host{db: l}).sync(t, to)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("sync: %v", err)
				}
				sum += c.Synced
			})
		}
		copies.Wait()
		require.EqualValues(t, 200, sum)
		requireSame(t, l, to.db)
	})
}

// What commits late has a lower id than what is synced already.
func TestTarget_GetsWhatCommitsLate(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, to target) {
		l := ledger(t, 2)
		ctx := context.Background()
		tx, err := l.Pool.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `select credits.charge('00000000-0000-4000-8000-000000000001', 1, 'late')`)
		require.NoError(t, err)
		do(t, l, `select credits.charge('00000000-0000-4000-8000-000000000002', 1, 'early')`)
		require.EqualValues(t, 9, run(t, l, to).Synced)
		require.NoError(t, tx.Commit(ctx))
		require.EqualValues(t, 1, run(t, l, to).Synced)
		requireSame(t, l, to.db)
	})
}

func TestPoisonedEntry_IsSetAside_AndHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, to target) {
		l := ledger(t, 10)
		bad := all[int64](t, l, `select id from credits.transactions where type = 'deduction' and user_id::text like '%3' or type = 'hold' and user_id::text like '%7' order by id`)
		require.Len(t, bad, 2)
		do(t, to.db, fmt.Sprintf(`alter table analytics.credit_usage add constraint no_poison check (transaction_id not in (%d, %d))`, bad[0], bad[1]))
		require.Equal(t, counts{Synced: 38, Refused: 2, Added: 1000, Deducted: 103}, run(t, l, to))
		requireSame(t, l, to.db, bad...)
		refusal := func(what string) string {
			return one[string](t, l, `select format('%s %s %s', `+what+`) from credits.sync_refusals where transaction_id = $1`, bad[0])
		}
		require.Equal(t, fmt.Sprintf("%d %s 1", bad[0], to), refusal("transaction_id, target, attempts"))
		require.Contains(t, refusal("reason, 0, 0"), "no_poison")
		require.Contains(t, refusal("reason, 0, 0"), "23514")

		require.Equal(t, counts{}, run(t, l, to), "passed over until somebody has looked")
		require.Equal(t, counts{}, run(t, l, credits.Local()), "by every target")
		require.EqualValues(t, 2, one[int64](t, l, `select credits.retry_refused()`))
		require.EqualValues(t, 0, one[int64](t, l, `select credits.retry_refused()`))
		require.Equal(t, counts{Refused: 2}, run(t, l, to), "refused again")
		require.Equal(t, fmt.Sprintf("%d %s 2", bad[0], to), refusal("transaction_id, target, attempts"))

		do(t, to.db, `alter table analytics.credit_usage drop constraint no_poison`)
		require.EqualValues(t, 2, one[int64](t, l, `select credits.retry_refused()`))
		require.Equal(t, counts{Synced: 2, Deducted: 7}, run(t, l, to))
		requireSame(t, l, to.db)
		require.Zero(t, one[int64](t, l, `select count(*) from credits.sync_refusals`), "nothing is left of it")
	})
}

func TestLocal_ForgetsARefusalToo(t *testing.T) {
	t.Parallel()
	l := ledger(t, 1)
	do(t, l, `select credits.set_aside(min(id), 'elsewhere', 'no') from credits.transactions`)
	require.EqualValues(t, 3, run(t, l, credits.Local()).Synced)
	do(t, l, `select credits.retry_refused()`)
	require.EqualValues(t, 1, run(t, l, credits.Local()).Synced)
	require.Zero(t, one[int64](t, l, `select count(*) from credits.sync_refusals`))
	requireSame(t, l, l)
}

// A target that takes nothing does not mean the entries.
func TestTarget_ThatRefusesEverything_IsAtFaultItself(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, to target) {
		l := ledger(t, 30)
		do(t, to.db, `alter table analytics.credit_usage add column tenant text not null`)
		h := &host{db: l}
		registry := tasks.NewRegistry()
		credits.RegisterTo(registry, to)
		task, _ := registry.Lookup(credits.Sync)
		err := task.Run(context.Background(), tasks.Call{Args: []byte(`{}`), Handle: tasks.NewHandle(h)})
		require.ErrorContains(t, err, "has refused 100 entries and taken none")
		require.ErrorContains(t, err, "tenant")
		require.Zero(t, one[int64](t, l, setAside))
		require.EqualValues(t, 120, one[int64](t, l, unsynced))
	})
}

func TestREST_NotNow_IsSentAgain_AndNotBeforeItMay(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 5), usage(t)
	r := newREST(t, there)
	var notBefore time.Time
	early := 0
	r.instead = func(n int, w http.ResponseWriter) bool {
		if time.Now().Before(notBefore) {
			early++
		}
		switch n {
		case 1: // seconds
			notBefore = time.Now().Add(time.Second)
			w.Header().Set("Retry-After", "1")
			complain(w, 429, "", "too many requests")
		case 2: // a date has no fractions
			notBefore = time.Now().Add(2 * time.Second).Truncate(time.Second)
			w.Header().Set("Retry-After", notBefore.UTC().Format(http.TimeFormat))
			w.WriteHeader(503)
		case 3: // no word of when
			complain(w, 500, "40001", "could not serialize access")
		default:
			return false
		}
		return true
	}
	require.EqualValues(t, 20, run(t, l, r.target(t)).Synced)
	require.Zero(t, early)
	require.Equal(t, 6, r.requests)
	requireSame(t, l, there)
}

func TestREST_ThatStaysBusy_FailsTheAttempt_AndSetsNothingAside(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 5), usage(t)
	r := newREST(t, there)
	r.instead = func(_ int, w http.ResponseWriter) bool {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprint(w, "<html>back soon, "+serviceKey+"</html>")
		return true
	}
	_, err := (&host{db: l}).sync(t, r.target(t))
	require.ErrorContains(t, err, "still answers 503 <html>back soon, …</html> after 5 requests")
	var permanent *tasks.PermanentError
	require.False(t, errors.As(err, &permanent), "another attempt may do better")
	require.Zero(t, one[int64](t, l, setAside))
	require.EqualValues(t, 20, one[int64](t, l, unsynced))
}

// PostgREST itself reads no compressed bodies.
func TestREST_WithoutGzip_GetsThemPlain(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 5), usage(t)
	r := newREST(t, there)
	r.plain = true
	require.EqualValues(t, 20, run(t, l, r.target(t)).Synced)
	require.Equal(t, 4, r.requests, "one to find out, three chunks")
	requireSame(t, l, there)
}

func TestREST_AtFault_SaysWhatToDo_WithoutTheKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  string
		instead func(int, http.ResponseWriter) bool
		says    string
	}{
		"wrong key": {instead: func(_ int, w http.ResponseWriter) bool {
			complain(w, 401, "PGRST301", "wrong key: "+serviceKey)
			return true
		}, says: "refuses access: check PGTICK_SYNC_KEY, and the rights of service_role on analytics.credit_usage (401 PGRST301 wrong key: …)"},
		"no table":      {change: `drop table analytics.credit_usage`, says: "shows no table analytics.credit_usage: create it there and expose its schema, as docs/credits-sync.md shows (404 42P01"},
		"another table": {change: `alter table analytics.credit_usage drop constraint credit_usage_pkey`, says: "compare its analytics.credit_usage with docs/credits-sync.md (400 42P10"},
		"another server": {instead: func(_ int, w http.ResponseWriter) bool {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(307)
			return true
		}, says: "redirects elsewhere (307)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, there := ledger(t, 3), usage(t)
			r := newREST(t, there)
			r.instead = c.instead
			if c.change != "" {
				do(t, there, c.change)
			}
			said := fault(t, l, r.target(t))
			require.Contains(t, said, c.says)
			require.NotContains(t, said, serviceKey)
			require.Equal(t, 1, r.requests, "it is not asked again, nor by halves")
		})
	}
}

func TestPostgres_AtFault_SaysWhatToDo(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 3), usage(t)
	do(t, there, `alter table analytics.credit_usage drop column period`)
	require.Contains(t, fault(t, l, credits.Postgres(there.Config(t))), "has another table analytics.credit_usage than the one that docs/credits-sync.md shows")
	do(t, there, `drop schema analytics cascade`)
	require.Contains(t, fault(t, l, credits.Postgres(there.Config(t))), "has no table analytics.credit_usage: create it there, as docs/credits-sync.md shows")
	do(t, there, tableOfDocs(t)+`; grant usage on schema analytics to pgtick_runner`)
	cfg, err := pgx.ParseConfig(pgtest.RunnerURL(t, there))
	require.NoError(t, err)
	require.Contains(t, fault(t, l, credits.Postgres(cfg)), "gives this login no right to analytics.credit_usage: grant select, insert and update")
	nobody, err := pgx.ParseConfig("postgres://reporting:hunter2@127.0.0.1:1/reports")
	require.NoError(t, err)
	_, err = (&host{db: l}).sync(t, credits.Postgres(nobody))
	require.ErrorContains(t, err, "sync target postgres://127.0.0.1:1/reports can't be reached")
	require.NotContains(t, err.Error(), "hunter2")
}

// The runner's role does what the sync needs, and no more; who lets entries go again is the service role.
func TestRights_OfTheSync(t *testing.T) {
	t.Parallel()
	l := ledger(t, 1)
	conn, err := pgx.Connect(t.Context(), pgtest.RunnerURL(t, l))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	for _, allowed := range []string{
		`select credits.unsynced_count()`, `select credits.unsynced_chunk(null, 5)`, `select credits.mark_synced('{1}')`, `select credits.set_aside(2, 'there', 'no')`,
	} {
		_, err := conn.Exec(t.Context(), allowed)
		require.NoError(t, err, allowed)
	}
	require.EqualValues(t, 1, one[int64](t, l, setAside))
	for _, forbidden := range []string{`select credits.retry_refused()`, `select * from credits.sync_refusals`, `delete from credits.sync_refusals`, `select * from analytics.credit_usage_by_day`} {
		_, err := conn.Exec(t.Context(), forbidden)
		var pg *pgconn.PgError
		require.ErrorAs(t, err, &pg, forbidden)
		require.Equal(t, "42501", pg.Code, forbidden)
	}
}

func TestMarksAndRefusals_AreForCompletedEntriesAlone(t *testing.T) {
	t.Parallel()
	l := ledger(t, 1)
	pending := one[int64](t, l, `select id from credits.transactions where status = 'PENDING'`)
	require.Empty(t, all[int64](t, l, `select credits.mark_synced(array[$1::bigint, 999999])`, pending))
	do(t, l, `select credits.set_aside($1, 'there', 'no'), credits.set_aside(999999, 'there', 'no')`, pending)
	require.Zero(t, one[int64](t, l, setAside))
	require.Equal(t, []int64{1}, all[int64](t, l, `select credits.mark_synced('{1}')`))
	require.Empty(t, all[int64](t, l, `select credits.mark_synced('{1}')`), "once")
	do(t, l, `select credits.set_aside(1, 'there', 'no')`)
	require.Zero(t, one[int64](t, l, setAside))
	for _, bad := range []string{`select credits.set_aside(2, '', 'no')`, `select credits.set_aside(2, null, 'no')`, `select credits.set_aside(2, repeat('x', 501), 'no')`,
		`select credits.set_aside(2, 'there', null)`, `select credits.set_aside(2, 'there', '')`, `select credits.set_aside(2, 'there', repeat('x', 4001))`, `select credits.unsynced_chunk(null, 0)`} {
		_, err := l.Pool.Exec(t.Context(), bad)
		var pg *pgconn.PgError
		require.ErrorAs(t, err, &pg, bad)
		require.Equal(t, "TK100", pg.Code, bad)
	}
}
