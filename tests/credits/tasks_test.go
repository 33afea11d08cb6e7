package credits_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// everyChunk calls a chunk function until nothing is left, from several sessions at once, and adds up what the query says.
func (l *ledger) everyChunk(sessions int, query string, args ...any) (sum int64) {
	l.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range sessions {
		wg.Go(func() {
			for {
				counts, err := askOf[[]int64](l.Pool, query, args...)
				if err != nil {
					l.t.Errorf("%s: %v", query, err)
					return
				}
				mu.Lock()
				sum += counts[1]
				mu.Unlock()
				if counts[0] == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	return sum
}

func (l *ledger) manyUsers(n int, credits int64) {
	l.t.Helper()
	l.exec("select count(credits.open_account(gen_random_uuid(), case when g % 4 = 0 then 'premium' else 'standard' end)) from generate_series(1, $1::int) as g", n)
	l.exec("select count(credits.grant(a.user_id, $1, 'opening')) from credits.accounts as a", credits)
}

func TestCleanup_ReleasesEveryExpiredHoldOnce_WhoeverElseDoes(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(50, 100)
	l.exec("select count(credits.hold(a.user_id, 3, g * interval '1 minute', g::text)) from credits.accounts as a, generate_series(1, 20) as g")
	pgtest.Advance(t, l.DB, 15*time.Minute+time.Second)
	require.EqualValues(t, 50*15, l.everyChunk(4, "select array[c.seen, c.released] from credits.cleanup_chunk(null, null, 17) as c"))
	require.EqualValues(t, 50*15, one[int64](l, "select count(*) from credits.transactions where type = 'release' and notes = 'expired: released by cleanup'"))
	require.EqualValues(t, 50*15, one[int64](l, "select count(*) from credits.holds where status = 'expired' and reason = 'expired: released by cleanup'"))
	require.EqualValues(t, 50*5, one[int64](l, "select count(*) from credits.holds where status = 'open'"))
}

func TestCleanup_GoesOnFromItsPosition(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	for _, key := range []string{"a", "b", "c"} {
		l.hold(user, 1, "1 hour", key)
	}
	pgtest.Advance(t, l.DB, 2*time.Hour)
	require.Equal(t, "3 1 1 1", one[string](l, "select format('%s %s %s %s', todo, seen, released, credits) from credits.cleanup_chunk(null, null, 1)"))
	require.Equal(t, "- 2 2", one[string](l, `select format('%s %s %s', coalesce(c.todo::text, '-'), c.seen, c.released)
		from (select expires_at, id from credits.holds where status = 'expired') as h, credits.cleanup_chunk(h.expires_at, h.id, 10) as c`))
}

func TestAllocation_GivesEachTierItsCredits_OnceAMonth(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	pgtest.SetNow(t, l.DB, time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC))
	l.manyUsers(40, 1)
	pgtest.SetNow(t, l.DB, time.Date(2026, 7, 1, 0, 0, 1, 0, time.UTC))
	const allocate = "select array[c.allocated, c.credits::bigint] from credits.allocate_chunk($1::text::date, null, 20000) as c"
	require.Equal(t, []int64{40, 10*500 + 30*100}, one[[]int64](l, allocate, "2026-07-01"))
	require.Equal(t, []int64{0, 0}, one[[]int64](l, allocate, "2026-07-01"))
	require.Equal(t, []int64{0, 0}, one[[]int64](l, allocate, nil), "nil is this month")
	for _, missed := range []string{"2026-06-01", "2026-04-01", "2026-05-01"} {
		require.Equal(t, []int64{40, 8000}, one[[]int64](l, allocate, missed))
	}
	require.EqualValues(t, 4*40, one[int64](l, "select count(*) from credits.allocations"))
	require.EqualValues(t, 4*8000, one[int64](l, "select sum(amount)::bigint from credits.allocations"))
}

func TestAllocation_FromSeveralSessions_IsGivenOnce(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(300, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				due, err := askOf[int64](l.Pool, "select c.allocated + c.busy from credits.allocate_chunk(null, null, 20000) as c")
				if err != nil || due == 0 {
					if err != nil {
						t.Errorf("allocate: %v", err)
					}
					return
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 300, one[int64](l, "select count(*) from credits.allocations"))
}

func TestAllocation_OfTheMonthOfOpening_IsBySetting(t *testing.T) {
	t.Parallel()
	for setting, amount := range map[string]int64{"full": 500, "pro_rata": 500 * 10 / 30, "none": 0} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			l.exec("update credits.settings set value = $1 where name = 'allocation_for_new'", setting)
			// Late in the evening of the 21st in UTC: ten days are left, the 21st included, whatever the session's zone.
			pgtest.SetNow(t, l.DB, time.Date(2026, 4, 21, 23, 30, 0, 0, time.UTC))
			user := l.user("premium", 0)
			pgtest.SetNow(t, l.DB, time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC))
			for _, month := range []string{"2026-03-01", "2026-04-01", "2026-05-01"} {
				l.exec("set time zone 'Pacific/Auckland'; select credits.allocate_chunk('" + month + "', null, 100); set time zone 'UTC'")
			}
			require.Equal(t, amount+500, one[int64](l, "select balance from credits.accounts where user_id = $1", user))
			require.Zero(t, one[int64](l, "select count(*) from credits.allocations where period = '2026-03-01'"), "nothing for a month before it was opened")
		})
	}
}

func TestAllocation_ThatABalanceCanNotHold_IsPassedOver(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	rich, other := l.user("standard", 9223372036854775800), l.user("standard", 1)
	require.Equal(t, []int64{2, 1, 1}, one[[]int64](l, "select array[c.seen, c.allocated, c.overflowing] from credits.allocate_chunk(null, null, 100) as c"))
	l.requireBalance(rich, 9223372036854775800, 0)
	l.requireBalance(other, 101, 0)
}

func TestPending_IsDecidedByTypeAndAge(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	submit := func(kind string, amount int64, key string) int64 {
		return one[int64](l, "select credits.submit($1, $2, $3, $4)", user, kind, amount, key)
	}
	old := []int64{submit("addition", 10, "a"), submit("refund", 5, "b"), submit("deduction", 20, "c")}
	pgtest.Advance(t, l.DB, 12*time.Hour)
	young := submit("addition", 1000, "d")
	const resolve = "select array[c.seen, c.committed, c.reverted, c.failed, c.credits_added::bigint, c.credits_deducted::bigint] from credits.resolve_chunk(null, null, 100) as c"
	require.Equal(t, []int64{0, 0, 0, 0, 0, 0}, one[[]int64](l, resolve))
	pgtest.Advance(t, l.DB, 12*time.Hour)
	require.Equal(t, []int64{3, 2, 1, 0, 15, 0}, one[[]int64](l, resolve))
	l.requireBalance(user, 115, 0)
	require.Equal(t, []string{"COMPLETED: committed: pending for longer than 24:00:00", "COMPLETED: committed: pending for longer than 24:00:00",
		"FAILED: reverted: pending for longer than 24:00:00"},
		all[string](l, "select status || ': ' || notes from credits.transactions where id = any ($1) order by id", old))
	require.Equal(t, "PENDING", one[string](l, "select status from credits.transactions where id = $1", young))
}

func TestPending_ByTheRulesOfItsOwner(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.exec("update credits.pending_rules set action = 'commit', after = '1 hour' where type = 'deduction'; delete from credits.pending_rules where type = 'addition'")
	user := l.user("standard", 100)
	for i, amount := range []int64{60, 60, 40, 1} {
		l.exec("select credits.submit($1, 'deduction', $2, $3::int::text)", user, amount, i)
	}
	l.exec("select credits.submit($1, 'addition', 500, 'never')", user)
	pgtest.Advance(t, l.DB, 25*time.Hour)
	require.Equal(t, []int64{4, 2, 0, 2}, one[[]int64](l, "select array[c.seen, c.committed, c.reverted, c.failed] from credits.resolve_chunk(null, null, 100) as c"))
	require.Equal(t, []string{"COMPLETED", "FAILED: not enough credits: 60 needed, 40 available", "COMPLETED", "FAILED: not enough credits: 1 needed, 0 available", "PENDING"},
		all[string](l, "select status || coalesce(': ' || substring(notes, 'not enough.*'), '') from credits.transactions where type <> 'addition' or status = 'PENDING' order by id"))
	l.requireBalance(user, 0, 0)
}

func TestPending_FromSeveralSessions_IsDecidedOnce(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(30, 100)
	l.exec("select count(credits.submit(a.user_id, 'addition', 2, g::text)) from credits.accounts as a, generate_series(1, 10) as g")
	pgtest.Advance(t, l.DB, 25*time.Hour)
	require.EqualValues(t, 300, l.everyChunk(4, "select array[c.seen, c.committed] from credits.resolve_chunk(null, null, 23) as c"))
	require.EqualValues(t, 30*120, one[int64](l, "select sum(balance)::bigint from credits.accounts"))
}

func TestSync_CopiesEachCompletedEntryOnce(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(100, 100)
	l.exec("select count(credits.charge(a.user_id, 2, 'c', '/v1')) from credits.accounts as a")
	l.exec("select count(credits.submit(a.user_id, 'addition', 2, 'p')) from credits.accounts as a")
	require.EqualValues(t, 200, l.everyChunk(4, "select array[c.synced, c.synced] from credits.sync_chunk(null, 13) as c"))
	require.EqualValues(t, 200, one[int64](l, `select count(*) from analytics.credit_usage as u join credits.transactions as t
		on t.id = u.transaction_id and (t.user_id, t.type, t.amount, t.balance_after) = (u.user_id, u.type, u.amount, u.balance_after)
		where t.synced_to_supabase and t.synced_at = u.synced_at`))
	require.Equal(t, "0", one[string](l, "select synced::text from credits.sync_chunk(null, 100)"))
}

// What commits late has a lower id than what is synced already, and must not be passed over.
func TestSync_FindsWhatCommitsLate(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	early, late := l.user("standard", 100), l.user("standard", 100)
	ctx := context.Background()
	tx, err := l.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "select credits.charge($1, 1, 'c')", late)
	require.NoError(t, err)
	l.exec("select credits.charge($1, 1, 'c')", early)
	const sync = "select c.synced from credits.sync_chunk(null, 100) as c"
	require.EqualValues(t, 3, one[int64](l, sync))
	require.NoError(t, tx.Commit(ctx))
	require.EqualValues(t, 1, one[int64](l, sync))
}

func TestSync_RolledBack_LeavesNeitherCopyNorMark(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.user("standard", 100)
	ctx := context.Background()
	tx, err := l.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "select credits.sync_chunk(null, 100)")
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(ctx))
	require.EqualValues(t, 0, one[int64](l, "select count(*) from analytics.credit_usage"))
	require.EqualValues(t, 0, one[int64](l, "select count(*) from credits.transactions where synced_to_supabase"))
}

func TestDefaultSchedules_AreTheFourOfTheOriginal(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	require.Equal(t, []string{
		"cleanup-expired-credit-holds: 0 */3 * * * credits.cleanup_expired_credit_holds once 01:00:00",
		"periodic-credit-allocation: 0 0 1 * * credits.periodic_credit_allocation all 01:00:00",
		"process-pending-credit-transactions: */15 * * * * credits.process_pending_transactions once 01:00:00",
		"sync-credit-usage-with-supabase: */10 * * * * credits.sync_credit_usage_with_supabase once 01:00:00",
	}, all[string](l, "select format('%s: %s %s %s %s', name, cron, task, on_missed, timeout) from credits.default_schedules() order by name"))
}
