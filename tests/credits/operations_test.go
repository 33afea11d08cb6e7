package credits_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestOpenAccount_StartsEmptyAndStaysAsItIs(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("premium", 0)
	l.requireBalance(user, 0, 0)
	l.exec("select credits.grant($1, 5, 'k')", user)
	l.exec("select credits.open_account($1)", user)
	l.requireBalance(user, 5, 0)
	require.Equal(t, "premium", one[string](l, "select tier from credits.accounts where user_id = $1", user))
}

func TestOpenAccount_UnknownTier_NamesTheTiers(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	err := l.refusal("TK109", "select credits.open_account(gen_random_uuid(), 'gold')")
	require.Contains(t, err.Message, "gold")
	require.Contains(t, err.Hint, "standard, premium")
	l.refused("TK109", "select credits.open_account(gen_random_uuid(), null)")
	l.refused("TK100", "select credits.open_account(null)")
	require.Zero(t, one[int64](l, "select count(*) from credits.accounts"))
}

func TestChargeByAmount_TakesIt(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	id := one[int64](l, "select credits.charge($1, 30, 'c', p_description => 'Überweisung ✓', p_reference_id => 'r')", user)
	l.requireBalance(user, 70, 0)
	require.Equal(t, "deduction COMPLETED -30 70 0 Überweisung ✓ r", one[string](l, `select format('%s %s %s %s %s %s %s', type, status, amount, balance_after,
		held_after, description, reference_id) from credits.transactions where id = $1`, id))
	l.exec("select credits.charge($1, 70, 'all the rest')", user)
	l.requireBalance(user, 0, 0)
}

func TestChargeByEndpoint_TakesTheRate(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.exec("insert into credits.usage_rates values ('/v1/images', 12, true), ('/v0', 1, false)")
	id := one[int64](l, "select credits.charge($1, p_endpoint => '/v1/images', p_idempotency_key => 'c')", user)
	l.requireBalance(user, 88, 0)
	require.Equal(t, "/v1/images", one[string](l, "select endpoint from credits.transactions where id = $1", id))
	for _, endpoint := range []string{"/v0", "/nowhere", `'"; drop`, "☃"} {
		require.Contains(t, l.refusal("TK106", "select credits.charge($1, p_endpoint => $2, p_idempotency_key => 'd')", user, endpoint).Message, endpoint)
	}
	// With both, the amount counts and the endpoint is only recorded.
	l.exec("select credits.charge($1, 3, 'e', p_endpoint => '/nowhere')", user)
	l.requireBalance(user, 85, 0)
}

// A request that is repeated after a lost answer must not learn of what has changed since.
func TestChargeByEndpoint_RepeatedAfterTheRateWent_GivesTheFirstResult(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.exec("insert into credits.usage_rates values ('/v1', 12, true)")
	const charge = "select credits.charge($1, p_endpoint => '/v1', p_idempotency_key => 'c')"
	first := one[int64](l, charge, user)
	l.exec("update credits.usage_rates set credits_per_request = 90")
	require.Equal(t, first, one[int64](l, charge, user))
	l.exec("update credits.usage_rates set is_active = false")
	require.Equal(t, first, one[int64](l, charge, user))
	l.requireBalance(user, 88, 0)
}

func TestCharge_TooMuch_SaysWhatIsNeededAndThere(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.hold(user, 40, "1 hour", "h")
	for _, statement := range []string{"select credits.charge($1, 61, 'c')", "select credits.hold($1, 61, '1 hour', 'c')"} {
		err := l.refusal("TK101", statement, user)
		var detail map[string]int64
		require.NoError(t, json.Unmarshal([]byte(err.Detail), &detail))
		require.Equal(t, map[string]int64{"needed": 61, "available": 60}, detail)
	}
	l.requireBalance(user, 100, 40)
	require.EqualValues(t, 2, l.entries(user))
}

// Each statement books once, however often it is sent; under its key nothing else goes.
func TestKey_SameContent_GivesTheFirstResult_OtherContentIsRefused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ same, other string }{
		"grant":              {"select credits.grant($1, 10, 'k', 'd')", "select credits.grant($1, 11, 'k', 'd')"},
		"grant, other text":  {"select credits.grant($1, 10, 'k', 'd')", "select credits.grant($1, 10, 'k', p_reference_id => 'd')"},
		"grant, null is not": {"select credits.grant($1, 10, 'k')", "select credits.grant($1, 10, 'k', '')"},
		"charge":             {"select credits.charge($1, 10, 'k')", "select credits.charge($1, 11, 'k')"},
		"charge and grant":   {"select credits.charge($1, 10, 'k')", "select credits.grant($1, 10, 'k')"},
		"charge, fields do not run together": {
			"select credits.charge($1, 10, 'k', 'ab', 'c', 'd')", "select credits.charge($1, 10, 'k', 'a', 'bc', 'd')"},
		"charge, shifted fields": {"select credits.charge($1, 10, 'k', 'a', null, 'b')", "select credits.charge($1, 10, 'k', null, 'a', 'b')"},
		"hold":                   {"select credits.hold($1, 10, '1 hour', 'k')", "select credits.hold($1, 10, '2 hours', 'k')"},
		"hold and submit":        {"select credits.hold($1, 10, '1 hour', 'k')", "select credits.submit($1, 'addition', 10, 'k')"},
		"adjust":                 {"select credits.adjust($1, 10, 'why', 'k')", "select credits.adjust($1, 10, 'because', 'k')"},
		"adjust and grant":       {"select credits.adjust($1, 10, 'why', 'k')", "select credits.grant($1, 10, 'k', 'why')"},
		"submit":                 {"select credits.submit($1, 'addition', 10, 'k')", "select credits.submit($1, 'refund', 10, 'k')"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			user, somebody := l.user("standard", 100), l.user("standard", 100)
			first := one[int64](l, c.same, user)
			l.exec("select credits.charge($1, 85, 'unrelated')", user) // so that a second booking would lack the credits
			require.Equal(t, first, one[int64](l, c.same, user))
			require.Contains(t, l.refusal("TK105", c.other, user).Message, `"k"`)
			require.EqualValues(t, 3, l.entries(user))
			require.NotEqual(t, first, one[int64](l, c.other, somebody), "keys are the user's own")
		})
	}
}

func TestKey_AfterARefusal_IsStillFree(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 10)
	l.refused("TK101", "select credits.charge($1, 50, 'k')", user)
	l.exec("select credits.grant($1, 100, 'more')", user)
	l.exec("select credits.charge($1, 50, 'k')", user)
	l.requireBalance(user, 60, 0)
}

func TestBadValues_AreRefusedByFieldValueAndRule_AndWriteNothing(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	long := strings.Repeat("k", 256)
	cases := []struct {
		statement, field string
		args             []any
	}{
		{"select credits.grant($1, 0, 'k')", `amount "0"`, nil},
		{"select credits.grant($1, -5, 'k')", `amount "-5"`, nil},
		{"select credits.grant($1, null, 'k')", "amount null", nil},
		{"select credits.grant(nullif($1::uuid, $1), 5, 'k')", "user_id null", nil},
		{"select credits.grant($1, 5, '')", `idempotency_key ""`, nil},
		{"select credits.grant($1, 5, null)", "idempotency_key null", nil},
		{"select credits.grant($1, 5, $2)", "idempotency_key", []any{long}},
		{"select credits.grant($1, 5, 'k', $2)", "description", []any{strings.Repeat("d", 4001)}},
		{"select credits.grant($1, 5, 'k', null, $2)", "reference_id", []any{long}},
		{"select credits.charge($1)", "amount null", nil},
		{"select credits.charge($1, 5)", "idempotency_key null", nil},
		{"select credits.charge($1, 0, 'k')", `amount "0"`, nil},
		{"select credits.charge($1, -1, 'k')", `amount "-1"`, nil},
		{"select credits.charge(nullif($1::uuid, $1), 1, 'k')", "user_id null", nil},
		{"select credits.charge($1, 1, '')", `idempotency_key ""`, nil},
		{"select credits.charge($1, 1, 'k', '')", `endpoint ""`, nil},
		{"select credits.charge($1, 1, 'k', $2)", "endpoint", []any{"a\nb"}},
		{"select credits.charge($1, 1, 'k', $2)", "endpoint", []any{long}},
		{"select credits.hold($1, 0, '1 hour', 'k')", "amount", nil},
		{"select credits.hold($1, 1, '0', 'k')", "expires_in", nil},
		{"select credits.hold($1, 1, '-1 second', 'k')", "expires_in", nil},
		{"select credits.hold($1, 1, '-1 year 361 days', 'k')", "expires_in", nil}, // to compare, this is a day
		{"select credits.hold($1, 1, '1 month -29 days', 'k')", "expires_in", nil}, // and this, and less than nothing in February
		{"select credits.hold($1, 1, null, 'k')", "expires_in null", nil},
		{"select credits.hold($1, 1, '367 days', 'k')", "expires_in", nil},
		{"select credits.hold($1, 1, '100000000 years', 'k')", "expires_in", nil},
		{"select credits.hold($1, 1, '-100000 years', 'k')", "expires_in", nil},
		{"select credits.hold($1, 1, '1 hour', null)", "idempotency_key null", nil},
		{"select credits.submit($1, 'hold', 1, 'k')", `type "hold"`, nil},
		{"select credits.submit($1, null, 1, 'k')", "type null", nil},
		{"select credits.submit($1, 'addition', -1, 'k')", `amount "-1"`, nil},
		{"select credits.submit($1, 'addition', 1, '')", `idempotency_key ""`, nil},
		{"select credits.resolve(1, null), $1::uuid", "commit null", nil},
		{"select credits.adjust($1, 0, 'why', 'k')", `amount "0"`, nil},
		{"select credits.adjust($1, null, 'why', 'k')", "amount null", nil},
		{"select credits.adjust($1, -9223372036854775808, 'why', 'k')", "amount", nil},
		{"select credits.adjust($1, 5, null, 'k')", "reason null", nil},
		{"select credits.adjust($1, 5, ' ', 'k')", `reason " "`, nil},
		{"select credits.adjust($1, 5, $2, 'k')", "reason", []any{strings.Repeat("d", 4001)}},
		{"select credits.adjust($1, 5, 'why', '')", `idempotency_key ""`, nil},
		{"select credits.transfer($1, gen_random_uuid(), 0, 'k')", `amount "0"`, nil},
		{"select credits.transfer(null, $1, 1, 'k')", "user_id null", nil},
		{"select credits.transfer($1, gen_random_uuid(), 1, null)", "idempotency_key null", nil},
		{"select credits.refund((select id from credits.transactions where user_id = $1), '')", `idempotency_key ""`, nil},
		{"select credits.refund((select id from credits.transactions where user_id = $1), 'k', -1)", `amount "-1"`, nil},
		{"select credits.cleanup_chunk(null, null, 0), $1::uuid", `limit "0"`, nil},
		{"select credits.allocate_chunk(null, null, null), $1::uuid", "limit null", nil},
		{"select credits.allocate_chunk('2020-01-02', null, 1), $1::uuid", `period "2020-01-02"`, nil},
		{"select credits.allocate_chunk('2999-01-01', null, 1), $1::uuid", `period "2999-01-01"`, nil},
		{"select credits.resolve_chunk(null, null, 20001), $1::uuid", `limit "20001"`, nil},
		{"select credits.sync_chunk(null, -1), $1::uuid", `limit "-1"`, nil},
	}
	for _, c := range cases {
		err := l.refusal("TK100", c.statement, append([]any{user}, c.args...)...)
		require.Contains(t, err.Message, c.field, c.statement)
		require.Contains(t, err.Message, "is refused: ", c.statement)
	}
	require.EqualValues(t, 1, l.entries(user))
	l.requireBalance(user, 100, 0)
}

func TestUnknownUser_IsRefusedByEveryOperation(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	const nobody = "00000000-0000-0000-0000-00000000dead"
	for _, statement := range []string{
		"select credits.grant($1, 1, 'k')", "select credits.charge($1, 1, 'k')", "select credits.hold($1, 1, '1 hour', 'k')",
		"select credits.submit($1, 'addition', 1, 'k')", "select credits.balance($1)", "select credits.adjust($1, 1, 'why', 'k')", "select credits.charge($1, p_endpoint => 'x', p_idempotency_key => 'k')",
	} {
		require.Contains(t, l.refusal("TK102", statement, nobody).Message, nobody)
	}
}

func TestBalance_BeyondBigint_IsRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 10)
	l.refused("TK100", "select credits.grant($1, 9223372036854775807, 'k')", user)
	l.exec("select credits.grant($1, 9223372036854775797, 'k')", user)
	l.requireBalance(user, 9223372036854775807, 0)
	require.Equal(t, "FAILED", one[string](l, "select credits.resolve(credits.submit($1, 'addition', 1, 's'), true)", user))
	l.exec("select credits.charge($1, 9223372036854775807, 'all')", user)
}

func TestHold_KeepsCreditsUntilItIsReleased(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	hold := l.hold(user, 60, "1 hour", "h")
	l.requireBalance(user, 100, 60)
	l.refused("TK101", "select credits.charge($1, 41, 'c')", user)
	entry := one[int64](l, "select credits.release($1, 'changed my mind')", hold)
	l.requireBalance(user, 100, 0)
	require.Equal(t, entry, one[int64](l, "select credits.release($1)", hold), "again: the same")
	require.Equal(t, "released", one[string](l, "select status from credits.holds where id = $1", hold))
	l.refused("TK103", "select credits.capture($1)", hold)
	require.EqualValues(t, 3, l.entries(user))
}

func TestCapture_WholeOrPart_ReleasesTheRest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		amount  any
		balance int64
	}{"whole": {nil, 40}, "part": {25, 75}, "one": {1, 99}, "by number": {60, 40}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			user := l.user("standard", 100)
			hold := l.hold(user, 60, "1 hour", "h")
			entry := one[int64](l, "select credits.capture($1, $2::bigint)", hold, c.amount)
			l.requireBalance(user, c.balance, 0)
			require.Equal(t, entry, one[int64](l, "select credits.capture($1, $2::bigint)", hold, c.amount), "again: the same")
			require.Contains(t, l.refusal("TK103", "select credits.capture($1, 59)", hold).Message, "captured")
			l.refused("TK103", "select credits.release($1)", hold)
			require.EqualValues(t, 3, l.entries(user))
		})
	}
}

func TestCapture_OfMoreOrNothing_IsRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	hold := l.hold(user, 60, "1 hour", "h")
	for _, amount := range []int64{61, 0, -1} {
		l.refused("TK100", "select credits.capture($1, $2)", hold, amount)
	}
	l.refused("TK103", "select credits.capture(424242)")
	l.refused("TK103", "select credits.release(424242)")
	l.refused("TK103", "select credits.release(null)")
	l.requireBalance(user, 100, 60)
}

func TestHold_Expired_CanNotBeCaptured(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	hold := l.hold(user, 60, "1 hour", "h")
	pgtest.Advance(t, l.DB, 59*time.Minute)
	l.requireBalance(user, 100, 60)
	pgtest.Advance(t, l.DB, time.Minute)
	l.requireBalance(user, 100, 0)
	l.refused("TK104", "select credits.capture($1)", hold)
	l.exec("select credits.cleanup_chunk(null, null, 10)")
	l.refused("TK104", "select credits.capture($1)", hold)
	require.Equal(t, "expired", one[string](l, "select status from credits.holds where id = $1", hold))
	require.EqualValues(t, 3, one[int64](l, "select t.seq from credits.transactions as t where t.id = credits.release($1)", hold), "released already")
}

func TestHold_Expired_KeepsNoCreditsFromACharge(t *testing.T) {
	t.Parallel()
	for name, spend := range map[string]string{
		"charge": "select credits.charge($1, 90, 'c')", "hold": "select credits.hold($1, 90, '1 hour', 'c')",
		"commit": "select credits.resolve(credits.submit($1, 'deduction', 90, 'c'), true)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			user := l.user("standard", 100)
			l.hold(user, 30, "1 hour", "expires")
			l.hold(user, 30, "2 hours", "expires too")
			l.hold(user, 5, "3 hours", "stays")
			pgtest.Advance(t, l.DB, 2*time.Hour+time.Minute)
			l.exec(spend, user)
			require.Equal(t, []string{"expired: released when its credits were needed", "expired: released when its credits were needed", "open"},
				all[string](l, "select coalesce(reason, status) from credits.holds where user_id = $1 and amount < 90 order by id", user))
			require.EqualValues(t, 5, one[int64](l, "select b.available from credits.balance($1) as b", user))
		})
	}
}

func TestSubmit_ChangesNothingBeforeItIsResolved(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	more := one[int64](l, "select credits.submit($1, 'addition', 20, 'a', p_description => 'd')", user)
	less := one[int64](l, "select credits.submit($1, 'deduction', 110, 'b')", user)
	never := one[int64](l, "select credits.submit($1, 'refund', 1000, 'c')", user)
	l.requireBalance(user, 100, 0)
	const resolve = "select credits.resolve($1, $2)"
	require.Equal(t, "COMPLETED", one[string](l, resolve, more, true))
	require.Equal(t, "COMPLETED", one[string](l, resolve, less, true))
	require.Equal(t, "FAILED", one[string](l, resolve, never, false))
	l.requireBalance(user, 10, 0)
	require.Equal(t, "COMPLETED", one[string](l, resolve, more, true), "again: the same")
	require.Equal(t, "FAILED", one[string](l, resolve, never, true), "the truth, whoever was first")
	require.Contains(t, l.refusal("TK107", resolve, more, false).Message, "COMPLETED")
	l.refused("TK107", "select credits.resolve(424242, true)")
}

func TestResolve_ACommitWithoutTheCredits_FailsAndSaysWhy(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.hold(user, 95, "1 hour", "h")
	id := one[int64](l, "select credits.submit($1, 'deduction', 6, 'a')", user)
	require.Equal(t, "FAILED", one[string](l, "select credits.resolve($1, true)", id))
	require.Equal(t, "not enough credits: 6 needed, 5 available", one[string](l, "select notes from credits.transactions where id = $1", id))
	l.requireBalance(user, 100, 95)
}
