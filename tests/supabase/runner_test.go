package supabase

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// What docs/supabase.md tells: push with the seed, give the runner its login, start it. It records the address, which a push cannot.
func TestWork_AsTheRunnersRole_RunsAJobOfAPushedProject(t *testing.T) {
	t.Parallel()
	db, program := pgtest.Hosted(t, pgtest.Closed), build(t)
	newProject(t).push(t, db, "--include-seed")
	as(t, db.URL, "alter role pgtick_runner login password 'runner-of-tests'")
	id := ask[int64](t, db.URL, "select pgtick.run_now('example')")

	var said strings.Builder
	runner := exec.Command(program, "work", "--http", "off")
	runner.Env = append(os.Environ(), "DATABASE_URL="+pgtest.URLAs(db, "pgtick_runner", "runner-of-tests"))
	runner.Stderr = &said
	require.NoError(t, runner.Start())
	ended := make(chan error, 1)
	go func() { ended <- runner.Wait() }()
	t.Cleanup(func() { _ = runner.Process.Kill() })
	conn := connect(t, db.URL)
	var state, outcome string
	require.Eventually(t, func() bool {
		err := conn.QueryRow(t.Context(), "select j.state, coalesce(j.result::text, j.last_error::text, '') from pgtick.jobs as j where j.id = $1", id).Scan(&state, &outcome)
		return err == nil && state != "ready" && state != "running"
	}, within, 20*time.Millisecond)
	require.Equal(t, "done", state, outcome)
	require.NoError(t, runner.Process.Signal(syscall.SIGTERM))
	require.NoError(t, <-ended, said.String())
	require.Equal(t, "localhost/"+db.Name, ask[string](t, db.URL, "select string_agg(a.address, ', ') from pgtick.addresses as a"))
}

func build(t *testing.T) string {
	t.Helper()
	program, err := programs.Build(t.TempDir(), programs.Pgtick)
	require.NoError(t, err)
	return program
}
