// Package credits_test tries the credit ledger from outside. After each test credits.violations must be empty.
package credits_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// ledger is a database of one test and what the tests do in it.
type ledger struct {
	*pgtest.DB
	t testing.TB
}

// newLedger's database must be without violations when the test ends.
func newLedger(t testing.TB) *ledger {
	l := &ledger{DB: pgtest.New(t), t: t}
	t.Cleanup(func() {
		if !t.Failed() {
			require.Empty(t, l.violations())
		}
	})
	return l
}

func (l *ledger) violations() []string {
	l.t.Helper()
	return all[string](l, "select format('%s: user %s, transaction %s, hold %s: %s', v.kind, v.user_id, v.transaction_id, v.hold_id, v.detail) from credits.violations as v")
}

// queryer is a pool, a connection or a transaction.
type queryer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func askOf[T any](db queryer, query string, args ...any) (T, error) {
	rows, err := db.Query(context.Background(), query, args...)
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
}

func one[T any](l *ledger, query string, args ...any) T {
	l.t.Helper()
	value, err := askOf[T](l.Pool, query, args...)
	require.NoError(l.t, err, query)
	return value
}

func all[T any](l *ledger, query string, args ...any) []T {
	l.t.Helper()
	rows, err := l.Pool.Query(context.Background(), query, args...)
	require.NoError(l.t, err, query)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(l.t, err, query)
	return values
}

func (l *ledger) exec(statement string, args ...any) {
	l.t.Helper()
	_, err := l.Pool.Exec(context.Background(), statement, args...)
	require.NoError(l.t, err, statement)
}

// refused says that the statement fails with this SQLSTATE and a hint.
func (l *ledger) refused(code, statement string, args ...any) {
	l.t.Helper()
	l.refusal(code, statement, args...)
}

// refusal is refused for those with more questions.
func (l *ledger) refusal(code, statement string, args ...any) (refusal struct{ Message, Detail, Hint string }) {
	l.t.Helper()
	_, err := l.Pool.Exec(context.Background(), statement, args...)
	pg := codeOf(l.t, code, err)
	refusal.Message, refusal.Detail, refusal.Hint = pg.Message, pg.Detail, pg.Hint
	return refusal
}

func requireCode(t testing.TB, code string, err error) {
	t.Helper()
	_ = codeOf(t, code, err)
}

func codeOf(t testing.TB, code string, err error) *pgconn.PgError {
	t.Helper()
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, code, pg.Code, pg.Message)
	if code[:2] == "TK" {
		require.NotEmpty(t, pg.Hint)
	}
	return pg
}

// user opens an account with so many credits and returns its id.
func (l *ledger) user(tier string, credits int64) string {
	l.t.Helper()
	id := one[string](l, "select gen_random_uuid()::text")
	l.exec("select credits.open_account($1, $2)", id, tier)
	if credits > 0 {
		l.exec("select credits.grant($1, $2, 'opening')", id, credits)
	}
	return id
}

func (l *ledger) hold(user string, amount int64, expiresIn, key string) int64 {
	l.t.Helper()
	return one[int64](l, "select credits.hold($1, $2, $3::text::interval, $4)", user, amount, expiresIn, key)
}

// requireBalance compares balance and held; available is their difference.
func (l *ledger) requireBalance(user string, balance, held int64) {
	l.t.Helper()
	require.Equal(l.t, []int64{balance, held, balance - held}, one[[]int64](l, "select array[b.balance, b.held, b.available] from credits.balance($1) as b", user))
}

func (l *ledger) entries(user string) int64 {
	l.t.Helper()
	return one[int64](l, "select count(*) from credits.transactions as t where t.user_id = $1", user)
}
