package schedules

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	netresearch "github.com/netresearch/go-cron"
	robfig "github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// peer is another cron, and where its rules are ours (docs/decisions/0009-peers.md). It always runs each real minute that a fold repeats.
type peer struct {
	name string
	// read parses for a zone, and says whether days match by both fields. Nil: it cannot read this.
	read func(text string, zone *time.Location) (next func(time.Time) time.Time, bothDays bool)
	gap  string // our on_gap that is nearest to what it does
	// agrees says whether a shift of whole hours, from one wall time to another, leaves the expression the same slots there and here.
	agrees func(e expression, before, after time.Time) bool
}

const starBit = 1 << 63 // in both: the field has a "*"

func peers() []peer {
	old := robfig.NewParser(robfig.Minute | robfig.Hour | robfig.Dom | robfig.Month | robfig.Dow | robfig.Descriptor)
	young := netresearch.MustNewParser(netresearch.Minute | netresearch.Hour | netresearch.Dom | netresearch.Month | netresearch.Dow | netresearch.Descriptor | netresearch.DowOrDom)
	return []peer{
		{"robfig/cron", func(text string, zone *time.Location) (func(time.Time) time.Time, bool) {
			read, err := old.Parse(text)
			if s, ok := read.(*robfig.SpecSchedule); err == nil && ok {
				s.Location = zone
				return s.Next, (s.Dom|s.Dow)&starBit != 0
			}
			return nil, false
		}, "skip", func(expression, time.Time, time.Time) bool { return true }},
		{"netresearch/go-cron", func(text string, zone *time.Location) (func(time.Time) time.Time, bool) {
			read, err := young.Parse(text)
			if s, ok := read.(*netresearch.SpecSchedule); err == nil && ok {
				s.Location = zone
				return s.Next, (s.Dom|s.Dow)&starBit != 0
			}
			return nil, false
		}, "run", func(e expression, before, after time.Time) bool {
			// It runs the gap's hour from the gap's end on, by the minutes of the expression, unless the hour before matched too.
			return after.Before(before) || !e.hour.has(before.Hour()) || !e.elapsed && e.minute.has(0) && !e.hour.has((before.Hour()+23)%24)
		}},
	}
}

// question is a span of which the slots are asked for, with the one transition that lies in it, if any.
type question struct {
	e        expression
	place    *place
	from, to time.Time
	shift    *time.Time
}

func TestSlots_WhereTheRulesAgree_AreThoseOfOtherCrons(t *testing.T) {
	t.Parallel()
	how, n, db := proofAmount(), seed(t), newDB(t)
	if how.shifts == 0 {
		how.shifts = 10
	} else {
		how.expressions /= 2
	}
	t.Run("peers", func(t *testing.T) {
		for i, peer := range peers() {
			t.Run(strings.ReplaceAll(peer.name, "/", "_"), func(t *testing.T) {
				t.Parallel()
				c := comparison{t: t, db: db, peer: peer, excluded: map[string]int{}, seed: n}
				roll := dice(rand.New(rand.NewPCG(n, uint64(100+i))).IntN)
				for _, name := range zones {
					c.inZone(newPlace(t, name), roll, how)
				}
				t.Logf("%s: %d slots compared away from transitions and %d around one, %d differences; left out: %v", peer.name, c.away, c.around, c.different, c.excluded)
				require.Zero(t, c.different)
				require.Greater(t, c.away, how.expressions*how.instants*how.slots/20, "too few were compared away from transitions")
				require.Greater(t, c.around, how.expressions*how.shifts, "too few were compared around transitions")
			})
		}
	})
}

type comparison struct {
	t                       *testing.T
	db                      *pgtest.DB
	peer                    peer
	seed                    uint64
	away, around, different int
	excluded                map[string]int // reason -> slots
}

func (c *comparison) inZone(p *place, roll dice, how amount) {
	shifts := p.shifts()
	for chunk := 0; chunk < how.expressions/len(zones); chunk += 50 {
		asked := []question{}
		for range min(50, how.expressions/len(zones)-chunk) {
			e := randomExpression(roll)
			for range how.instants {
				asked = append(asked, question{e: e, place: p, from: randomInstant(roll), to: forever})
			}
			for range min(how.shifts, len(shifts)) {
				at := shifts[roll(len(shifts))]
				asked = append(asked, question{e: e, place: p, from: at.Add(-48 * time.Hour), to: at.Add(48 * time.Hour), shift: &at})
			}
		}
		asked = slices.DeleteFunc(asked, func(q question) bool { return !q.e.fires() })
		for i, slots := range c.answers(asked, how.slots) {
			c.compare(asked[i], slots)
		}
	}
}

// answers are the slots of each question, after an instant only so many.
func (c *comparison) answers(asked []question, most int) [][]time.Time {
	var texts, zones []string
	var froms, tos []time.Time
	var mosts []*int
	for _, q := range asked {
		texts, zones, froms, tos = append(texts, q.e.text), append(zones, q.place.zone.String()), append(froms, q.from), append(tos, q.to)
		if q.shift == nil || q.e.every > 0 {
			mosts = append(mosts, &most)
		} else {
			mosts = append(mosts, nil)
		}
	}
	return all[[]time.Time](c.t, c.db, `
		select array(select s from pgtick.slots_between(pgtick.parse_cron(a.text), a.zone, a.low, a.high, a.most, $6, 'both') as s)
		from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::integer[]) with ordinality as a(text, zone, low, high, most, o)
		order by a.o`, texts, zones, froms, tos, mosts, c.peer.gap)
}

func (c *comparison) compare(q question, slots []time.Time) {
	next, bothDays := c.peer.read(strings.TrimSpace(q.e.text), q.place.zone)
	reason := ""
	switch {
	case q.e.every > 0:
		reason = "@every has no grid there"
	case next == nil:
		reason = "it cannot read it"
	case bothDays != q.e.bothDays:
		reason = "the day fields combine otherwise"
	case q.shift != nil:
		reason = c.atShift(q)
	}
	if reason != "" {
		c.excluded[reason] += len(slots)
		return
	}
	for i, want := range slots {
		from := q.from
		if i > 0 {
			from = slots[i-1]
		}
		switch {
		case q.shift == nil && !q.place.steady(from.Add(-24*time.Hour), want.Add(24*time.Hour)):
			c.excluded["a transition is near"]++
			continue
		case want.Sub(from) > 4*366*24*time.Hour:
			c.excluded["it gives up after five years"]++
			continue
		case q.shift == nil:
			c.away++
		default:
			c.around++
		}
		if got := next(from); !got.Equal(want) {
			c.different++
			if c.different <= 5 {
				c.t.Errorf("PGTICK_SEED=%d: %q in %s after %s: %s has %s, pgtick %s", c.seed, q.e.text, q.place.zone, from.In(q.place.zone), c.peer.name, got, want.In(q.place.zone))
			}
		}
	}
}

// atShift says why the slots around a transition cannot be compared.
func (c *comparison) atShift(q question) string {
	before, after := wallOf(q.shift.Add(-time.Minute), q.place.zone).Add(time.Minute), wallOf(*q.shift, q.place.zone)
	switch {
	case before.Minute() != 0 || after.Sub(before).Abs() != time.Hour:
		return "the transition is not by one hour, at a full one"
	case before.Before(after) && before.Hour() == 0: // both step from midnight to midnight, and go past the day that has none
		return "the gap holds midnight"
	case !c.peer.agrees(q.e, before, after):
		return "it runs a gap's times otherwise"
	}
	return ""
}

// steady says whether a zone's offset stays the same for a time.
func (p *place) steady(from, to time.Time) bool {
	_, until := from.In(p.zone).ZoneBounds()
	return until.IsZero() || until.After(to)
}
