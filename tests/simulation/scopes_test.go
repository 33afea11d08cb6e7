package simulation

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func do(kind string, more ...any) move {
	m := move{kind: kind}
	for _, x := range more {
		switch x := x.(type) {
		case int:
			m.n = x
		case string:
			m.s = x
		}
	}
	return m
}

// runners registers so many. The first one's lease is short: it dies while the others live on.
func runners(n int) (setup string) {
	for i := range n {
		lease := map[bool]string{true: "30 seconds", false: "10 minutes"}[i == 0]
		setup += fmt.Sprintf("select pgtick.register('R%d', '{default}', '{%s}', '%s');\n", i+1, strings.Join(allTasks, ","), lease)
	}
	return setup
}

// dying is how the first runner's lease runs out, and rescue() finds it twice.
var dying = []move{do("clock", "31 seconds"), do("rescue"), do("clock", "11 seconds"), do("rescue")}

// kindOf is the family of a scope: jobs, slots, credits, chains, limits, keys.
func (s *scope) kindOf() string { return strings.Fields(s.name)[0] }

// scopes are the small programs that are run in all orders.
func scopes() (all []*scope) {
	add := func(name string, r run, programs ...[]move) {
		r.name = name
		all = append(all, &scope{run: r, programs: programs})
	}

	// Two runners, two jobs.
	jobs := run{setup: runners(2) + "select pgtick.enqueue('echo'); select pgtick.enqueue('echo');", clients: []string{"R1", "R2", "P"}, jobs: []int64{1, 2}}
	add("jobs: finish, cancel, retry", jobs,
		[]move{do("claim", 2), do("begin fit"), do("commit"), do("finish", "done")},
		[]move{do("claim", 2), do("finish", "done"), do("finish", "done")},
		[]move{do("cancel"), do("retry")})
	add("jobs: rescue after the lease", jobs,
		[]move{do("claim"), do("begin fit"), do("commit")},
		[]move{do("claim", 2), do("begin fit", 1), do("commit")},
		dying)
	add("jobs: reports after the lease", jobs,
		[]move{do("claim"), do("finish", "done")},
		[]move{do("claim", 2), do("finish", 1, "done")},
		dying)
	add("jobs: a lost report, repeated", jobs,
		[]move{do("claim"), do("finish lost", "done"), do("again")},
		[]move{do("claim", 2), do("finish", "error 0 seconds")},
		dying)
	add("jobs: a lost claim, reconciled", jobs,
		[]move{do("claim lost"), do("reconcile"), do("claim"), do("finish", "done")},
		[]move{do("claim"), do("finish", "failed")},
		[]move{do("cancel"), do("retry")})
	add("jobs: errors, snoozes, a lost one", jobs,
		[]move{do("claim"), do("finish lost", "error 0 seconds"), do("again"), do("claim"), do("finish", "done")},
		[]move{do("claim", 2), do("finish", "snoozed 0 seconds")},
		[]move{do("cancel"), do("retry")})
	add("jobs: claims, heartbeat, release, cancel in transactions", jobs,
		[]move{do("begin claim"), do("commit"), do("heartbeat"), do("finish", "released")},
		[]move{do("claim"), do("begin finish", "done"), do("commit")},
		[]move{do("begin cancel"), do("commit")})
	add("jobs: checked effects", jobs,
		[]move{do("claim", 2), do("begin check"), do("commit"), do("finish", "error 0 seconds")},
		[]move{do("claim"), do("begin fit"), do("commit")},
		dying)
	add("jobs: a runner leaves", jobs,
		[]move{do("claim", 2), do("leave")},
		[]move{do("begin claim", 2), do("commit"), do("finish", "done")},
		[]move{do("begin cancel"), do("commit"), do("retry")})
	add("jobs: a crash in the middle of a transaction", jobs,
		[]move{do("claim", 2), do("begin fit"), do("crash")},
		[]move{do("claim"), do("begin fit"), do("commit")},
		dying)
	failed := run{setup: runners(1) + "select pgtick.enqueue('echo'); select pgtick.cancel(1);", clients: []string{"R1", "P", "Q"}, jobs: []int64{1}}
	add("jobs: two retries at once", failed,
		[]move{do("claim"), do("finish", "done")},
		[]move{do("begin retry"), do("commit"), do("begin cancel"), do("commit")},
		[]move{do("begin retry"), do("commit")})

	// Two ticks and a change of the schedule.
	every := func(policies string) run { // TK000: that a pause is to end in the past, when it had to wait for a tick
		return run{allow: []string{"TK000"}, setup: "select pgtick.schedule('s', '* * * * *', 'echo'" + policies + ");", clients: []string{"T", "U", "P", "time"}}
	}
	tick, clock := []move{do("begin tick"), do("commit")}, []move{do("clock", "65 seconds"), do("clock", "4 minutes")}
	for _, change := range []struct{ name, policies, sql string }{
		{"a new cron", "", "select pgtick.schedule('s', '*/2 * * * *', 'echo')"},
		{"other policies", ", p_on_missed => 'all'", "select pgtick.schedule('s', '* * * * *', 'echo', p_on_missed => 'skip', p_on_overlap => 'allow')"},
		{"a pause", ", p_on_overlap => 'allow'", "select pgtick.pause_schedule('s')"},
		{"a pause until soon", ", p_on_missed => 'all', p_on_overlap => 'allow'", "select pgtick.pause_schedule('s', pgtick.now() + interval '3 minutes')"},
		{"its end", ", p_on_missed => 'all'", "select pgtick.unschedule('s')"},
		{"another name", ", p_on_overlap => 'cancel'", "select pgtick.rename_schedule('s', 't')"},
		{"a run by hand", ", p_on_overlap => 'allow'", "select pgtick.run_now('s')"},
	} {
		add("slots: two ticks and "+change.name, every(change.policies), tick, tick, []move{do("begin sql", change.sql), do("commit")}, clock)
	}
	add("slots: two ticks, a pause and its end", every(", p_on_missed => 'all', p_on_overlap => 'allow'"), tick, tick,
		[]move{do("sql", "select pgtick.pause_schedule('s')"), do("begin sql", "select pgtick.resume_schedule('s', true)"), do("commit")}, clock)
	add("slots: two ticks, a change, the clock set back", every(", p_on_missed => 'all', p_on_overlap => 'allow'"), tick, tick,
		[]move{do("begin sql", "select pgtick.schedule('s', '*/3 * * * *', 'echo')"), do("commit")}, []move{do("clock", "9 minutes"), do("clock", "-7 minutes")})
	add("slots: a tick, two changes, the clock set back", every(", p_on_missed => 'all', p_on_overlap => 'allow', p_catch_up_limit => 5"), tick,
		[]move{do("begin sql", "select pgtick.schedule('s', '* * * * *', 'echo', p_on_missed => 'all')"), do("sql", "select pgtick.schedule('s', '*/3 * * * *', 'echo', p_on_overlap => 'cancel')"), do("commit")},
		[]move{do("clock", "1 hour"), do("clock", "-1 hour")})
	add("slots: a pause while the clock is set back before the schedule was made", every(", p_on_overlap => 'allow'"), tick, []move{do("tick")},
		[]move{do("begin sql", "select pgtick.pause_schedule('s')"), do("commit"), do("sql", "select pgtick.resume_schedule('s')")}, []move{do("clock", "-1 hour"), do("clock", "65 minutes")})
	waiting := every(", p_on_missed => 'all', p_on_overlap => 'wait'")
	waiting.setup, waiting.clients = runners(1)+waiting.setup, []string{"R1", "T", "U", "time"}
	add("slots: two ticks, jobs that wait for each other", waiting,
		[]move{do("claim", 2), do("begin fit"), do("commit")}, tick, tick, []move{do("clock", "65 seconds"), do("clock", "60 seconds")})

	// One account.
	account := run{setup: fmt.Sprintf("select credits.open_account('%s'); select credits.open_account('%s'); select credits.grant('%s', 10, 'first'); select credits.hold('%s', 4, '10 minutes', 'set aside');",
		user, other, user, user), clients: []string{"A", "B", "C", "D"}, holds: []int64{1}}
	expiry := []move{do("clock", "11 minutes"), do("cleanup")}
	add("credits: charge, capture, release, expiry", account,
		[]move{do("begin charge", 7), do("commit")}, []move{do("begin capture"), do("commit")}, []move{do("begin release"), do("commit")}, expiry)
	add("credits: one key twice, extend, expiry", account,
		[]move{do("begin charge", 3, "same"), do("commit")}, []move{do("begin charge", 3, "same"), do("commit")}, []move{do("begin extend", "20 minutes"), do("commit")}, expiry)
	add("credits: charge again, hold, part of a capture, expiry", account,
		[]move{do("charge lost", 8, "a"), do("charge", 8, "a")}, []move{do("begin hold", 6, "1 minute"), do("commit")}, []move{do("begin capture", ", 2"), do("commit")},
		[]move{do("clock", "11 minutes"), do("begin cleanup"), do("commit")})
	add("credits: transfers both ways, allocation, a rollback", account,
		[]move{do("begin transfer", 2), do("commit")}, []move{do("begin transfer", 3), do("commit")}, []move{do("begin allocate"), do("commit")}, []move{do("begin charge", 5), do("rollback")})

	// Two parents and a child. A report that meets a lock is answered "ask again".
	parents := run{setup: runners(2) + "select pgtick.enqueue('echo'); select pgtick.enqueue('echo'); select pgtick.claim(1, '{default}', '{echo}', 1); select pgtick.claim(2, '{default}', '{echo}', 1);",
		clients: []string{"R1", "R2", "E", "K"}, jobs: []int64{1, 2}, held: map[int]claim{0: {1, 1}, 1: {2, 2}}}
	family := []move{do("begin enqueue", "'echo', p_after => '{1,2}'"), do("commit")}
	report := func(outcome string) []move {
		return []move{do("begin finish", outcome), do("commit"), do("finish", outcome)}
	}
	add("chains: both parents done", parents, report("done"), report("done"), family, []move{do("rescue")})
	add("chains: one parent fails", parents, report("failed"), report("done"), family, []move{do("rescue")})
	add("chains: in the task's transaction", parents, []move{do("begin fit"), do("commit")}, []move{do("begin fit"), do("commit")}, family, []move{do("begin rescue"), do("commit")})
	child := parents
	child.setup, child.jobs = parents.setup+"select pgtick.enqueue('echo', p_after => '{1,2}');", []int64{3}
	add("chains: the child is cancelled, and comes back", child, report("done"), report("done"), []move{do("begin cancel"), do("commit"), do("retry")}, []move{do("rescue")})
	add("chains: a grandchild", child, report("failed"), report("done"), []move{do("begin enqueue", "'echo', p_after => '{3}', p_after_outcome => 'any'"), do("commit")}, []move{do("rescue")})
	batch := parents
	batch.setup = runners(2) + `select pgtick.create_batch('callback', p_outcome => 'any'); select pgtick.enqueue('echo', p_batch_id => 1); select pgtick.enqueue('echo', p_batch_id => 1);
		select pgtick.claim(1, '{default}', '{echo}', 1); select pgtick.claim(2, '{default}', '{echo}', 1);`
	batch.held, batch.jobs = map[int]claim{0: {2, 1}, 1: {3, 2}}, []int64{1, 2, 3}
	add("chains: the last two of a batch, and one more", batch, report("done"), report("failed"), []move{do("begin enqueue", "'echo', p_batch_id => 1"), do("commit")}, []move{do("rescue")})
	sequence := parents
	sequence.setup = runners(2) + "select pgtick.enqueue('echo', p_sequence_key => 'k'); select pgtick.claim(1, '{default}', '{echo}', 1);"
	sequence.held, sequence.jobs = map[int]claim{0: {1, 1}}, []int64{1}
	next := []move{do("begin enqueue", "'echo', p_sequence_key => 'k'"), do("commit")}
	add("chains: a sequence grows as its first ends", sequence, report("done"), []move{do("claim"), do("finish", "done")}, next, next)
	add("chains: a sequence grows as its first fails", sequence, report("failed"), []move{do("claim"), do("finish", "done")}, next, []move{do("retry"), do("rescue")})

	// Places under a limit.
	limited := func(settings string, most int, perKey bool, jobs string) run {
		return run{setup: runners(2) + "select pgtick.set_limit('limited', " + settings + ");" + jobs + fmt.Sprintf("insert into sim.most values ('limited', %v, %d);", perKey, most),
			clients: []string{"R1", "R2", "P"}, jobs: []int64{1, 2, 3}}
	}
	// (The row of the places is there, as it is once a job of the task has run.)
	three := "select pgtick.enqueue('limited'); select pgtick.enqueue('limited'); select pgtick.enqueue('limited'); insert into pgtick.limit_places values ('limited', '', '{}');"
	keyed := strings.ReplaceAll("select pgtick.enqueue('limited'); select pgtick.enqueue('limited'); select pgtick.enqueue('limited');", "'limited'", "'limited', p_limit_key => 'k'")
	worker, slow := []move{do("claim"), do("begin finish", "done"), do("commit")}, []move{do("begin claim", 2), do("commit"), do("finish", "done")}
	add("limits: one place, three jobs", limited("p_max_running => 1", 1, false, three), worker, slow, []move{do("rescue"), do("cancel", 1)})
	add("limits: the limit grows", limited("p_max_running => 1", 2, false, three), worker, slow, []move{do("begin sql", "select pgtick.set_limit('limited', p_max_running => 2)"), do("commit")})
	add("limits: the limit shrinks", limited("p_max_running => 2", 2, false, three), worker, slow, []move{do("begin sql", "select pgtick.set_limit('limited', p_max_running => 1)"), do("commit")})
	add("limits: one place a key", limited("p_max_running => 1, p_per_key => true", 1, true, keyed), worker, slow, []move{do("rescue"), do("cancel", 2)})
	add("limits: the limit of a key goes", limited("p_max_running => 1, p_per_key => true", 3, true, keyed), worker, slow, []move{do("begin sql", "select pgtick.remove_limit('limited', true)"), do("commit")})
	add("limits: the limit of a key goes, and its job takes long", limited("p_max_running => 1, p_per_key => true", 3, true, keyed), []move{do("claim"), do("heartbeat")}, []move{do("begin claim"), do("commit")},
		[]move{do("begin sql", "select pgtick.remove_limit('limited', true)"), do("commit")})
	add("limits: a runner with places dies", limited("p_max_running => 1", 1, false, three), []move{do("claim"), do("begin fit"), do("commit")}, []move{do("begin claim"), do("commit"), do("finish", "error 0 seconds")}, dying)

	// Unique keys.
	unique := run{setup: runners(1), clients: []string{"R1", "E", "F", "P"}}
	enqueue := func(more string) []move {
		return []move{do("begin enqueue", "'keyed', p_unique_key => 'k'"+more), do("commit")}
	}
	add("keys: two enqueues and a run", unique, []move{do("claim"), do("begin finish", "done"), do("commit")}, enqueue(""), enqueue(", p_on_conflict => 'replace_args'"), []move{do("cancel")})
	add("keys: a run fails and comes back", unique, []move{do("claim"), do("finish", "failed")}, enqueue(""), enqueue(", p_on_conflict => 'move_run_at'"), []move{do("begin retry"), do("commit")})
	add("keys: an enqueue is rolled back", unique, []move{do("claim"), do("begin fit"), do("commit")}, []move{do("begin enqueue", "'keyed', p_unique_key => 'k'"), do("rollback")}, enqueue(""), []move{do("rescue")})
	told := unique
	told.setup += "select pgtick.enqueue('keyed', p_unique_key => 'ready', p_unique_states => '{ready}');"
	told.jobs = []int64{1}
	tell := []move{do("begin tell", "'keyed', p_unique_key => 'ready', p_unique_states => '{ready}'"), do("commit")}
	add("keys: who is told of a job is seen by its run", told, []move{do("claim", 2), do("begin finish", "done"), do("commit")}, tell, tell, []move{do("cancel")})
	return all
}

// TestScopes_InEveryOrder_NothingIsWrong: "make simulate" runs all orders of each scope, and those in which pgtick bounds a
// wait for a lock twice: where it lasts, and where it ends at once. "make test"
// runs some of each, chosen at random.
func TestScopes_InEveryOrder_NothingIsWrong(t *testing.T) {
	t.Parallel()
	n, _ := seed(t)
	t.Logf("PGTICK_SEED=%d", n)
	all := scopes()
	for _, m := range []mode{patient, impatient} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, m)
			total := 0
			for i, s := range all {
				if m == impatient && !s.bounded() || !strings.Contains(s.name, os.Getenv("PGTICK_SIMULATE_SCOPES")) {
					continue
				}
				began := time.Now()
				orders, f, err := w.orders(s, rand.New(rand.NewPCG(n, uint64(i))))
				require.NoError(t, err)
				w.show(t, f)
				total += orders
				t.Logf("%-60s %6d orders in %s", s.name, orders, time.Since(began).Round(time.Millisecond))
			}
			t.Logf("%d orders in all, %+v", total, *w.stats)
		})
	}
}

// bounded says whether anything in a scope gives up a wait for a lock: otherwise both modes are the same.
func (s *scope) bounded() bool {
	return slices.Contains([]string{"slots:", "chains:", "limits:"}, s.kindOf())
}

func (w *world) orders(s *scope, random *rand.Rand) (int, *finding, error) {
	if full() {
		return w.exhaust(s, 0)
	}
	return w.sample(s, map[mode]int{patient: 2, impatient: 1}[w.mode], random)
}

// show fails the test for a finding, shortened.
func (w *world) show(t *testing.T, f *finding) {
	t.Helper()
	if f == nil {
		return
	}
	short, err := w.shorten(f)
	require.NoError(t, err)
	require.Fail(t, "something is wrong", short.String())
}
