package credits_model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// shared is what the sessions have heard of: each may close a hold that another has opened, and send again what another has sent.
type shared struct {
	mu           sync.Mutex
	sent         []operation // with keys
	holds        []int64
	transactions []int64
	keys         int
}

func keep[T any](list []T, value T) []T {
	if len(list) >= 300 {
		list = append(list[:0], list[100:]...)
	}
	return append(list, value)
}

// heard takes note of an answer.
func (s *shared) heard(o *operation, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var id int64
	if _, err := fmt.Sscan(a.text, &id); err == nil && a.out.code == "" {
		switch o.kind {
		case "hold":
			s.holds = keep(s.holds, id)
		case "grant", "adjust", "charge", "capture", "release", "submit", "refund", "transfer", "set_tier", "allocate":
			s.transactions = keep(s.transactions, id)
		}
	}
	if o.key != nil {
		s.sent = keep(s.sent, *o)
	}
	for i, row := range o.rows {
		if i%16 == 0 && row.key != nil {
			s.sent = keep(s.sent, row)
		}
	}
}

// generator makes random calls.
type generator struct {
	*rand.Rand
	shared  *shared
	users   []string
	weights []weighted
	model   *replayer // where it is known what the ledger holds: aims at the edges
	now     func() time.Time
	rows    int // at most, of charge_many
	settled int // so many of the users have accounts from the beginning: only for them is it sure what charge_many locks
}

type weighted struct {
	kind   string
	weight int
}

const nobody = "00000000-0000-0000-0000-00000000dead"

func (g *generator) chance(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, list []T, or T) T {
	if len(list) == 0 {
		return or
	}
	return list[g.IntN(len(list))]
}

func (g *generator) kind() string {
	sum := 0
	for _, w := range g.weights {
		sum += w.weight
	}
	n := g.IntN(sum)
	for _, w := range g.weights {
		if n -= w.weight; n < 0 {
			return w.kind
		}
	}
	panic("unreachable")
}

var (
	tiers     = []string{"standard", "premium", "odd", "nothing"}
	endpoints = []string{"/v1/a", "/v1/b", "/old", "/none"}
	texts     = []string{"", "words", "Überweisung ✓", "a|b\\n", strings.Repeat("ü", 255)}
)

func (g *generator) next() operation {
	if g.chance(12) {
		if o, ok := g.again(); ok {
			return o
		}
	}
	o := g.plain(g.kind())
	if g.chance(40) || g.model != nil && g.chance(10) {
		g.spoil(&o)
	}
	return o
}

// again is an earlier request, word for word or with something else in it.
func (g *generator) again() (operation, bool) {
	g.shared.mu.Lock()
	defer g.shared.mu.Unlock()
	if len(g.shared.sent) == 0 {
		return operation{}, false
	}
	o := pick(g, g.shared.sent, operation{})
	switch g.IntN(5) {
	case 0:
		if o.amount != nil && *o.amount < math.MaxInt64 {
			o.amount = ptr(*o.amount + 1)
		}
	case 1:
		o.description, o.ref = o.ref, o.description
	}
	if o.kind == "charge" && g.chance(8) {
		o.kind = "grant"
		o.endpoint = nil
	}
	return o, true
}

func (g *generator) plain(kind string) operation {
	o := operation{kind: kind}
	g.shared.mu.Lock()
	if slices.Contains([]string{"grant", "adjust", "charge", "hold", "submit", "refund", "transfer"}, kind) {
		g.shared.keys++
		o.key = ptr(fmt.Sprintf("k%d", g.shared.keys))
		if g.chance(50) {
			o.key = ptr(*o.key + strings.Repeat("k", 255-len(*o.key)))
		}
	}
	o.hold, o.transaction = pick(g, g.shared.holds, 1), pick(g, g.shared.transactions, 1)
	g.shared.mu.Unlock()
	if g.chance(60) {
		o.hold, o.transaction = 1_000_000_000, 1_000_000_000
	}
	o.user, o.to = g.someone(), g.someone()
	if kind == "open_account" {
		o.user = pick(g, g.users, nobody) // nobody stays nobody
	}
	o.tier = pick(g, tiers, "")
	g.texts(&o)
	g.fill(&o)
	return o
}

func (g *generator) someone() string {
	if g.chance(80) {
		return nobody
	}
	return pick(g, g.users, nobody)
}

func (g *generator) texts(o *operation) {
	if slices.Contains([]string{"open_account", "set_tier", "extend", "redact", "allocate"}, o.kind) {
		return
	}
	if g.chance(3) {
		o.description = ptr(pick(g, texts, ""))
	}
	if g.chance(4) && !slices.Contains([]string{"capture", "release", "resolve"}, o.kind) {
		o.ref = ptr(pick(g, texts, ""))
	}
	if g.chance(60) {
		o.description = ptr(strings.Repeat("✓", 4000))
	}
}

func (g *generator) fill(o *operation) {
	switch o.kind {
	case "grant":
		o.amount = ptr(1 + g.Int64N(70))
	case "charge":
		o.amount = ptr(1 + g.Int64N(30))
		if g.chance(3) {
			o.endpoint = ptr(pick(g, endpoints, ""))
			if g.chance(2) {
				o.amount = nil
			}
		}
	case "hold":
		o.amount = ptr(1 + g.Int64N(25))
		o.expiresIn = ptr(time.Duration(1+g.IntN(7200)) * time.Second)
		if g.chance(4) {
			o.expiresIn = ptr(time.Duration(1+g.IntN(10)) * time.Second)
		}
	case "extend":
		o.expiresIn = ptr(time.Duration(1+g.IntN(7200)) * time.Second)
	case "capture":
		if g.chance(2) {
			o.amount = ptr(1 + g.Int64N(20))
		}
	case "submit":
		o.entryType = pick(g, []string{"deduction", "addition", "refund"}, "")
		o.amount = ptr(1 + g.Int64N(30))
	case "resolve":
		o.commit = ptr(g.chance(2))
	case "refund":
		if g.chance(2) {
			o.amount = ptr(1 + g.Int64N(20))
		}
	case "adjust":
		o.amount = ptr(g.Int64N(40) - 20)
		o.description = ptr("because")
	case "transfer":
		o.amount = ptr(1 + g.Int64N(25))
	case "charge_many":
		g.fillRows(o)
	}
	if chunks[o.kind] != "" {
		o.limit = pick(g, []int{1, 3, 17, 20_000}, 1)
	}
	if o.kind == "allocate_chunk" && g.chance(3) {
		o.period = month(g.now()).AddDate(0, -g.IntN(3), 0).Format(time.DateOnly)
	}
	if g.model != nil {
		g.aim(o)
	}
}

func (g *generator) fillRows(o *operation) {
	users := g.users[:g.settled]
	if g.chance(2) {
		users = []string{pick(g, users, "")}
	}
	for range 1 + g.IntN(g.rows) {
		row := operation{}
		if again, ok := g.again(); ok && g.chance(25) && again.kind == "charge" && slices.Contains(users, again.user) {
			row = again
		} else {
			row = g.plain("charge")
			row.amount = ptr(1 + g.Int64N(6))
			if row.user != nobody {
				row.user = pick(g, users, "")
			}
			if row.endpoint != nil && g.chance(2) {
				row.amount = nil
			}
		}
		if len(o.rows) > 0 && g.chance(20) {
			row = pick(g, o.rows, row)
			if g.chance(3) {
				row.amount = ptr(int64(7))
			}
		}
		if g.chance(60) {
			g.spoil(&row)
		}
		o.rows = append(o.rows, row)
	}
	o.key, o.description, o.ref = nil, nil, nil
}

// aim moves an amount to just what there is, or one beyond.
func (g *generator) aim(o *operation) {
	if !g.chance(4) {
		return
	}
	beyond := int64(g.IntN(2))
	a := g.model.accounts[o.user]
	switch {
	case slices.Contains([]string{"charge", "hold", "transfer", "adjust", "submit"}, o.kind) && a != nil && o.amount != nil:
		_, free, _ := a.need(math.MaxInt64, g.now())
		if g.chance(2) {
			free = a.balance - a.held
		}
		if amount := free + beyond; amount > 0 {
			o.amount = ptr(amount)
		}
		if o.kind == "adjust" {
			o.amount = ptr(-*o.amount)
		}
	case o.kind == "grant" && a != nil && a.balance > math.MaxInt64/2 && a.balance+beyond < math.MaxInt64:
		o.amount = ptr(math.MaxInt64 - a.balance)
		if beyond > 0 {
			o.amount = ptr(*o.amount + 1)
		}
	case o.kind == "capture" && g.model.holds[o.hold] != nil:
		o.amount = ptr(g.model.holds[o.hold].amount + beyond)
	case o.kind == "refund" && g.model.entries[o.transaction] != nil:
		e := g.model.entries[o.transaction]
		left := -e.amount
		for _, x := range g.model.accounts[e.user].chain {
			if x.kind == "refund" && x.related == e {
				left -= x.amount
			}
		}
		if left+beyond > 0 {
			o.amount = ptr(left + beyond)
		}
	case o.kind == "hold" || o.kind == "extend":
		o.expiresIn = ptr(pick(g, []time.Duration{366 * 24 * time.Hour, time.Microsecond}, 0))
	}
}

// spoil makes one thing of a request wrong, or as far as it may go.
func (g *generator) spoil(o *operation) {
	long := func(n int) *string { return ptr(strings.Repeat("é", n)) }
	keyed := o.key != nil
	switch n := g.IntN(16); {
	case n == 0 && o.amount != nil:
		o.amount = pick(g, []*int64{ptr(int64(0)), ptr(int64(-1)), nil, ptr(int64(math.MinInt64)), ptr(int64(math.MaxInt64))}, nil)
	case n == 1 && keyed:
		o.key = pick(g, []*string{ptr(""), nil, long(256)}, nil)
	case n == 2 && keyed && o.kind != "adjust":
		o.ref = long(pick(g, []int{255, 256}, 0))
	case n == 3 && (keyed || o.kind == "capture" || o.kind == "release" || o.kind == "resolve"):
		o.description = long(pick(g, []int{4000, 4001}, 0))
	case n == 4 && o.kind == "charge":
		o.endpoint = pick(g, []*string{ptr(""), ptr("a\nb"), ptr("\x7f"), long(255), long(256)}, nil)
		o.amount = ptr(int64(1))
	case n == 5 && (keyed || o.kind == "open_account" || o.kind == "set_tier" || o.kind == "allocate"):
		if o.kind != "refund" {
			o.user = ""
		}
	case n == 6 && o.expiresIn != nil:
		o.expiresIn = pick(g, []*time.Duration{nil, ptr(time.Duration(0)), ptr(-time.Second), ptr(366 * 24 * time.Hour), ptr(366*24*time.Hour + time.Microsecond),
			ptr(-500 * 24 * time.Hour)}, nil)
	case n == 7 && (o.kind == "open_account" || o.kind == "set_tier"):
		o.tier = pick(g, []string{"", "gold"}, "")
	case n == 8 && o.kind == "transfer":
		o.to = pick(g, []string{"", o.user, nobody}, "")
	case n == 9 && o.kind == "submit":
		o.entryType = pick(g, []string{"", "hold", "transfer_in"}, "")
	case n == 10 && o.kind == "resolve":
		o.commit = nil
	case n == 11 && o.kind == "adjust":
		o.description = pick(g, []*string{nil, ptr(""), ptr("  "), ptr("\t\n")}, nil)
	case chunks[o.kind] != "" && o.kind == "allocate_chunk" && n < 8:
		now := g.now()
		o.period = pick(g, []string{month(now).AddDate(0, 1, 0).Format(time.DateOnly), month(now).AddDate(0, 0, 1).Format(time.DateOnly), month(now).Format(time.DateOnly)}, "")
	case chunks[o.kind] != "":
		o.limit = pick(g, []int{0, -1, 20_001, 20_000}, 0)
	case o.kind == "charge_many":
		o.rows = nil
	}
}
