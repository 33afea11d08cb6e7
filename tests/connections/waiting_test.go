package connections

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// ownRunner is a login of this test's own, which it can keep out or give another password.
func ownRunner(t *testing.T, db *pgtest.DB) (role, url string) {
	t.Helper()
	role = "waiter_" + db.Name
	do(t, db, "create role "+role+" login password 'hunter2' in role pgtick_runner")
	t.Cleanup(func() { _, _ = db.Pool.Exec(context.Background(), "drop role "+role) })
	return role, pgtest.URLAs(db, role, "hunter2")
}

// A database that does not let a runner begin may have one reason after the other. Each is said when it comes, with what to do, and none of them ends
// the runner: it begins by itself. (Until it has been let in once it tries each ten seconds.)
func TestWork_ThatWaitsAtItsStart_SaysEachNewReason_AndBeginsByItself(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	role, own := ownRunner(t, db)
	way := proxy.Start(t, own)
	do(t, db, "alter role "+role+" connection limit 0")
	do(t, db, "alter role "+role+" set default_transaction_read_only = on")
	enqueue(t, db, "test.effect", "{}", 1)
	p := work(t, []string{"DATABASE_URL=" + way.URL(own)})
	p.says(`trying again in 10s: the server has no room for another connection: .*53300`)
	way.SwitchTo(changed(t, own, func(u *url.URL) { u.Host = "127.0.0.1:1" }))
	p.says(`trying again in 10s.*can't be reached`)
	do(t, db, "alter role "+role+" connection limit -1")
	way.SwitchTo(own)
	p.says(`the database is read-only: .*25006`)
	require.NotContains(t, p.said(), "runner registered")

	do(t, db, "alter role "+role+" reset default_transaction_read_only")
	nothingLost(t, db, 1)
	require.NotContains(t, p.said(), "hunter2")
	p.stops()
}

// What waiting cannot help ends a runner that waits as it would have ended it at once.
func TestWork_ThatWaitsAtItsStart_EndsWithAReasonThatDoesNotPass(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	role, own := ownRunner(t, db)
	do(t, db, "alter role "+role+" connection limit 0")
	p := work(t, []string{"DATABASE_URL=" + own})
	p.says("the server has no room for another connection")
	do(t, db, "alter role "+role+" connection limit -1 password 'another'")
	select {
	case <-p.done:
	case <-time.After(within):
		require.FailNow(t, "it waits on", p.said())
	}
	require.Equal(t, 1, p.cmd.ProcessState.ExitCode())
	last := p.said()[strings.LastIndex(p.said(), "trying again"):]
	require.Contains(t, last, "28P01")
	require.Contains(t, last, "user or password is wrong")
	require.NotContains(t, p.said(), "hunter2")
}
