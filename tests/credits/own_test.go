package credits_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestOwnOperations_AreForEndUsersOnlyWhereTheOwnerAllowsThem(t *testing.T) {
	t.Parallel()
	l := &ledger{DB: pgtest.NewOn(t, pgtest.Server(t)), t: t}
	l.exec("create role anon; create role authenticated; create role service_role")
	l.Migrate(t)
	l.exec("create function public.my_charge() returns text language sql as $$ select 'of the application' $$; revoke execute on function public.my_charge() from public")
	me, other := l.user("standard", 100), l.user("standard", 100)
	mine, theirs := l.hold(me, 10, "1 hour", "h"), l.hold(other, 10, "1 hour", "h")
	operations := map[string]string{
		"charge": "select case when credits.my_charge(5, 'k') > 0 then 'booked' end", "hold": "select case when credits.my_hold(5, '1 hour', 'k') > 0 then 'booked' end",
		"capture": "select case when credits.my_capture($hold, 5) > 0 then 'booked' end", "release": "select case when credits.my_release($hold) > 0 then 'booked' end",
	}
	ask := func(role, subject, operation string, hold int64) (string, error) {
		return l.as(role, subject, replaceHold(operations[operation], hold))
	}
	allowed := func() []string {
		return all[string](l, `select p.proname::text from pg_proc as p where p.pronamespace = 'credits'::regnamespace and p.proname in ('my_charge', 'my_hold', 'my_capture', 'my_release')
			and has_function_privilege('authenticated', p.oid, 'execute') order by 1`)
	}
	for operation := range operations {
		_, err := ask("authenticated", me, operation, mine)
		requireCode(t, "42501", err)
		l.exec("select credits.allow_own($1)", operation)
		l.Migrate(t) // the owner's word stays through an upgrade
		require.Equal(t, []string{"my_" + operation}, allowed())
		got, err := ask("authenticated", me, operation, mine)
		require.NoError(t, err)
		require.Equal(t, "booked", got)
		_, err = l.as("authenticated", me, "select public.my_charge()")
		requireCode(t, "42501", err) // it only has the name
		_, err = ask("authenticated", "", operation, mine)
		requireCode(t, "TK102", err) // nobody has no account
		_, err = ask("anon", me, operation, mine)
		requireCode(t, "42501", err)
		if operation == "capture" || operation == "release" {
			_, err = ask("authenticated", me, operation, theirs)
			requireCode(t, "TK103", err)
			require.Contains(t, err.Error(), "there is no hold", "another one's hold is as if it did not exist")
		}
		_, err = l.as("authenticated", me, "select credits.allow_own('charge')::text")
		requireCode(t, "42501", err)
		l.exec("select credits.allow_own($1, false)", operation)
		_, err = ask("authenticated", me, operation, mine)
		requireCode(t, "42501", err)
	}
	l.exec("select credits.allow_own('charge'), credits.allow_own('hold'), credits.allow_own('charge', false)")
	require.Equal(t, []string{"my_hold"}, allowed())
	l.refused("TK100", "select credits.allow_own('grant')")
	l.refused("TK100", "select credits.allow_own('charge', null)")
	l.requireBalance(other, 100, 10)
}

func replaceHold(statement string, hold int64) string {
	return strings.ReplaceAll(statement, "$hold", strconv.FormatInt(hold, 10))
}
