package credits_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestRefund_GivesBackAtMostWhatWasTaken(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	charge := one[int64](l, "select credits.charge($1, 30, 'c')", user)
	part := one[int64](l, "select credits.refund($1, 'r1', 10, 'half a page', 'ticket 7')", charge)
	l.requireBalance(user, 80, 0)
	require.Equal(t, "refund 10 half a page ticket 7", one[string](l, "select format('%s %s %s %s', type, amount, description, reference_id) from credits.transactions where id = $1 and related_id = $2", part, charge))
	require.Contains(t, l.refusal("TK100", "select credits.refund($1, 'r2', 21)", charge).Message, "20 of 30")
	rest := one[int64](l, "select credits.refund($1, 'r2')", charge)
	l.requireBalance(user, 100, 0)
	l.refused("TK107", "select credits.refund($1, 'r3')", charge)
	require.Equal(t, rest, one[int64](l, "select credits.refund($1, 'r2')", charge), "the same request again, when nothing is left")
	l.refused("TK105", "select credits.refund($1, 'r2', 20)", charge)
	require.EqualValues(t, 4, l.entries(user))
}

func TestRefund_OfACapture(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	capture := one[int64](l, "select credits.capture($1, 25)", l.hold(user, 40, "1 hour", "h"))
	l.exec("select credits.refund($1, 'r')", capture)
	l.requireBalance(user, 100, 0)
}

func TestRefund_OfWhatTookNothing_IsRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.hold(user, 10, "1 hour", "h")
	pending := one[int64](l, "select credits.submit($1, 'deduction', 5, 'p')", user)
	for _, kind := range []string{"addition", "hold"} {
		l.refused("TK107", "select credits.refund((select id from credits.transactions where user_id = $1 and type = $2), 'r')", user, kind)
	}
	require.Contains(t, l.refusal("TK107", "select credits.refund($1, 'r')", pending).Message, "PENDING")
	require.Contains(t, l.refusal("TK107", "select credits.refund(404, 'r')").Message, "404")
	l.refused("TK107", "select credits.refund(null, 'r')")
	require.EqualValues(t, 3, l.entries(user))
}

func TestRefund_FromSeveralSessions_GivesBackOnce(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	charge := one[int64](l, "select credits.charge($1, 30, 'c')", user)
	errs := make(chan error)
	for _, key := range []string{"r1", "r2", "r3", "r4"} {
		go func() {
			_, err := askOf[int64](l.Pool, "select credits.refund($1, $2, 20)", charge, key)
			errs <- err
		}()
	}
	refused := 0
	for range 4 {
		if err := <-errs; err != nil {
			requireCode(t, "TK100", err)
			refused++
		}
	}
	require.Equal(t, 3, refused)
	l.requireBalance(user, 90, 0)
}

func TestAdjust_GoesBothWays_DownToWhatIsAvailable(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.hold(user, 40, "1 hour", "h")
	up := one[int64](l, "select credits.adjust($1, 5, 'counted twice', 'a')", user)
	require.Equal(t, "counted twice", one[string](l, "select description from credits.transactions where id = $1", up))
	l.exec("select credits.adjust($1, -65, 'fraud', 'b', 'case 9')", user)
	l.requireBalance(user, 40, 40)
	l.refused("TK101", "select credits.adjust($1, -1, 'more', 'c')", user)
	require.Equal(t, up, one[int64](l, "select credits.adjust($1, 5, 'counted twice', 'a')", user))
	l.refused("TK105", "select credits.adjust($1, 5, 'counted thrice', 'a')", user)
}

func TestTransfer_MovesCreditsInTwoEntriesThatNameEachOther(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	from, to := l.user("standard", 100), l.user("standard", 10)
	for range 2 { // the second time it is there already
		out := one[int64](l, "select credits.transfer($1, $2, 30, 'k', 'for lunch', 'ref')", from, to)
		require.Equal(t, []string{"transfer_out -30 for lunch ref", "transfer_in 30 for lunch ref"}, all[string](l, `
			select format('%s %s %s %s', t.type, t.amount, t.description, t.reference_id) from credits.transactions as t
			join credits.transactions as o on o.id = t.related_id and o.related_id = t.id where $1 in (t.id, o.id) order by t.amount`, out))
		l.requireBalance(from, 70, 0)
		l.requireBalance(to, 40, 0)
	}
	l.refused("TK105", "select credits.transfer($1, $2, 31, 'k', 'for lunch', 'ref')", from, to)
	l.refused("TK101", "select credits.transfer($1, $2, 71, 'l')", from, to)
	l.exec("select credits.transfer($2, $1, 5, 'k')", from, to) // a key is the giver's own
	l.requireBalance(from, 75, 0)
}

func TestTransfer_ToOneselfOrNobody_IsRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.refused("TK100", "select credits.transfer($1, $1, 1, 'k')", user)
	l.refused("TK100", "select credits.transfer($1, null, 1, 'k')", user)
	l.refused("TK102", "select credits.transfer($1, gen_random_uuid(), 1, 'k')", user)
	l.refused("TK102", "select credits.transfer(gen_random_uuid(), $1, 1, 'k')", user)
	l.requireBalance(user, 100, 0)
}

func TestTransfer_ReleasesTheGiversExpiredHoldsWhenTheyAreNeeded(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	from, to := l.user("standard", 100), l.user("standard", 0)
	l.hold(from, 80, "1 second", "h")
	pgtest.Advance(t, l.DB, time.Minute)
	l.exec("select credits.transfer($1, $2, 100, 'k')", from, to)
	l.requireBalance(from, 0, 0)
	l.requireBalance(to, 100, 0)
}

func TestTransfer_InBothDirectionsAtOnce_NeverDeadlocks(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	a, b := l.user("standard", 1000), l.user("standard", 1000)
	errs := make(chan error)
	for _, pair := range [][2]string{{a, b}, {b, a}, {a, b}, {b, a}} {
		go func() {
			_, err := askOf[int64](l.Pool, "select count(credits.transfer($1, $2, 1, gen_random_uuid()::text)) from generate_series(1, 100)", pair[0], pair[1])
			errs <- err
		}()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
	l.requireBalance(a, 1000, 0)
	l.requireBalance(b, 1000, 0)
}

func TestRedact_BlanksTheTexts_AndTheChainStillVerifies(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	entry := one[int64](l, "select credits.charge($1, 1, 'k', '/v1', 'my secret', 'order 5')", user)
	later := one[int64](l, "select credits.adjust($1, 1, 'another secret', 'l')", user)
	require.True(t, one[bool](l, "select credits.redact($1)", entry))
	require.True(t, one[bool](l, "select credits.redact($1)", later))
	require.False(t, one[bool](l, "select credits.redact($1)", entry), "again: done before")
	require.Zero(t, one[int](l, "select count(*) from credits.transactions as t where t.user_id = $1 and t::text like any ('{%secret%,%order 5%}')", user))
	require.Empty(t, l.violations())
	require.Equal(t, entry, one[int64](l, "select credits.charge($1, 1, 'k', '/v1', 'my secret', 'order 5')", user), "the same request is still known")
	l.refused("TK105", "select credits.charge($1, 1, 'k', '/v1', 'other', 'order 5')", user)
	l.exec("select credits.charge($1, 1, 'on it goes')", user)
}

func TestRedact_OfAPendingEntry_WaitsForItsEnd(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	entry := one[int64](l, "select credits.submit($1, 'deduction', 5, 'p', 'secret')", user)
	l.refused("TK107", "select credits.redact($1)", entry)
	l.refused("TK107", "select credits.redact(404)")
	require.Equal(t, "FAILED", one[string](l, "select credits.resolve($1, false, 'my notes')", entry))
	require.True(t, one[bool](l, "select credits.redact($1)", entry))
	require.Equal(t, 3, one[int](l, "select num_nulls(description, reference_id, notes) from credits.transactions where id = $1", entry))
}

func TestExtend_LetsAHoldLastLonger_NeverShorter(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	hold := l.hold(user, 40, "1 hour", "h")
	extended := one[time.Time](l, "select credits.extend($1, '2 hours')", hold)
	require.True(t, one[bool](l, "select $1::timestamptz between now() + interval '110 minutes' and now() + interval '130 minutes'", extended))
	require.Equal(t, extended, one[time.Time](l, "select expires_at from credits.holds where id = $1", hold))
	require.True(t, one[bool](l, "select credits.extend($1, '1 minute') > now() + interval '110 minutes'", hold))
	pgtest.Advance(t, l.DB, 90*time.Minute)
	l.exec("select credits.capture($1)", hold)
	l.requireBalance(user, 60, 0)
	l.refused("TK103", "select credits.extend($1, '1 hour')", hold)
	l.refused("TK103", "select credits.extend(404, '1 hour')")
	l.refused("TK100", "select credits.extend($1, '0')", hold)
	l.refused("TK100", "select credits.extend($1, '400 days')", hold)
}

func TestExtend_AfterTheEnd_IsTooLate(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	hold := l.hold(user, 40, "1 minute", "h")
	pgtest.Advance(t, l.DB, 2*time.Minute)
	l.refused("TK104", "select credits.extend($1, '1 hour')", hold)
	l.exec("select credits.charge($1, 100, 'all')", user) // which releases it
	l.refused("TK104", "select credits.extend($1, '1 hour')", hold)
}

func TestStatement_IsTheEntriesOfAPeriodWithTheBalanceAfterEach(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.exec("select credits.submit($1, 'addition', 5, 'pending')", user)
	pgtest.Advance(t, l.DB, 24*time.Hour)
	l.exec("select credits.charge($1, 30, 'c', '/v1', 'words')", user)
	l.hold(user, 20, "1 hour", "h")
	const line = "select format('%s %s %s %s %s %s', s.seq, s.type, s.amount, s.balance, s.held, s.endpoint) from credits.statement"
	require.Equal(t, []string{"1 addition 100 100 0 ", "2 deduction -30 70 0 /v1", "3 hold 0 70 20 "}, all[string](l, line+"($1) as s", user))
	require.Equal(t, []string{"2 deduction -30 70 0 /v1", "3 hold 0 70 20 "}, all[string](l, line+"($1, pgtick.now() - interval '1 hour') as s", user))
	require.Equal(t, []string{"1 addition 100 100 0 "}, all[string](l, line+"($1, null, pgtick.now() - interval '1 hour') as s", user))
	require.Equal(t, 1, one[int](l, "select count(*) from (select min(final_at) as first from credits.transactions) as x, credits.statement($1, x.first, x.first + interval '1 us')", user), "from is in, to is not")
	l.refused("TK100", "select * from credits.statement($1, now(), now())", user)
	l.refused("TK102", "select * from credits.statement(gen_random_uuid())")
}

// The clock goes on between the look of the function and that of the guard behind it.
func TestExtend_InTheLastMoment_SaysThatItIsTooLate(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	hold := l.hold(l.user("standard", 10), 5, "1 second", "h")
	l.exec(`create sequence public.looks;
		create or replace function pgtick.now() returns timestamptz language sql volatile as
		$$ select (select min(created_at) from credits.holds) + nextval('public.looks') * interval '300 ms' $$`)
	l.exec("select setval('public.looks', 2)")
	l.refused("TK104", "select credits.extend($1, '1 hour')", hold)
}
