package credits_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// feed is one row of a usage feed.
type feed struct {
	user, key, endpoint, description, reference *string
	amount                                      *int64
}

func row(user, key string, amount int64) feed { return feed{user: &user, key: &key, amount: &amount} }

// chargeMany returns each row's outcome, with its code where it was refused.
func (l *ledger) chargeMany(rows ...feed) []string {
	l.t.Helper()
	outcomes, err := chargeMany(l.Pool, rows)
	require.NoError(l.t, err)
	return outcomes
}

func chargeMany(db queryer, rows []feed) ([]string, error) {
	n := len(rows)
	users, keys, endpoints, descriptions, references, amounts := make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n), make([]*int64, n)
	for i, r := range rows {
		users[i], keys[i], endpoints[i], descriptions[i], references[i], amounts[i] = r.user, r.key, r.endpoint, r.description, r.reference, r.amount
	}
	result, err := db.Query(context.Background(), `select c.outcome || coalesce(' ' || c.code, '') from credits.charge_many($1::text[]::uuid[], $2, $3, $4, $5, $6) as c
		order by c.place`, users, amounts, keys, endpoints, descriptions, references)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(result, pgx.RowTo[string])
}

func text(s string) *string { return &s }

func TestChargeMany_BooksEachRowInOrder_AsIfOneByOne(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.exec("insert into credits.usage_rates values ('/v1', 7, true), ('/off', 7, false)")
	a, b := l.user("standard", 100), l.user("standard", 20)
	nobody, bad := "00000000-0000-0000-0000-00000000dead", "a\nb"
	byRate, off, strange, both := row(a, "a3", 0), row(a, "a5", 0), row(a, "a6", 1), row(b, "b3", 2)
	byRate.amount, byRate.endpoint = nil, text("/v1")
	off.amount, off.endpoint = nil, text("/off")
	strange.endpoint = &bad
	both.endpoint, both.description, both.reference = text("/v1"), text("words"), text("ref")
	feed := []feed{row(a, "a1", 10), row(b, "b1", 15), row(a, "a2", 91), byRate, row(b, "b2", 6), off, strange, row(nobody, "n", 1), both, row(a, "a7", 0), {}}
	require.Equal(t, []string{"charged", "charged", "refused TK101", "charged", "refused TK101", "refused TK106", "refused TK100", "refused TK102", "charged", "refused TK100", "refused TK100"},
		l.chargeMany(feed...))
	l.requireBalance(a, 83, 0)
	l.requireBalance(b, 3, 0)
	require.Equal(t, []string{"1 100 opening", "2 -10 a1", "3 -7 a3"}, all[string](l, "select format('%s %s %s', seq, amount, idempotency_key) from credits.transactions where user_id = $1 order by seq", a))
	require.Equal(t, "/v1 words ref", one[string](l, "select format('%s %s %s', endpoint, description, reference_id) from credits.transactions where idempotency_key = 'b3'"))
}

func TestChargeMany_SaysWhatChargeWouldHaveRaised(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	for _, amount := range []int64{101, 0, -3} {
		err := l.refusal(map[bool]string{true: "TK101", false: "TK100"}[amount > 0], "select credits.charge($1, $2, 'k')", user, amount)
		require.Equal(t, err.Message, one[string](l, "select message from credits.charge_many(array[$1::uuid], array[$2::bigint], '{k}')", user, amount))
	}
	long := func(n int) string { return "repeat('x', " + strconv.Itoa(n) + ")" }
	for _, values := range []string{ // key, endpoint, description, reference_id
		"'', null, null, null", long(256) + ", null, null, null", "null, null, null, null", "'k', '', null, null", "'k', " + long(256) + ", null, null", "'k', E'\\x01', null, null",
		"'k', null, " + long(4001) + ", null", "'k', null, null, " + long(256),
	} {
		err := l.refusal("TK100", "select credits.charge($1, 1, "+values+")", user)
		require.Equal(t, err.Message, one[string](l, `select c.message from (values (`+values+`)) as v(key, endpoint, description, reference_id)
			cross join lateral credits.charge_many(array[$1::uuid], '{1}', array[v.key], array[v.endpoint], array[v.description], array[v.reference_id]) as c`, user), values)
	}
	require.EqualValues(t, 1, l.entries(user))
}

func TestChargeMany_SentAgain_RepeatsItsResults(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	single := one[int64](l, "select credits.charge($1, 5, 'single')", user)
	rows := []feed{row(user, "k1", 10), row(user, "single", 5), row(user, "k2", 50), row(user, "k1", 10), row(user, "k1", 11)}
	require.Equal(t, []string{"charged", "repeated", "charged", "repeated", "refused TK105"}, l.chargeMany(rows...))
	require.Equal(t, []string{"repeated", "repeated", "repeated", "repeated", "refused TK105"}, l.chargeMany(rows...))
	require.Equal(t, single, one[int64](l, "select transaction_id from credits.charge_many(array[$1::uuid], '{5}', '{single}')", user))
	require.Equal(t, one[int64](l, "select credits.charge($1, 10, 'k1')", user), one[int64](l, "select transaction_id from credits.charge_many(array[$1::uuid], '{10}', '{k1}')", user))
	l.requireBalance(user, 35, 0)
}

func TestChargeMany_KeyOfARateThatWent_IsStillRepeated(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.exec("insert into credits.usage_rates values ('/v1', 7)")
	user := l.user("standard", 100)
	byRate := row(user, "k", 0)
	byRate.amount, byRate.endpoint = nil, text("/v1")
	require.Equal(t, []string{"charged"}, l.chargeMany(byRate))
	l.exec("update credits.usage_rates set is_active = false")
	require.Equal(t, []string{"repeated"}, l.chargeMany(byRate))
}

func TestChargeMany_ReleasesExpiredHoldsWhenTheyAreNeeded(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user, other := l.user("standard", 100), l.user("standard", 100)
	l.hold(user, 60, "1 second", "h")
	l.hold(user, 10, "1 day", "i")
	l.hold(other, 60, "1 second", "h")
	pgtest.Advance(t, l.DB, time.Minute)
	require.Equal(t, []string{"charged", "charged", "refused TK101", "charged"}, l.chargeMany(row(user, "k1", 50), row(user, "k2", 40), row(user, "k3", 1), row(other, "k", 40)))
	l.requireBalance(user, 10, 10)
	require.Equal(t, "open", one[string](l, "select status from credits.holds where user_id = $1", other), "nobody needed it")
}

// What a bad row asks for must not count against what the good ones need.
func TestChargeMany_ReleasesExpiredHolds_BesideARowBelowZero(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.hold(user, 60, "1 second", "h")
	pgtest.Advance(t, l.DB, time.Minute)
	require.Equal(t, []string{"charged", "refused TK100"}, l.chargeMany(row(user, "k1", 50), row(user, "k2", -20)))
}

// Two rows without a key are as two with the same: all of that user go through charge, which releases only what it needs.
func TestChargeMany_TwoRowsWithoutAKey_ReleaseNothingThatIsNotNeeded(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	l.hold(user, 60, "1 second", "h")
	pgtest.Advance(t, l.DB, time.Minute)
	nameless := row(user, "", 30)
	nameless.key = nil
	require.Equal(t, []string{"charged", "refused TK100", "refused TK100"}, l.chargeMany(row(user, "k1", 10), nameless, nameless))
	require.Equal(t, "open", one[string](l, "select status from credits.holds where user_id = $1", user))
}

func TestChargeMany_ArraysThatDoNotFit_AreRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	for statement, field := range map[string]string{
		"select * from credits.charge_many('{}')":                                                                                     "user_ids",
		"select * from credits.charge_many(null)":                                                                                     "user_ids",
		"select * from credits.charge_many(array_fill(gen_random_uuid(), array[20001]))":                                              "user_ids",
		"select * from credits.charge_many(array_fill(gen_random_uuid(), array[2]), '{1}', '{a,b}')":                                  "amounts",
		"select * from credits.charge_many(array_fill(gen_random_uuid(), array[2]), '{1,1}', '{a}')":                                  "idempotency_keys",
		"select * from credits.charge_many(array_fill(gen_random_uuid(), array[2]), '{1,1}')":                                         "idempotency_keys",
		"select * from credits.charge_many(array_fill(gen_random_uuid(), array[2]), '{1,1}', '{a,b}', '{x}')":                         "endpoints",
		"select * from credits.charge_many(array_fill(gen_random_uuid(), array[2]), '{1,1}', '{a,b}', '{x,y}', '{1,2,3}')":            "descriptions",
		"select * from credits.charge_many(array_fill(gen_random_uuid(), array[2]), '{1,1}', '{a,b}', '{x,y}', '{1,2}', '{1,2,3,4}')": "reference_ids",
	} {
		require.Contains(t, l.refusal("TK100", statement).Message, field, statement)
	}
	require.EqualValues(t, 1, l.entries(user))
}

func TestChargeMany_FromSeveralSessions_AddsUp(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	var users []string
	for range 10 {
		users = append(users, l.user("standard", 100))
	}
	type answer struct {
		outcomes []string
		err      error
	}
	answers := make(chan answer)
	const sessions, rows = 4, 200
	for s := range sessions {
		go func() {
			var batch []feed
			for i := range rows {
				batch = append(batch, row(users[i%len(users)], string(rune('a'+s))+time.Duration(i).String(), 3))
			}
			outcomes, err := chargeMany(l.Pool, batch)
			answers <- answer{outcomes, err}
		}()
	}
	charged := 0
	for range sessions {
		a := <-answers
		require.NoError(t, a.err)
		for _, outcome := range a.outcomes {
			if outcome == "charged" {
				charged++
			} else {
				require.Equal(t, "refused TK101", outcome)
			}
		}
	}
	require.EqualValues(t, 1000-3*charged, one[int64](l, "select sum(balance)::bigint from credits.accounts"))
	require.EqualValues(t, 330, charged, "33 fit into each of the ten accounts")
}

// What comes of a row depends on those before it: also where an earlier one has the same key and was refused.
func TestChargeMany_AKeyThatComesTwice_KeepsTheOrder(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user, other := l.user("standard", 90), l.user("standard", 90)
	require.Equal(t, []string{"refused TK101", "charged", "charged", "refused TK101"}, l.chargeMany(row(user, "k", 95), row(user, "k", 90), row(other, "o", 10), row(user, "l", 5)))
	l.requireBalance(user, 0, 0)
	l.requireBalance(other, 80, 0)
}
