package schedules

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// amount is how much a proof compares. "make proof" takes all of it, "make test" a sample.
type amount struct {
	expressions, instants, slots int
	shifts                       int // of its zone, for each expression; 0: all
}

func proofAmount() amount {
	if os.Getenv("PGTICK_PROOF") == "full" {
		return amount{expressions: 10_000, instants: 20, slots: 50}
	}
	return amount{expressions: 200, instants: 3, slots: 50, shifts: 2}
}

// tally counts what was compared.
type tally struct {
	mu                                                                sync.Mutex
	expressions, neverFire, instants, shifts, slots, nears, different int
}

func (c *tally) add(more *tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expressions += more.expressions
	c.neverFire += more.neverFire
	c.instants += more.instants
	c.shifts += more.shifts
	c.slots += more.slots
	c.nears += more.nears
	c.different += more.different
}

// subject is an expression with the settings under which it is compared, and its row in the database.
type subject struct {
	n         int
	e         expression
	gap, fold string
}

// TestSlots_OfRandomExpressions is the proof of sections 1 and 2 of sql/10_cron.sql.
func TestSlots_OfRandomExpressions_AreThoseFoundByWalkingTheMinutes(t *testing.T) {
	t.Parallel()
	how, db, start := proofAmount(), newDB(t), time.Now()
	n, total := seed(t), &tally{}
	makeProofTable(t, db)
	t.Run("zones", func(t *testing.T) {
		for i, name := range zones {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := &proof{t: t, db: db, seed: n, place: newPlace(t, name), roll: rand.New(rand.NewPCG(n, uint64(i))).IntN, how: how}
				p.run(i)
				total.add(&p.count)
			})
		}
	})
	t.Logf("%d expressions (and %d that never fire, all refused), %d zones: %d instants with %d slots after them, %d times the days around a transition with %d slots; %d differences; %s",
		total.expressions, total.neverFire, len(zones), total.instants, total.slots, total.shifts, total.nears, total.different, time.Since(start).Round(time.Second))
	require.Zero(t, total.different)
	require.Equal(t, how.expressions, total.expressions)
	require.Equal(t, how.expressions*how.instants, total.instants)
}

// makeProofTable makes the table of what is compared, so that each expression is parsed once, as in pgtick.schedule_defs.
func makeProofTable(t *testing.T, db *pgtest.DB) {
	t.Helper()
	exec(t, db, `
		create function public.code_of(p_cron text, out code text, out cron pgtick.cron) language plpgsql as $$
		begin
			cron := pgtick.parse_cron(p_cron);
		exception when others then
			code := sqlstate;
		end $$;
		create table public.subjects (n integer primary key, zone text not null, gap text not null, fold text not null, text text not null, cron pgtick.cron not null)`)
}

// proof is what one zone's expressions go through.
type proof struct {
	t     *testing.T
	db    *pgtest.DB
	seed  uint64
	place *place
	roll  dice
	how   amount
	count tally
}

func (p *proof) run(zone int) {
	shifts := p.place.shifts()
	subjects := p.subjects(zone)
	for batch := range slices.Chunk(subjects, 25) {
		p.store(batch)
		p.compareInstants(batch)
		p.compareShifts(batch, shifts)
	}
}

// subjects are random expressions under each policy in turn. Those that never fire come on top: parse_cron refuses them, or misses one.
func (p *proof) subjects(zone int) []subject {
	made := []subject{}
	for i := 0; len(made)*len(zones)+zone < p.how.expressions; i++ {
		e := randomExpression(p.roll)
		if !e.fires() {
			code := one[*string](p.t, p.db, "select code from public.code_of($1)", e.text)
			require.True(p.t, code != nil && *code == "TK016", "PGTICK_SEED=%d: %q never fires, but is not refused for that", p.seed, e.text)
			p.count.neverFire++
			continue
		}
		made = append(made, subject{n: len(made)*len(zones) + zone, e: e, gap: gaps[i%2], fold: folds[i/2%3]})
	}
	p.count.expressions += len(made)
	return made
}

func (p *proof) store(batch []subject) {
	for _, s := range batch {
		_, err := p.db.Pool.Exec(p.t.Context(), "insert into public.subjects select $1, $2, $3, $4, $5, pgtick.parse_cron($5)", s.n, p.place.zone.String(), s.gap, s.fold, s.e.text)
		require.NoError(p.t, err, "PGTICK_SEED=%d: %q", p.seed, s.e.text)
	}
}

// compareInstants: the slots after random instants, by slots_between, by next_slot from one to the next (every fourth), and, where the
// policies are its own, by preview.
func (p *proof) compareInstants(batch []subject) {
	var ns []int
	var instants []time.Time
	for _, s := range batch {
		for range p.how.instants {
			ns, instants = append(ns, s.n), append(instants, randomInstant(p.roll))
		}
	}
	rows, err := p.db.Pool.Query(p.t.Context(), `
		select array(select b from pgtick.slots_between(s.cron, s.zone, i.instant, 'infinity', $3, s.gap, s.fold) as b),
			case when i.o % 4 = 1 then array(
				with recursive chain (slot, n) as (
					select pgtick.next_slot(s.cron, s.zone, i.instant, s.gap, s.fold), 1
					union all
					select pgtick.next_slot(s.cron, s.zone, c.slot, s.gap, s.fold), c.n + 1 from chain as c where c.slot is not null and c.n < $3)
				select c.slot from chain as c where c.slot is not null order by c.n) end,
			case when i.o % 4 = 2 and s.gap = 'run' and s.fold = 'first' then array(select b from pgtick.preview(s.text, s.zone, i.instant, $3) as b) end
		from unnest($1::integer[], $2::timestamptz[]) with ordinality as i(n, instant, o) join public.subjects as s using (n)
		order by i.o`, ns, instants, p.how.slots)
	require.NoError(p.t, err)
	at := 0
	var between, chained, previewed []time.Time
	_, err = pgx.ForEachRow(rows, []any{&between, &chained, &previewed}, func() error {
		s, from := batch[at/p.how.instants], instants[at]
		want := p.place.slots(s.e, from, forever, p.how.slots, s.gap, s.fold)
		p.same(s, "slots_between", from, want, between)
		if chained != nil {
			p.same(s, "next_slot", from, want, chained)
		}
		if previewed != nil {
			p.same(s, "preview", from, want, previewed)
		}
		p.count.instants++
		p.count.slots += len(want)
		at++
		return nil
	})
	require.NoError(p.t, err)
	require.Len(p.t, instants, at)
}

var forever = time.Date(3999, 1, 1, 0, 0, 0, 0, time.UTC)

// compareShifts: every slot within two days of a transition, and that next_slot finds each from just before it: ticks take that as the sign
// that a zone's rules have not moved it.
func (p *proof) compareShifts(batch []subject, all []time.Time) {
	var ns []int
	var shifts []time.Time
	for _, s := range batch {
		chosen := slices.Clone(all)
		for p.how.shifts > 0 && len(chosen) > p.how.shifts {
			at := p.roll(len(chosen))
			chosen = slices.Delete(chosen, at, at+1)
		}
		for _, shift := range chosen {
			ns, shifts = append(ns, s.n), append(shifts, shift)
		}
	}
	rows, err := p.db.Pool.Query(p.t.Context(), `
		select b.slots, i.o % 4 <> 1 or not exists (
			select from unnest(b.slots) as slot where pgtick.next_slot(s.cron, s.zone, slot - interval '1 microsecond', s.gap, s.fold) is distinct from slot)
		from unnest($1::integer[], $2::timestamptz[]) with ordinality as i(n, shift, o) join public.subjects as s using (n)
		cross join lateral (select array(select b from pgtick.slots_between(s.cron, s.zone, i.shift - interval '48 hours', i.shift + interval '48 hours',
			case when (s.cron).every_seconds is null then null else 100 end, s.gap, s.fold) as b) as slots) as b
		order by i.o`, ns, shifts)
	require.NoError(p.t, err)
	at := 0
	var got []time.Time
	var found bool
	_, err = pgx.ForEachRow(rows, []any{&got, &found}, func() error {
		s, from, to := p.of(batch, ns[at]), shifts[at].Add(-48*time.Hour), shifts[at].Add(48*time.Hour)
		most := 0
		if s.e.every > 0 {
			most = 100
		}
		want := p.place.slots(s.e, from, to, most, s.gap, s.fold)
		p.same(s, "slots_between", from, want, got)
		if !found {
			p.differ(s, "next_slot does not find each slot from just before it", from)
		}
		p.count.shifts++
		p.count.nears += len(want)
		at++
		return nil
	})
	require.NoError(p.t, err)
	require.Len(p.t, shifts, at)
}

func (p *proof) of(batch []subject, n int) subject {
	return batch[(n-batch[0].n)/len(zones)]
}

func (p *proof) same(s subject, what string, from time.Time, want []int64, got []time.Time) {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			p.differ(s, fmt.Sprintf("%s has no slot number %d: walking finds %s", what, i+1, utc(want[i])), from)
		case i >= len(want):
			p.differ(s, fmt.Sprintf("%s has %s as slot number %d: walking finds none", what, got[i].UTC().Format(time.RFC3339Nano), i+1), from)
		case got[i].Unix() != want[i] || got[i].Nanosecond() != 0:
			p.differ(s, fmt.Sprintf("%s has %s as slot number %d: walking finds %s", what, got[i].UTC().Format(time.RFC3339Nano), i+1, utc(want[i])), from)
		default:
			continue
		}
		return
	}
}

func utc(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }

// differ tells of the first few differences, so that each can be looked at by hand.
func (p *proof) differ(s subject, what string, from time.Time) {
	p.count.different++
	if p.count.different <= 5 {
		p.t.Errorf("PGTICK_SEED=%d: %q in %s after %s, on_gap %s, on_fold %s: %s", p.seed, s.e.text, p.place.zone, from.Format(time.RFC3339Nano), s.gap, s.fold, what)
	}
}
