package credits_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// as asks one question as a role, with a JWT's subject or none, and takes back what it changed.
func (l *ledger) as(role, subject, query string) (answer string, err error) {
	ctx := context.Background()
	tx, err := l.Pool.Begin(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "set local role "+role); err != nil {
		return "", err
	}
	if subject != "" {
		if _, err := tx.Exec(ctx, "select set_config('request.jwt.claims', json_build_object('sub', $1::text)::text, true)", subject); err != nil {
			return "", err
		}
	}
	return askOf[string](tx, query)
}

func TestRights_OfTheRolesOfSupabase(t *testing.T) {
	t.Parallel()
	l := &ledger{DB: pgtest.NewOn(t, pgtest.Server(t)), t: t}
	l.exec("create role anon; create role authenticated; create role service_role")
	l.Migrate(t)
	me, other := l.user("standard", 100), l.user("premium", 1000)
	for _, user := range []string{me, other} {
		l.hold(user, 10, "1 hour", "h")
	}
	l.exec("insert into credits.usage_rates values ('/on', 1, true), ('/off', 1, false)")
	allowed := map[string][][2]string{
		"authenticated": {
			{"select count(*)::text from credits.my_account", "1"},
			{"select string_agg(balance::text, ' ') from credits.my_account", "100"},
			{"select count(*)::text from credits.my_transactions", "2"},
			{"select count(*)::text from credits.my_holds", "1"},
			{"select string_agg(endpoint, ' ') from credits.rates", "/on"},
			{"select string_agg(balance::text, ' ') from credits.accounts", "100"},
			{"select count(id)::text from credits.transactions", "2"},
			{"select count(id)::text from credits.holds", "1"},
			{"select count(endpoint)::text from credits.usage_rates", "1"},
		},
		"service_role": {
			{"select case when credits.grant('" + me + "', 1, 'k') > 0 then 'booked' end", "booked"},
			{"select balance::text from credits.balance('" + other + "')", "1000"},
			{"select count(*)::text from credits.accounts", "2"},
		},
		"pgtick_reader": {
			{"select count(*)::text from credits.transactions", "4"},
			{"select count(*)::text from credits.violations", "0"},
			{"select count(*)::text from analytics.credit_usage", "0"},
			{"select count(*)::text from credits.allocations", "0"},
		},
	}
	for role, questions := range allowed {
		for _, q := range questions {
			got, err := l.as(role, me, q[0])
			require.NoError(t, err, "%s: %s", role, q[0])
			require.Equal(t, q[1], got, "%s: %s", role, q[0])
		}
	}
	nobody, err := l.as("authenticated", "", "select count(id)::text from credits.transactions")
	require.NoError(t, err)
	require.Equal(t, "0", nobody, "without a JWT there are no own rows")

	forbidden := map[string][]string{
		"anon": {"select count(*)::text from credits.rates", "select credits.charge('" + me + "', 1, 'x')::text", "select count(*)::text from credits.my_account"},
		"authenticated": {
			"select credits.grant('" + me + "', 1, 'x')::text", "select credits.charge('" + me + "', 1, 'x')::text", "select credits.balance('" + other + "')::text",
			"select notes from credits.transactions", "select salt::text from credits.transactions", "select * from credits.tiers", "select count(*)::text from credits.violations",
			"select count(*)::text from analytics.credit_usage", "insert into credits.transactions (amount) values (1) returning type",
		},
		"service_role":  {"update credits.accounts set balance = 5 returning tier", "select credits.cleanup_chunk(null, null, 5)::text", "delete from credits.holds returning status"},
		"pgtick_reader": {"select credits.grant('" + me + "', 1, 'x')::text", "update credits.tiers set monthly_credits = 0 returning name"},
	}
	for role, statements := range forbidden {
		for _, statement := range statements {
			_, err := l.as(role, me, statement)
			requireCode(t, "42501", err)
		}
	}
}
