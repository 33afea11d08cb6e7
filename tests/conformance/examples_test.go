package conformance

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestTypeScriptWorker_Compiles(t *testing.T) {
	t.Parallel()
	folder := typescriptFolder(t)
	check := exec.CommandContext(t.Context(), node(t), filepath.Join("node_modules", "typescript", "bin", "tsc"), "--noEmit")
	check.Dir = folder
	out, err := check.CombinedOutput()
	require.NoError(t, err, string(out))
}

// examples are the files as they stand, with the tasks at their end.
func examples(t *testing.T) map[string]func(t *testing.T) *exec.Cmd {
	t.Helper()
	return map[string]func(t *testing.T) *exec.Cmd{
		"python": func(t *testing.T) *exec.Cmd {
			needPython(t)
			return exec.Command(python, filepath.Join(example(t, "worker-python"), "worker.py"))
		},
		"typescript": func(t *testing.T) *exec.Cmd {
			return exec.Command(node(t), filepath.Join(typescriptFolder(t), "worker.ts"))
		},
	}
}

func TestExamples_AsTheyStand_Work(t *testing.T) {
	t.Parallel()
	for name, command := range examples(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t)
			do(t, db, `create table public.subscriptions (id bigint, paid_until date); insert into public.subscriptions values (7, '2031-05-06')`)
			do(t, db, `grant select, update on public.subscriptions to pgtick_runner`)
			startCommand(t, command(t), "DATABASE_URL="+pgtest.RunnerURL(t, db))
			mail, renewal := enqueue(t, db, "email.welcome", `{"user": "ann"}`), enqueue(t, db, "subscription.renew", `{"subscription": 7}`)
			becomes(t, db, "done", stateOf, mail)
			require.JSONEq(t, `{"sent_to": "ann"}`, ask[string](t, db, resultOf, mail))
			becomes(t, db, "done", stateOf, renewal)
			require.Equal(t, "2031-06-06", ask[string](t, db, `select paid_until::text from public.subscriptions`))
		})
	}
}

func TestExamples_WrongSettings_AreNamed_AndNoPasswordIsShown(t *testing.T) {
	t.Parallel()
	for name, command := range examples(t) {
		for setting, says := range map[string]string{
			"DATABASE_URL=": "DATABASE_URL is not set",
			"DATABASE_URL=postgras://ann:opensesame@localhost/shop":      "DATABASE_URL is not set, or no PostgreSQL URL: write postgres://",
			"DATABASE_URL=postgres://ann:opensesame@127.0.0.1:1/nowhere": "the database that DATABASE_URL names can't be used",
			"LEASE=ten": `LEASE: .ten. is not a number from 1 to 3600`,
			"POLL=0":    `POLL: .0. is not a number from 0.1 to 3000`,
		} {
			t.Run(name+" "+setting, func(t *testing.T) {
				t.Parallel()
				worker := startCommand(t, command(t), "DATABASE_URL=postgres://ann:opensesame@127.0.0.1:1/nowhere", setting)
				require.Equal(t, 2, worker.ends(), worker.said())
				require.Regexp(t, says, worker.said())
				require.NotContains(t, worker.said(), "opensesame")
			})
		}
	}
}

func TestExamples_OnACopy_LeaveItAlone(t *testing.T) {
	t.Parallel()
	for name, command := range examples(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t)
			do(t, db, `select pgtick.adopt('production.example.org/shop', p_only => true)`)
			worker := startCommand(t, command(t), "DATABASE_URL="+pgtest.RunnerURL(t, db))
			require.Equal(t, 1, worker.ends())
			require.Contains(t, worker.said(), "this database belongs to production.example.org/shop")
		})
	}
}
