// Package django drives examples/django with the real Django of Debian, on a database with pgtick, and with real workers.
package django

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

const (
	within = 2 * time.Minute

	// The one that Debian's packages are for; another on the PATH does not see them.
	python = "/usr/bin/python3"
)

// pgtick is the program, as users have it.
var pgtick string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-django-")
	if err != nil {
		panic(err)
	}
	if pgtick, err = programs.Build(dir, programs.Pgtick); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(dir)
}

// manage is a call of manage.py in the example.
func manage(t *testing.T, db *pgtest.DB, args ...string) *exec.Cmd {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), python, "-c", "import django, psycopg2, psycopg").CombinedOutput()
	require.NoError(t, err, "Debian's Django is missing: make prepare, or apt-get install -y python3-django python3-psycopg2 python3-psycopg\n%s", out)
	examples, err := filepath.Abs(filepath.Join("..", "..", "examples"))
	require.NoError(t, err)
	cmd := exec.Command(python, append([]string{"manage.py"}, args...)...)
	cmd.Dir = filepath.Join(examples, "django")
	cmd.Env = append(os.Environ(), "DATABASE_URL="+db.URL, "PGTICK="+pgtick, "PYTHONPATH="+filepath.Join(examples, "worker-python"), "PYTHONDONTWRITEBYTECODE=1", "NAME=django")
	return cmd
}

// shop is a database with the example's tables.
func shop(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	succeeds(t, manage(t, db, "migrate", "--verbosity", "0"))
	return db
}

func succeeds(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s", out, said.String())
	return strings.TrimSpace(string(out))
}

// python runs statements in the project, as a view would, and returns what they print.
func inDjango(t *testing.T, db *pgtest.DB, code string) string {
	t.Helper()
	return succeeds(t, manage(t, db, "shell", "-c", code))
}

// starts runs a command until the test ends; then it must stop in order.
func starts(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		killed := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
		defer killed.Stop()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		require.NoError(t, cmd.Wait(), "%s", lazily(said.String))
	})
}

type lazily func() string

func (l lazily) String() string { return l() }

func ask[V any](t *testing.T, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), sql, args...).Scan(&value))
	return value
}

func becomes[V comparable](t *testing.T, db *pgtest.DB, want V, sql string, args ...any) {
	t.Helper()
	pgtest.Becomes(t, db, within, want, sql, args...)
}

const ann = "6f9619ff-8b86-4d11-b42d-00c04fc964ff"

// withCredits opens Ann's account.
const withCredits = `
import credits, pgtick
from django.db import transaction
from shop import orders
from pgtick.models import Job, Schedule, Slot
user = "` + ann + `"
credits.open_account(user)
credits.grant(user, 25, "start")
`

func TestOrder_Committed_IsRunByAWorker_AndItsStatusIsRead(t *testing.T) {
	t.Parallel()
	db := shop(t)
	id := inDjango(t, db, withCredits+`print(orders.order_render(user, "a red fox").job_id)`)
	require.Equal(t, "ready", ask[string](t, db, `select state from pgtick.jobs where id = $1::text::bigint`, id))

	starts(t, manage(t, db, "work"))
	becomes(t, db, "done", `select state from pgtick.jobs where id = $1::text::bigint`, id)
	require.Equal(t, "{'state': 'done', 'progress': 0.5, 'note': 'half of it is drawn', 'result': {'length': 22}, 'error': None} a picture of a red fox",
		inDjango(t, db, `
from shop import orders
from shop.models import Render
render = Render.objects.get()
print(orders.status(render), render.picture)`))
	require.Equal(t, "18 0", ask[string](t, db, `select balance || ' ' || held from credits.balance($1)`, ann), "7 of the 10 set aside were charged")
}

func TestOrder_RolledBack_LeavesNoJob(t *testing.T) {
	t.Parallel()
	db := shop(t)
	require.Equal(t, "rolled back", inDjango(t, db, withCredits+`
try:
    with transaction.atomic():
        orders.order_render(user, "a red fox")
        raise RuntimeError("rolled back")
except RuntimeError as error:
    print(error)`))
	require.EqualValues(t, 0, ask[int64](t, db, `select count(*) from pgtick.jobs where task = 'shop.render'`))
	require.EqualValues(t, 0, ask[int64](t, db, `select count(*) from public.shop_render`))
	require.Equal(t, "25 0", ask[string](t, db, `select balance || ' ' || held from credits.balance($1)`, ann))
}

// An attempt that fails after its writes leaves neither picture nor charge; the next one does both, once.
func TestTask_FailsAfterItsWrites_LeavesNothing_AndTheNextAttemptDoesItOnce(t *testing.T) {
	t.Parallel()
	db := shop(t)
	id := inDjango(t, db, withCredits+`print(orders.order_render(user, "a red fox").job_id)`)
	_, err := db.Pool.Exec(t.Context(), `
		create function public.refuse_first() returns trigger language plpgsql as $$ begin
			if (select attempt from pgtick.jobs where id = new.job_id) = 1 then raise 'not at the first attempt'; end if;
			return new;
		end $$;
		create constraint trigger late after update on public.shop_render deferrable initially deferred for each row execute function public.refuse_first();
		update pgtick.live_jobs set retry_policy = '{"kind": "list", "delays": ["100 ms"], "jitter": 0}'`)
	require.NoError(t, err)
	starts(t, manage(t, db, "work"))
	becomes(t, db, "1 error, 2 done", `select string_agg(attempt || ' ' || outcome, ', ' order by attempt) from pgtick.attempts where job_id = $1::text::bigint`, id)
	require.Equal(t, "18 0", ask[string](t, db, `select balance || ' ' || held from credits.balance($1)`, ann))
	require.EqualValues(t, 1, ask[int64](t, db, `select count(*) from credits.transactions where type = 'capture'`))
}

// What replaces the four Celery tasks: nothing in the project. A runner has them, and their schedules' fates are read by the models.
func TestFourTasks_RunWithoutAnyCodeOfTheProject(t *testing.T) {
	t.Parallel()
	db := shop(t)
	inDjango(t, db, withCredits)
	runner := exec.Command(pgtick, "work", "--http", "off", "--clock", "off")
	runner.Env = append(os.Environ(), "DATABASE_URL="+db.URL)
	starts(t, runner)
	inDjango(t, db, `
import pgtick
from pgtick.models import Schedule
for schedule in Schedule.objects.all():
    pgtick.run_now(schedule.name)`)
	becomes(t, db, 4, `select count(*)::int from pgtick.jobs where state = 'done' and schedule is not null`)
	require.Equal(t, strings.TrimSpace(`
cleanup-expired-credit-holds run_now done
periodic-credit-allocation run_now done
process-pending-credit-transactions run_now done
sync-credit-usage-with-supabase run_now done`), inDjango(t, db, `
from pgtick.models import Schedule, Slot
for s in Schedule.objects.order_by("name"):
    slot = Slot.objects.select_related("job").get(schedule=s.name)
    print(s.name, slot.fate, slot.job.state)`))
	require.Equal(t, "125 0", ask[string](t, db, `select balance || ' ' || held from credits.balance($1)`, ann), "the month's allocation")
}

func TestExample_ItsOwnTestsPass(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	cmd := manage(t, db, "test", "--no-input")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Regexp(t, `Ran [1-9][0-9]* tests`, string(out))
}

var pythonBlock = regexp.MustCompile("(?ms)^```python( celery)?\n(.*?)^```$")

// docs/from-celery.md shows Celery's code, which at least is Python, beside that of the example, which stands there word for word.
func TestFromCelery_ShowsTheExampleAsItIs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "from-celery.md"))
	require.NoError(t, err)
	var all strings.Builder
	for _, pattern := range []string{"*/*.py", "*/*/*.py"} {
		paths, err := filepath.Glob(filepath.Join("..", "..", "examples", "django", pattern))
		require.NoError(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			all.Write(text)
		}
	}
	shown := 0
	for _, block := range pythonBlock.FindAllStringSubmatch(string(page), -1) {
		if block[1] == "" {
			require.Contains(t, all.String(), block[2])
			shown++
			continue
		}
		check := exec.CommandContext(t.Context(), python, "-c", "import ast, sys; ast.parse(sys.stdin.read())")
		check.Stdin = strings.NewReader(block[2])
		out, err := check.CombinedOutput()
		require.NoError(t, err, "%s\n%s", block[2], out)
	}
	require.GreaterOrEqual(t, shown, 5)
}
