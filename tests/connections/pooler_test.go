package connections

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// The queue's and the runner's own tests run through a pooler in transaction mode too: "make test" does so. Here is what is said of poolers.

// everyKind are jobs that use a connection in each of the ways there are.
func everyKind(t *testing.T, db *pgtest.DB) int {
	t.Helper()
	for _, task := range []string{"test.effect", "test.effect_in_tx"} {
		enqueue(t, db, task, `{"ms": 20}`, 20)
	}
	return 40
}

func TestWork_BehindAPoolerInSessionMode_HearsNotifications_AndWorks(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	pgtest.RunnerURL(t, db)
	pooled := pgtest.StartPgBouncer(t, db, "session")
	p := work(t, []string{"DATABASE_URL=" + asRunner(t, db, pooled)}, "--poll=1h")
	p.says("notifications arrive")
	nothingLost(t, db, everyKind(t, db))
	p.stops()
	_, talk, code := call(t, pooled, "migrate")
	require.Zero(t, code, "migrate works there as well: %s", talk)
}

func TestWork_BehindATransactionPooler_WithAnAddressForListen_IsWokenAtOnce(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	direct := pgtest.RunnerURL(t, db)
	pooled := pgtest.StartPgBouncer(t, db, "transaction")
	p := work(t, []string{"DATABASE_URL=" + asRunner(t, db, pooled), "LISTEN_DATABASE_URL=" + direct}, "--poll=1h")
	p.says("notifications arrive")
	becomes(t, db, 1, `select count(*) from pgtick.sleepers where until > pgtick.now()`)
	nothingLost(t, db, everyKind(t, db)) // with a poll of an hour, a notification has brought them
	p.stops()
}

// An address for LISTEN that leads elsewhere, or nowhere, costs the notifications and nothing else; what is wrong with it is said.
func TestWork_WithABadAddressForListen_SaysSo_AndPolls(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ listen, says string }{
		"another database": {pgtest.RunnerURL(t, pgtest.New(t)), "polling every 200ms: no notification arrives"},
		"nobody there":     {"postgres://pgtick_runner:hunter2@127.0.0.1:1/x", "listener lost its connection; polling until it is back: nothing listens there"},
		"wrong password":   {pgtest.URLAs(pgtest.New(t), "pgtick_runner", "hunter2"), "listener lost its connection; polling until it is back: user or password is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t)
			p := work(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db), "LISTEN_DATABASE_URL=" + c.listen}, "--poll=200ms")
			p.says(c.says)
			enqueue(t, db, "test.effect", "{}", 5)
			nothingLost(t, db, 5)
			require.NotContains(t, p.said(), "hunter2")
			p.stops()
		})
	}
}

func asRunner(t *testing.T, db *pgtest.DB, pooled string) string {
	t.Helper()
	at, err := url.Parse(pooled)
	require.NoError(t, err)
	return changed(t, pgtest.RunnerURL(t, db), func(u *url.URL) { u.Host = at.Host })
}
