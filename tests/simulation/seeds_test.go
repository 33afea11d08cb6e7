package simulation

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// habit is how often a client does what.
type habit struct {
	weight int
	move   func(r *rand.Rand) move
}

func often(weight int, kind string) habit {
	return habit{weight, func(r *rand.Rand) move { return move{kind: kind, n: r.IntN(60)} }}
}

func oneOf(weight int, kind string, texts ...string) habit {
	return habit{weight, func(r *rand.Rand) move { return move{kind: kind, n: r.IntN(60), s: texts[r.IntN(len(texts))]} }}
}

func few(weight int, kind string) habit {
	return habit{weight, func(r *rand.Rand) move { return move{kind: kind, n: 1 + r.IntN(4)} }}
}

var (
	outcomes = []string{"done", "done", "done", "failed", "error 0 seconds", "error 20 seconds", "snoozed 5 seconds", "released", "cancelled"}
	// What a worker does; what begins a transaction is ended by endings.
	work = []habit{few(20, "claim"), few(3, "claim lost"), few(6, "begin claim"), oneOf(14, "finish", outcomes...), oneOf(12, "begin finish", outcomes...), oneOf(5, "finish lost", outcomes...),
		often(9, "again"), often(16, "begin fit"), often(3, "fit"), often(5, "begin check"), often(6, "heartbeat"), often(4, "reconcile"), often(1, "leave"), often(8, "register"),
		often(1, "crash"), often(2, "cut"), often(4, "rescue"), often(2, "tick")}
	// What an application, a person and a clock do.
	asking = []habit{
		oneOf(16, "enqueue", wishes...), oneOf(18, "begin enqueue", wishes...), often(5, "cancel"), often(5, "begin cancel"), often(5, "retry"), often(5, "begin retry"),
		oneOf(3, "batch", "any", "done"), oneOf(2, "begin batch", "any", "done"),
		oneOf(4, "begin tell", "'keyed', p_unique_key => 'ready', p_unique_states => '{ready}'", "'keyed', p_unique_key => 'ready', p_unique_states => '{ready}', p_on_conflict => 'replace_args'"),
		oneOf(4, "sql", changes...), oneOf(5, "begin sql", changes...),
		often(8, "tick"), often(4, "begin tick"), often(5, "rescue"), often(2, "begin rescue"), often(2, "sweep"), often(1, "cut"),
		few(4, "charge"), few(3, "begin charge"), oneOf(2, "charge", "the same key"), few(2, "grant"), oneOf(4, "hold", "1 minute", "10 minutes"), oneOf(2, "begin hold", "1 minute", "10 minutes"),
		oneOf(4, "capture", "", ", 1"), oneOf(2, "begin capture", "", ", 1"), often(2, "release"), often(2, "begin release"), oneOf(2, "extend", "2 minutes"), often(3, "cleanup"),
		often(2, "begin cleanup"), often(3, "transfer"), often(3, "begin transfer"), often(1, "allocate"),
	}
	leaps  = []habit{oneOf(12, "clock", "1 second", "11 seconds", "31 seconds", "31 seconds", "70 seconds", "5 minutes"), oneOf(2, "clock", "-40 seconds", "-10 minutes", "-1 hour", "1 hour")}
	wishes = []string{"'echo'", "'echo'", "'echo', p_max_attempts => 2", "'limited'", "'limited', p_limit_key => 'a'", "'limited', p_limit_key => 'b'", "'keyed', p_unique_key => 'k'",
		"'keyed', p_unique_key => 'k', p_on_conflict => 'replace_args'", "'keyed', p_unique_key => 'm', p_on_conflict => 'move_run_at', p_run_at => pgtick.now() + interval '10 seconds'",
		"'echo', p_after => array[{job}]::bigint[]", "'echo', p_after => array[{job}, {job2}]::bigint[], p_after_outcome => 'any'", "'echo', p_sequence_key => 's'",
		"'echo', p_sequence_key => 's', p_sequence_failure => 'skip'", "'limited', p_sequence_key => 't', p_limit_key => 'a'", "'echo', p_run_at => pgtick.now() + interval '30 seconds'"}
	changes = []string{"select pgtick.schedule('s', '*/2 * * * *', 'echo', p_on_missed => 'all', p_on_overlap => 'allow', p_catch_up_limit => 5)",
		"select pgtick.schedule('s', '* * * * *', 'echo', p_on_missed => 'all', p_catch_up_limit => 5)", "select pgtick.schedule('s', '*/3 * * * *', 'limited', p_on_overlap => 'cancel')",
		"select pgtick.pause_schedule('s')", "select pgtick.pause_schedule('s', pgtick.now() + interval '4 minutes')", "select pgtick.resume_schedule('s')",
		"select pgtick.resume_schedule('s', s.on_missed <> 'skip') from pgtick.schedules as s where s.name = 's'", "select pgtick.unschedule('s')", "select pgtick.run_now('s')",
		"select pgtick.set_limit('limited', p_max_running => 1)", "select pgtick.set_limit('limited', p_max_running => 3)", "select pgtick.remove_limit('limited')",
		"select pgtick.resume_sequence('s')", "select pgtick.resume_sequence('t')", "select pgtick.pause_queue('elsewhere')"}
)

// longRun is the run of a seed: two or three runners, one or two others, 30 to 60 moves.
func longRun(n uint64) *run {
	r := random(n)
	workers, others := 2+r.IntN(2), 1+r.IntN(2)
	run := &run{name: fmt.Sprintf("seed %d", n), allow: []string{"40P01", "TK000"}, jobs: []int64{1, 2}}
	run.setup = runners(workers) + fmt.Sprintf(`select pgtick.enqueue('echo'); select pgtick.enqueue('limited', p_limit_key => 'a');
		select pgtick.set_limit('limited', p_max_running => 2); select pgtick.set_limit('limited', p_max_running => 1, p_per_key => true);
		insert into sim.most values ('limited', true, 1);
		select pgtick.schedule('s', '* * * * *', 'echo', p_on_missed => 'all', p_on_overlap => '%s', p_catch_up_limit => 5);
		select credits.open_account('%s'); select credits.open_account('%s'); select credits.grant('%s', 12, 'first');`, []string{"wait", "allow"}[r.IntN(2)], user, other, user)
	for i := range workers {
		run.clients = append(run.clients, fmt.Sprintf("R%d", i+1))
	}
	for i := range others {
		run.clients = append(run.clients, []string{"E", "P"}[i])
	}
	run.clients = append(run.clients, "time")
	open := make([]bool, len(run.clients))
	for range 30 + r.IntN(31) {
		who := r.IntN(len(run.clients))
		if r.IntN(30) == 0 { // the first runner's death, which does not come by chance
			for _, m := range dying {
				m.who = workers
				run.moves = append(run.moves, m)
			}
		}
		var m move
		switch {
		case run.clients[who] == "time":
			m = pick(r, leaps)
		case open[who] && r.IntN(10) < 4:
			m = move{kind: "commit"}
			if r.IntN(7) == 0 {
				m.kind = []string{"rollback", "cut"}[r.IntN(2)]
			}
		case who < workers:
			m = pick(r, work)
		default:
			m = pick(r, asking)
		}
		m.who = who
		open[who] = (open[who] || len(m.kind) > 6 && m.kind[:6] == "begin ") && m.kind != "commit" && m.kind != "rollback" && m.kind != "cut" && m.kind != "crash"
		run.moves = append(run.moves, m)
	}
	return run
}

func pick(r *rand.Rand, habits []habit) move {
	total := 0
	for _, h := range habits {
		total += h.weight
	}
	at := r.IntN(total)
	for _, h := range habits {
		if at -= h.weight; at < 0 {
			return h.move(r)
		}
	}
	panic("weights")
}

// TestSeeds_OfRandomRuns_NothingIsWrong: PGTICK_SEED=n runs that one seed again, and prints it.
func TestSeeds_OfRandomRuns_NothingIsWrong(t *testing.T) {
	t.Parallel()
	first, asked := seed(t)
	seeds := number(t, "PGTICK_SIMULATE_SEEDS", amount(20, 10_000))
	for i, m := range []mode{patient, impatient} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, m)
			began := time.Now()
			if asked {
				f, err := w.replay(longRun(first))
				require.NoError(t, err)
				t.Logf("%s", &finding{run: *longRun(first), mode: m, trace: w.trace})
				w.show(t, f)
				return
			}
			for n := first + uint64(i); n < first+uint64(seeds); n += 2 {
				f, err := w.replay(longRun(n))
				require.NoError(t, err, "PGTICK_SEED=%d", n)
				if f != nil {
					t.Logf("PGTICK_SEED=%d", n)
					w.show(t, f)
				}
				if full() && (n-first)/2%500 == 499 {
					t.Logf("up to seed %d in %s", n, time.Since(began).Round(time.Second))
				}
			}
			t.Logf("seeds %d to %d, every second one, in %s: %+v", first, first+uint64(seeds)-1, time.Since(began).Round(time.Second), *w.stats)
		})
	}
}
