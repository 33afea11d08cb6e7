package faults

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// pace is how often the producer asks for a job.
func pace() time.Duration {
	if share() > 0 {
		return 8 * time.Millisecond
	}
	return 30 * time.Millisecond
}

// busy is a world with work in it, and no runner yet.
func busy(t *testing.T, db *pgtest.DB) *world {
	t.Helper()
	w := newWorld(t, db)
	w.args = usual
	w.produce(db.URL, pace())
	return w
}

func killRunners(t *testing.T, n int) *world {
	w := busy(t, pgtest.New(t))
	w.killSome(w.fleet(3), n, func() *process { return w.work() })
	return w
}

// killSome kills a runner that holds claims, n times, and starts another one in its place.
func (w *world) killSome(fleet []*process, n int, next func() *process) {
	w.t.Helper()
	for range n {
		i := rand.IntN(len(fleet))
		w.goOn(20)
		w.holding(fleet[i])
		w.killed = append(w.killed, killed{fleet[i].name, w.now()})
		fleet[i].kill()
		fleet[i] = next()
		w.keepsItsRules()
	}
}

// freezeRunners lets zombies wake that hold claims and open transactions, two at a time.
func freezeRunners(t *testing.T, n int) *world {
	w := busy(t, pgtest.New(t))
	fleet := w.fleet(4)
	for done := 0; done < n; done += 2 {
		rand.Shuffle(len(fleet), func(i, j int) { fleet[i], fleet[j] = fleet[j], fleet[i] })
		frozen := fleet[:2]
		at := make([]killed, len(frozen))
		w.goOn(20)
		for i, p := range frozen {
			w.holding(p)
			at[i] = killed{p.name, w.now()}
			p.signal(syscall.SIGSTOP)
		}
		for i := range frozen {
			w.took = append(w.took, w.givenBack(at[i]))
		}
		for i, p := range frozen {
			p.signal(syscall.SIGCONT)
			w.becomes(`select exists (select from pgtick.runner_leases as r where r.name = $1 and r.ended_at is null and r.registered_at > $2)`, p.name, at[i].at)
		}
		w.keepsItsRules()
	}
	w.injected = (n + 1) / 2 * 2
	w.note("reports of zombies that were refused: %d", ask[int](w, "select coalesce(sum(r.refused), 0)::int from pgtick.runner_leases as r"))
	return w
}

// terminateSessions takes runners' sessions of all kinds, and the producer's.
func terminateSessions(t *testing.T, n int) *world {
	w := busy(t, pgtest.New(t))
	w.fleet(2)
	w.ready()
	for range n {
		w.becomes(`select coalesce((select pg_terminate_backend(x.pid) from (select a.pid from pg_stat_activity as a
			where a.datname = current_database() and (a.usename = 'pgtick_runner' or a.application_name = $1) order by random() limit 1) as x), false)`, producerName)
		w.probe()
	}
	return w
}

// killBesideOldSnapshot keeps every row version that there is, from the beginning to the end.
func killBesideOldSnapshot(t *testing.T, n int) *world {
	db := pgtest.New(t)
	w := busy(t, db)
	old, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = old.PgConn().Conn().Close() })
	_, err = old.Exec(t.Context(), "begin isolation level repeatable read")
	require.NoError(t, err)
	_, err = old.Exec(t.Context(), "select txid_current(), count(*) from pgtick.live_jobs")
	require.NoError(t, err)
	w.killSome(w.fleet(3), n, func() *process { return w.work() })
	w.becomes(`select exists (select from pg_stat_activity as a where a.pid = $1 and a.state = 'idle in transaction')`, old.PgConn().PID())
	return w
}
