package credits_model_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// script runs calls in a world of one session, each predicted by the model.
type script struct {
	*exact
	keys int
	u    []string
}

func (s *script) key() *string {
	s.keys++
	return ptr(fmt.Sprintf("edge%d", s.keys))
}

func (s *script) do(o operation) operation {
	s.t.Helper()
	if o.key == nil {
		o.key = s.key()
	}
	s.run(o)
	return o
}

func (s *script) grant(user string, amount int64) {
	s.do(operation{kind: "grant", user: user, amount: &amount})
}

// hold opens one and returns it.
func (s *script) hold(user string, amount int64, d time.Duration) *hold {
	o := s.do(operation{kind: "hold", user: user, amount: &amount, expiresIn: &d})
	return s.accounts[user].byKey[*o.key].hold
}

func (s *script) charge(user string, amount int64) *entry {
	return s.accounts[user].byKey[*s.do(operation{kind: "charge", user: user, amount: &amount}).key]
}

func (s *script) submit(user, kind string, amount int64) *entry {
	return s.accounts[user].byKey[*s.do(operation{kind: "submit", user: user, entryType: kind, amount: &amount}).key]
}

func (s *script) chunk(kind string, limit int) { s.run(operation{kind: kind, limit: limit}) }

// TestModel_WhenCallsComeOneByOne_AtTheEdges: each rule, just kept and just broken.
func TestModel_WhenCallsComeOneByOne_AtTheEdges(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]func(*script){
		"values": values, "credits": creditsToTheLast, "holds": holdsToTheLastMoment, "pending": pendingByTheRules, "months": months, "refunds": refunds, "feed": feed,
		"chunks": chunksInPieces, "rates": rates,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newExact(t, 1, 1)
			s := &script{exact: x, u: x.g.users}
			for _, user := range s.u[1:4] {
				s.grant(user, 1000)
			}
			part(s)
			require.NoError(t, x.end(x.Pool))
			x.requireNoViolations()
		})
	}
}

// values are all that a field may and may not hold.
func values(s *script) {
	h, e, p := s.hold(s.u[1], 5, time.Hour), s.charge(s.u[1], 5), s.submit(s.u[1], "addition", 5)
	bases := []operation{
		{kind: "open_account", user: s.u[5], tier: "standard"}, {kind: "set_tier", user: s.u[1], tier: "premium"}, {kind: "grant", user: s.u[1], amount: ptr(int64(1))},
		{kind: "adjust", user: s.u[1], amount: ptr(int64(1)), description: ptr("why")}, {kind: "charge", user: s.u[1], amount: ptr(int64(1))},
		{kind: "hold", user: s.u[1], amount: ptr(int64(1)), expiresIn: ptr(time.Hour)}, {kind: "submit", user: s.u[1], amount: ptr(int64(1)), entryType: "addition"},
		{kind: "transfer", user: s.u[1], to: s.u[2], amount: ptr(int64(1))}, {kind: "refund", transaction: e.id, amount: ptr(int64(1))},
		{kind: "capture", hold: h.id, amount: ptr(int64(1))}, {kind: "release", hold: h.id}, {kind: "extend", hold: h.id, expiresIn: ptr(2 * time.Hour)},
		{kind: "resolve", transaction: p.id, commit: ptr(true)}, {kind: "redact", transaction: e.id}, {kind: "allocate", user: s.u[1]},
	}
	for _, base := range bases {
		for _, change := range changes {
			o := base
			if keyed(o.kind) {
				o.key = s.key()
			}
			change(&o)
			s.run(o)
		}
	}
	for kind := range chunks {
		for _, limit := range []int{0, -1, 1, 20_000, 20_001} {
			s.chunk(kind, limit)
		}
	}
}

func keyed(kind string) bool {
	switch kind {
	case "grant", "adjust", "charge", "hold", "submit", "refund", "transfer":
		return true
	}
	return false
}

func long(n int) *string { return ptr(strings.Repeat("é", n)) }

// changes: one that does not apply to a call leaves it as it is, under a new key.
var changes = func() []func(*operation) {
	var all []func(*operation)
	for _, amount := range []*int64{nil, ptr(int64(0)), ptr(int64(-1)), ptr(int64(1)), ptr(int64(math.MinInt64)), ptr(int64(math.MaxInt64))} {
		all = append(all, func(o *operation) {
			if o.amount != nil {
				o.amount = amount
			}
		})
	}
	for _, key := range []*string{nil, ptr(""), long(255), long(256)} {
		all = append(all, func(o *operation) {
			if o.key != nil {
				o.key = key
			}
		})
	}
	for _, text := range []*string{nil, ptr(""), ptr(" \t\n"), long(4000), long(4001)} {
		all = append(all, func(o *operation) {
			if keyed(o.kind) || o.kind == "capture" || o.kind == "release" || o.kind == "resolve" {
				o.description = text
			}
		})
	}
	for _, text := range []*string{long(255), long(256)} {
		all = append(all, func(o *operation) {
			if keyed(o.kind) {
				o.ref = text
			}
		}, func(o *operation) {
			if o.kind == "charge" {
				o.endpoint = text
			}
		})
	}
	for _, endpoint := range []string{"", "a\nb", "\x7f", "/old", "/v1/a", "/none"} {
		all = append(all, func(o *operation) {
			if o.kind == "charge" {
				o.endpoint = &endpoint
			}
		}, func(o *operation) {
			if o.kind == "charge" {
				o.endpoint, o.amount = &endpoint, nil
			}
		})
	}
	for _, d := range []*time.Duration{nil, ptr(time.Duration(0)), ptr(time.Microsecond), ptr(-time.Second), ptr(366 * 24 * time.Hour), ptr(366*24*time.Hour + time.Microsecond),
		ptr(-500 * 24 * time.Hour), ptr(100_000 * 24 * time.Hour)} {
		all = append(all, func(o *operation) {
			if o.expiresIn != nil {
				o.expiresIn = d
			}
		})
	}
	return append(all,
		func(o *operation) {
			if o.user != "" {
				o.user = ""
			}
		},
		func(o *operation) {
			if o.user != "" && o.kind != "open_account" {
				o.user = nobody
			}
		},
		func(o *operation) { o.to = "" }, func(o *operation) { o.to = o.user }, func(o *operation) { o.to = nobody },
		func(o *operation) { o.entryType = "" }, func(o *operation) { o.entryType = "hold" },
		func(o *operation) { o.tier = "" }, func(o *operation) { o.tier = "gold" },
		func(o *operation) { o.hold, o.transaction = 1_000_000, 1_000_000 },
		func(o *operation) { o.commit = nil }, func(*operation) {}, func(*operation) {}, func(o *operation) { o.commit = ptr(false) },
	)
}()

// creditsToTheLast spends what there is, and one more, in every way that takes.
func creditsToTheLast(s *script) {
	for _, beyond := range []int64{1, 0} {
		for i, kind := range []string{"charge", "hold", "transfer", "adjust", "submit"} {
			user := s.u[1+i%3]
			s.grant(user, 50)
			s.hold(user, 20, time.Hour)
			a := s.accounts[user]
			o := operation{kind: kind, user: user, to: s.u[0], amount: ptr(a.balance - a.held + beyond), description: ptr("why"), expiresIn: ptr(time.Hour), entryType: "deduction"}
			if kind == "adjust" {
				o.amount = ptr(-*o.amount)
			}
			o = s.do(o)
			if e := a.byKey[*o.key]; kind == "submit" {
				s.run(operation{kind: "resolve", transaction: e.id, commit: ptr(true)})
			}
			s.requireBalances()
		}
	}
	s.advance(2 * time.Hour)
	for i, kind := range []string{"charge", "hold", "transfer", "adjust", "submit"} { // what expired holds keep no more
		user := s.u[1+i%3]
		s.grant(user, 50)
		s.hold(user, 20, time.Minute)
		s.hold(user, 5, time.Hour)
		s.advance(time.Minute)
		o := s.do(operation{kind: kind, user: user, to: s.u[0], amount: ptr(int64(40) * map[bool]int64{true: -1, false: 1}[kind == "adjust"]), description: ptr("why"),
			expiresIn: ptr(time.Hour), entryType: "deduction"})
		if kind == "submit" {
			s.run(operation{kind: "resolve", transaction: s.accounts[user].byKey[*o.key].id, commit: ptr(true)})
		}
		s.requireBalances()
	}
	rich := s.accounts[s.u[0]]
	for _, beyond := range []int64{1, 0} { // what a balance can hold
		left := math.MaxInt64 - rich.balance
		s.grant(s.u[0], left+beyond)
		s.charge(s.u[0], 500)
	}
	left := math.MaxInt64 - rich.balance
	s.do(operation{kind: "transfer", user: s.u[1], to: s.u[0], amount: ptr(left + 1)})
	s.grant(s.u[1], left+1)
	s.do(operation{kind: "transfer", user: s.u[1], to: s.u[0], amount: ptr(left + 1)})
	s.do(operation{kind: "adjust", user: s.u[0], amount: ptr(left + 1), description: ptr("why")})
	for _, beyond := range []int64{1, 0} {
		s.run(operation{kind: "resolve", transaction: s.submit(s.u[0], "addition", left+beyond).id, commit: ptr(true)})
	}
	s.run(operation{kind: "allocate_chunk", limit: 100})
}

func holdsToTheLastMoment(s *script) {
	u := s.u[1]
	for _, early := range []time.Duration{time.Microsecond, 0, -time.Microsecond} {
		for _, o := range []operation{{kind: "capture"}, {kind: "capture", amount: ptr(int64(7))}, {kind: "release"}, {kind: "extend", expiresIn: ptr(time.Hour)},
			{kind: "extend", expiresIn: ptr(time.Microsecond)}, {kind: "cleanup_chunk", limit: 10}} {
			h := s.hold(u, 10, time.Minute)
			s.advance(time.Minute - early)
			o.hold = h.id
			s.run(o)
			s.requireBalances()
			for _, again := range []operation{o, {kind: "capture", hold: h.id}, {kind: "capture", hold: h.id, amount: ptr(int64(6))}, {kind: "release", hold: h.id},
				{kind: "extend", hold: h.id, expiresIn: ptr(time.Hour)}} {
				s.run(again)
			}
		}
		s.chunk("cleanup_chunk", 100)
	}
	h := s.hold(u, 10, time.Hour)
	s.run(operation{kind: "capture", hold: h.id, amount: ptr(int64(11))})
	s.run(operation{kind: "extend", hold: h.id, expiresIn: ptr(time.Minute)})
	s.run(operation{kind: "capture", hold: h.id, amount: ptr(int64(10))})
	s.run(operation{kind: "capture", hold: h.id})
	s.run(operation{kind: "capture", hold: h.id, amount: ptr(int64(10)), description: ptr("other words")})
}

func pendingByTheRules(s *script) {
	u := s.u[1]
	for _, commit := range []bool{false, true} {
		s.query("update credits.pending_rules set action = $1, after = '5 hours' where type = 'deduction'", map[bool]string{true: "commit", false: "revert"}[commit])
		s.rules["deduction"] = rule{5 * time.Hour, commit}
		for _, early := range []time.Duration{time.Microsecond, 0} {
			for _, kind := range []string{"deduction", "addition", "refund"} {
				at := s.now()
				s.submit(u, kind, 10)
				s.submit(s.u[2], kind, 2000)
				s.advance(at.Add(s.rules[kind].after - early).Sub(s.now()))
				s.chunk("resolve_chunk", 1)
				s.chunk("resolve_chunk", 100)
			}
		}
	}
	s.query("delete from credits.pending_rules where type = 'refund'")
	delete(s.rules, "refund")
	left := s.submit(u, "refund", 5)
	s.advance(100 * 24 * time.Hour)
	s.chunk("resolve_chunk", 100)
	for _, e := range []*entry{left, s.submit(u, "deduction", 5), s.submit(u, "deduction", 1_000_000)} {
		for _, o := range []operation{{kind: "redact"}, {kind: "resolve", commit: ptr(true)}, {kind: "resolve", commit: ptr(true)}, {kind: "resolve", commit: ptr(false)},
			{kind: "redact"}, {kind: "redact"}} {
			o.transaction = e.id
			s.run(o)
		}
	}
	reverted := s.submit(u, "addition", 5)
	for _, o := range []operation{{kind: "resolve", commit: ptr(false), description: ptr("no")}, {kind: "resolve", commit: ptr(true)}} {
		o.transaction = reverted.id
		s.run(o)
	}
	// Credits of an expired hold are there for a commit, and are not touched by an addition, nor by what is reverted.
	s.rules["deduction"] = rule{5 * time.Hour, true}
	a := s.accounts[u]
	for _, kind := range []string{"addition", "deduction"} {
		s.hold(u, a.balance-a.held, time.Minute)
		s.submit(u, kind, 10)
		s.advance(101 * 24 * time.Hour)
		s.chunk("resolve_chunk", 100)
	}
}

func months(s *script) {
	last := time.Date(2026, 1, 31, 23, 59, 59, 999999000, time.UTC)
	s.advance(last.Sub(s.now()))
	s.run(operation{kind: "open_account", user: s.u[5], tier: "premium"})
	s.run(operation{kind: "open_account", user: s.u[5], tier: "standard"})
	for _, setting := range []string{"none", "pro_rata"} {
		s.forNew = setting
		s.query("update credits.settings set value = $1", setting)
		for _, period := range []string{"", "2026-01-01", "2025-12-01", "2026-02-01", "2026-01-02"} {
			s.run(operation{kind: "allocate_chunk", limit: 100, period: period})
		}
		s.advance(time.Microsecond)
		s.run(operation{kind: "open_account", user: s.u[6], tier: "odd"})
		for _, period := range []string{"2026-02-01", "2026-01-01"} {
			s.run(operation{kind: "allocate_chunk", limit: 3, period: period})
			s.run(operation{kind: "allocate_chunk", limit: 100, period: period})
		}
		for _, user := range s.u {
			for _, tier := range []string{"premium", "nothing", "standard", "premium", "odd", "premium"} {
				s.run(operation{kind: "set_tier", user: user, tier: tier})
			}
		}
		s.advance(15 * 24 * time.Hour)
		for _, tier := range []string{"standard", "huge", "standard", "huge"} {
			s.run(operation{kind: "set_tier", user: s.u[6], tier: tier})
			s.run(operation{kind: "set_tier", user: s.u[0], tier: tier})
		}
		s.advance(14*24*time.Hour - 2*time.Microsecond)
	}
	s.query("delete from credits.settings")
	s.forNew = "full"
	for _, user := range s.u {
		s.run(operation{kind: "set_tier", user: user, tier: "odd"})
	}
	for _, user := range s.u[1:4] {
		s.run(operation{kind: "allocate", user: user})
		s.run(operation{kind: "allocate", user: user})
	}
	s.run(operation{kind: "set_tier", user: s.u[4], tier: "nothing"})
	s.run(operation{kind: "allocate", user: s.u[4]})
	s.run(operation{kind: "allocate", user: s.u[0]})
	s.run(operation{kind: "allocate_chunk", limit: 100})
	// A tier that gives more from now on gives no more to who is in it already, before next month.
	s.tiers["odd"] = 150
	s.query("update credits.tiers set monthly_credits = 150 where name = 'odd'")
	for _, user := range s.u {
		for _, tier := range []string{"odd", "nothing", "odd"} {
			s.run(operation{kind: "set_tier", user: user, tier: tier})
		}
	}
	s.requireBalances()
}

func TestStatement_OfNobody_OrBackwards_IsRefused(t *testing.T) {
	t.Parallel()
	w := newForged(t)
	for statement, code := range map[string]string{
		"select credits.statement('" + nobody + "')":                                       "TK102",
		"select credits.statement(null)":                                                   "TK102",
		"select credits.statement('" + forged1 + "', '2026-01-02', '2026-01-01')":          "TK100",
		"select credits.statement('" + forged1 + "', '2026-01-02', '2026-01-02')":          "TK100",
		"select credits.statement('" + forged1 + "', '2026-01-02', '2026-01-02 00:00:01')": "",
	} {
		_, err := w.Pool.Exec(context.Background(), statement)
		require.Equal(t, code, sqlState(err), statement)
	}
}

func refunds(s *script) {
	u := s.u[1]
	e, taken := s.charge(u, 10), s.hold(u, 10, time.Hour)
	s.run(operation{kind: "capture", hold: taken.id, amount: ptr(int64(6))})
	failed, pending := s.submit(u, "deduction", 10), s.submit(u, "deduction", 5)
	s.run(operation{kind: "resolve", transaction: failed.id, commit: ptr(false)})
	for _, of := range []*entry{e, taken.closed, taken.opened, failed, pending, s.accounts[s.u[2]].chain[0]} {
		for _, amount := range []*int64{ptr(int64(11)), ptr(int64(4)), ptr(int64(7)), nil, nil, ptr(int64(1))} {
			o := s.do(operation{kind: "refund", transaction: of.id, amount: amount})
			s.run(o)
			o.amount = ptr(int64(3))
			s.run(o)
		}
	}
	s.run(operation{kind: "resolve", transaction: pending.id, commit: ptr(true)})
	s.do(operation{kind: "refund", transaction: pending.id})
	o := s.do(operation{kind: "transfer", user: u, to: s.u[2], amount: ptr(int64(5)), description: ptr("rent")})
	s.run(o)
	o.to = s.u[3]
	s.run(o)
	for _, part := range s.accounts[u].chain {
		s.run(operation{kind: "redact", transaction: part.id})
	}
	// Each request under a key that was used for something that differs in one thing.
	for _, kind := range []string{"grant", "adjust", "charge", "hold", "submit", "transfer", "refund"} {
		base := operation{kind: kind, user: u, to: s.u[2], amount: ptr(int64(1)), description: ptr("d"), ref: ptr("r"), expiresIn: ptr(time.Hour), entryType: "deduction", key: s.key(),
			transaction: s.charge(u, 9).id}
		if kind == "charge" {
			base.endpoint = ptr("/v1/a")
		}
		base = only(base)
		s.run(base)
		for _, change := range []func(*operation){func(*operation) {}, func(o *operation) { o.amount = ptr(int64(2)) }, func(o *operation) { o.description = ptr("x") },
			func(o *operation) { o.ref = nil }, func(o *operation) { o.expiresIn = ptr(time.Minute) }, func(o *operation) { o.entryType = "addition" },
			func(o *operation) { o.endpoint = ptr("/v1/b") }, func(o *operation) { o.to = s.u[3] }, func(o *operation) { o.transaction = e.id },
			func(o *operation) { o.kind = "grant" }} {
			other := base
			change(&other)
			s.run(only(other))
		}
	}
}

// rates come and go: a request that is repeated gives its first result.
func rates(s *script) {
	o := s.do(operation{kind: "charge", user: s.u[1], endpoint: ptr("/v1/a")})
	for _, r := range []rate{{9, true}, {9, false}, {3, true}} {
		s.rates["/v1/a"] = r
		s.query("update credits.usage_rates set credits_per_request = $1, is_active = $2 where endpoint = '/v1/a'", r.price, r.active)
		s.run(o)
		s.run(operation{kind: "charge_many", rows: []operation{o, {kind: "charge", user: s.u[2], endpoint: o.endpoint, key: s.key()}}})
		other := o
		other.ref = ptr("other")
		s.run(other)
		s.do(operation{kind: "charge", user: s.u[1], endpoint: ptr("/v1/a")})
		s.do(operation{kind: "charge", user: nobody, endpoint: ptr("/v1/a")})
	}
}

// only leaves what the call has.
func only(o operation) operation {
	if o.kind != "hold" && o.kind != "extend" {
		o.expiresIn = nil
	}
	if o.kind != "submit" {
		o.entryType = ""
	}
	if o.kind == "set_tier" || !keyed(o.kind) && o.kind != "capture" {
		o.amount = nil
	}
	if o.kind != "transfer" {
		o.to = ""
	}
	switch o.kind {
	case "refund":
		o.user = ""
	case "resolve", "redact":
	default:
		o.transaction = 0
	}
	if o.kind != "charge" {
		o.endpoint = nil
	}
	return o
}

// feed sends what is out of the ordinary through charge_many.
func feed(s *script) {
	u, v := s.u[1], s.u[2]
	row := func(user string, amount int64, key string) operation {
		return operation{kind: "charge", user: user, amount: &amount, key: &key}
	}
	odd := func(change func(*operation)) operation {
		o := row(u, 2, *s.key())
		change(&o)
		return o
	}
	s.run(operation{kind: "charge_many"})
	many := operation{kind: "charge_many", rows: []operation{
		row(u, 3, "a"), row(v, 3, "a"), row(u, 3, "a"), row(u, 4, "a"), row(u, 0, "zero"), row(u, -1, "minus"), row("", 3, "none"), row(nobody, 3, "nobody"),
		row(u, 1_000_000, "much"), row(u, 5, "b"), row(u, 5, ""), row(u, 5, strings.Repeat("k", 256)), row(u, 5, strings.Repeat("k", 255)),
		odd(func(o *operation) { o.key = nil }), odd(func(o *operation) { o.endpoint = ptr("/v1/a") }), odd(func(o *operation) { o.endpoint, o.amount = ptr("/v1/b"), nil }),
		odd(func(o *operation) { o.endpoint, o.amount = ptr("/old"), nil }), odd(func(o *operation) { o.amount = nil }), odd(func(o *operation) { o.endpoint = ptr("") }),
		odd(func(o *operation) { o.endpoint = long(256) }), odd(func(o *operation) { o.endpoint = long(255) }), odd(func(o *operation) { o.endpoint = ptr("a\nb") }),
		odd(func(o *operation) { o.description = long(4000) }), odd(func(o *operation) { o.description = long(4001) }), odd(func(o *operation) { o.ref = long(255) }),
		odd(func(o *operation) { o.ref = long(256) }), odd(func(o *operation) { o.description, o.ref = ptr("d"), ptr("r") }),
	}}
	s.run(many)
	s.run(many)
	// To the last credit, with a hold that has expired, needed or not, by amount and by endpoint.
	for _, endpoint := range []*string{nil, ptr("/v1/b")} {
		for _, beyond := range []int64{-1, 0, 1} {
			a := s.accounts[u]
			s.grant(u, 100)
			s.hold(u, 30, time.Minute)
			s.hold(u, 20, 100*time.Hour)
			s.hold(v, 10, time.Minute)
			s.advance(time.Minute)
			_, free, _ := a.need(math.MaxInt64, s.now())
			first, second := row(u, free-12+beyond, *s.key()), row(u, 12, *s.key())
			if second.endpoint = endpoint; endpoint != nil {
				second.amount = nil
			}
			s.run(operation{kind: "charge_many", rows: []operation{first, row(v, 1, *s.key()), second, row(u, 1, *s.key())}})
			s.chunk("cleanup_chunk", 1)
		}
	}
	// A key whose first row is refused is free for the second; and a price that is known by its endpoint alone needs an expired hold's credits.
	a := s.accounts[u]
	s.run(operation{kind: "charge_many", rows: []operation{row(u, a.balance+1, "twice"), row(u, 1, "twice"), row(v, 1, "once")}})
	s.grant(u, 100)
	s.hold(u, 30, time.Minute)
	_, free, _ := a.need(math.MaxInt64, s.now())
	s.charge(u, free-5)
	s.advance(time.Minute)
	s.run(operation{kind: "charge_many", rows: []operation{{kind: "charge", user: u, endpoint: ptr("/v1/b"), key: s.key()}}})
	s.requireBalances()
}

// chunksInPieces goes through each task by small steps.
func chunksInPieces(s *script) {
	for range 2 {
		for i, user := range s.u[1:4] {
			for n := range 3 {
				s.hold(user, 5, time.Duration(1+n)*time.Minute)
				s.submit(user, []string{"addition", "deduction", "refund"}[n], int64(1+i))
			}
		}
		s.advance(25 * time.Hour)
		s.fromTheMiddle()
		for _, kind := range []string{"cleanup_chunk", "resolve_chunk", "allocate_chunk", "sync_chunk"} {
			next := operation{kind: kind, limit: 2}
			for range 12 {
				s.last = nil
				s.run(next)
				if s.last == nil {
					break
				}
				next.afterAt, next.afterID, next.afterUser = s.last.afterAt, s.last.afterID, s.last.afterUser
			}
		}
		s.advance(31 * 24 * time.Hour)
	}
}

// fromTheMiddle begins behind the first of what is due, which stays as it is.
func (s *script) fromTheMiddle() {
	a := s.accounts[s.u[2]]
	h, e := a.open[0], a.chain[0]
	for _, p := range a.byKey {
		if p.status == "PENDING" && (e.status != "PENDING" || p.id < e.id) {
			e = p
		}
	}
	for _, next := range []operation{{kind: "cleanup_chunk", limit: 1, afterAt: ptr(h.expires), afterID: ptr(h.id)},
		{kind: "resolve_chunk", limit: 1, afterAt: ptr(e.created), afterID: ptr(e.id)}, {kind: "sync_chunk", limit: 1, afterID: ptr(e.id)},
		{kind: "allocate_chunk", limit: 1, afterUser: s.u[3]}} {
		s.last = nil
		s.run(next)
	}
}

func TestChargeMany_WithArraysOfAnotherLength_IsRefused(t *testing.T) {
	t.Parallel()
	w := newForged(t)
	const user = "array['" + forged1 + "']::uuid[]"
	for _, arguments := range []string{"'{1,2}', '{k}'", "'{1}', '{k,l}'", "'{1}', null", "'{1}', '{}'", "'{1}', '{k}', '{/a,/b}'", "'{1}', '{k}', null, '{d,e}'", "'{1}', '{k}', null, null, '{r,s}'"} {
		_, err := w.Pool.Exec(context.Background(), "select credits.charge_many("+user+", "+arguments+")")
		require.Equal(t, "TK100", sqlState(err), arguments)
	}
	w.requireNoViolations()
}
