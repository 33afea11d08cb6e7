package credits_model_test

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The model is the ledger once more, in memory, as DESIGN.md and the comments on its functions say that it behaves. It knows no SQL. Each
// operation is judged without changing anything, and done only when the database has said the same.

type entry struct {
	id                                     int64 // 0 until the database has named it
	user                                   string
	seq                                    int64 // 0 unless completed
	kind, status                           string
	amount, held, balanceAfter, heldAfter  int64
	hold                                   *hold
	related                                *entry
	created, final                         time.Time
	period                                 string
	endpoint, key, description, ref, notes *string
	synced, redacted                       bool
	request                                string // what was asked for under the key
}

type hold struct {
	id                         int64
	user                       string
	amount, captured           int64
	opened, closed             *entry
	created, expires, closedAt time.Time
	status, reason             string
}

func (h *hold) expiredAt(now time.Time) bool { return h.status == "open" && !h.expires.After(now) }

type account struct {
	user, tier                    string
	created                       time.Time
	balance, held, seq, submitted int64
	chain                         []*entry
	open                          []*hold // in the order of opening
	byKey                         map[string]*entry
	months                        map[string]*entry
}

type rate struct {
	price  int64
	active bool
}

type rule struct {
	after  time.Duration
	commit bool
}

type ledger struct {
	accounts map[string]*account
	entries  map[int64]*entry
	holds    map[int64]*hold
	tiers    map[string]int64
	rates    map[string]rate
	rules    map[string]rule
	forNew   string
	booked   func(e *entry) // looks the entry up in the database, compares and names it
	released func(a *account) bool
}

func newLedger() *ledger {
	return &ledger{
		accounts: map[string]*account{}, entries: map[int64]*entry{}, holds: map[int64]*hold{},
		tiers:  map[string]int64{"standard": 100, "premium": 500},
		rates:  map[string]rate{},
		rules:  map[string]rule{"addition": {24 * time.Hour, true}, "refund": {24 * time.Hour, true}, "deduction": {24 * time.Hour, false}},
		forNew: "full",
	}
}

// operation is one call. Nil and "" for users are null.
type operation struct {
	kind                       string
	user, to, tier, entryType  string
	amount                     *int64
	key, endpoint, description *string
	ref                        *string
	expiresIn                  *time.Duration
	hold, transaction          int64
	commit                     *bool
	rows                       []operation // of charge_many
	limit                      int
	afterAt                    *time.Time
	afterID                    *int64
	afterUser, period          string
}

// outcome is what a call says: a refusal, or an id (0: one that is new), or a text.
type outcome struct {
	code              string
	needed, available int64
	fresh             bool
	id                int64
	text              string
}

func (o outcome) String() string {
	switch {
	case o.code == "TK101":
		return fmt.Sprintf("TK101 %d needed, %d available", o.needed, o.available)
	case o.code != "":
		return o.code
	case o.fresh:
		return "a new id"
	case o.id != 0:
		return fmt.Sprintf("id %d", o.id)
	}
	return fmt.Sprintf("%q", o.text)
}

func refusal(code string) (outcome, func() *entry)    { return outcome{code: code}, nil }
func said(text string) (outcome, func() *entry)       { return outcome{text: text}, nil }
func first(id int64) (outcome, func() *entry)         { return outcome{id: id}, nil }
func fresh(do func() *entry) (outcome, func() *entry) { return outcome{fresh: true}, do }

func tooFew(needed, available int64) string {
	return fmt.Sprintf("not enough credits: %d needed, %d available", needed, available)
}

// judge says what the call must answer at this moment, and what it does when it is not refused. What it does returns the entry or hold
// that the fresh id belongs to.
func (l *ledger) judge(o *operation, now time.Time) (outcome, func() *entry) {
	switch {
	case o.kind == "refund" && l.entries[o.transaction] == nil && (o.amount == nil || *o.amount > 0):
		return refusal("TK107") // without it there is no user, whose key it would be
	case o.flawed():
		return refusal("TK100")
	}
	switch o.kind {
	case "open_account":
		return l.openAccount(o, now)
	case "set_tier":
		return l.setTier(o, now)
	case "grant":
		return l.book(o, "addition", *o.amount, now)
	case "adjust":
		return l.book(o, "adjustment", *o.amount, now)
	case "charge":
		return l.charge(o, now)
	case "hold":
		return l.openHold(o, now)
	case "capture":
		return l.capture(o, now)
	case "release":
		return l.release(o, now)
	case "extend":
		return l.extend(o, now)
	case "submit":
		return l.submit(o, now)
	case "resolve":
		return l.resolve(o, now)
	case "refund":
		return l.refund(o, now)
	case "transfer":
		return l.transfer(o, now)
	case "redact":
		return l.redact(o)
	case "allocate":
		return l.allocateOne(o, now)
	}
	panic(o.kind)
}

func length(s *string) int { return utf8.RuneCountInString(*s) }

func longer(s *string, n int) bool { return s != nil && length(s) > n }

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 127 })
}

// flawed is a request that is wrong whatever the ledger holds.
func (o *operation) flawed() bool {
	keyed := slices.Contains([]string{"grant", "adjust", "charge", "hold", "submit", "refund", "transfer"}, o.kind)
	named := !slices.Contains([]string{"capture", "release", "extend", "resolve", "refund", "redact"}, o.kind)
	switch {
	case named && o.user == "",
		keyed && (o.key == nil || length(o.key) < 1 || length(o.key) > 255),
		o.kind == "adjust" && (o.amount == nil || *o.amount == 0 || *o.amount == math.MinInt64 || o.description == nil || strings.TrimSpace(*o.description) == ""),
		o.kind != "adjust" && o.amount != nil && *o.amount <= 0,
		slices.Contains([]string{"grant", "hold", "submit", "transfer"}, o.kind) && o.amount == nil,
		o.kind == "charge" && o.amount == nil && o.endpoint == nil,
		o.endpoint != nil && (length(o.endpoint) < 1 || length(o.endpoint) > 255 || hasControl(*o.endpoint)),
		longer(o.description, 4000), longer(o.ref, 255),
		(o.kind == "hold" || o.kind == "extend") && (o.expiresIn == nil || *o.expiresIn <= 0 || *o.expiresIn > 366*24*time.Hour),
		o.kind == "submit" && o.entryType != "deduction" && o.entryType != "addition" && o.entryType != "refund",
		o.kind == "transfer" && (o.to == "" || o.to == o.user),
		o.kind == "resolve" && o.commit == nil:
		return true
	}
	return false
}

func quoted(s *string) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", *s)
}

// request tells what was asked for from anything else that may be asked for under the same key.
func (o *operation) request() string {
	amount, expires := "null", "null"
	if o.amount != nil {
		amount = strconv.FormatInt(*o.amount, 10)
	}
	if o.expiresIn != nil {
		expires = strconv.FormatInt(int64(*o.expiresIn), 10)
	}
	return strings.Join([]string{o.kind, o.entryType, o.user, o.to, strconv.FormatInt(o.transaction, 10), amount, expires, field(o.endpoint), field(o.description), field(o.ref)}, " ")
}

func field(s *string) string {
	if s == nil {
		return "null"
	}
	return strconv.Itoa(len(*s)) + ":" + *s
}

// before is what happened under the key: nothing, or the first result, or a refusal.
func (l *ledger) before(a *account, o *operation) (*entry, bool) {
	e := a.byKey[*o.key]
	return e, e != nil && e.request != o.request()
}

// known is the beginning of every operation with a key: the account must exist, and the key be free.
func (l *ledger) known(user string, o *operation) (a *account, e *entry, code string) {
	a = l.accounts[user]
	if a == nil {
		return nil, nil, "TK102"
	}
	e, other := l.before(a, o)
	if other {
		return a, nil, "TK105"
	}
	return a, e, ""
}

// expired are the holds that keep no credits any more.
func (a *account) expired(now time.Time) (holds []*hold, credits int64) {
	for _, h := range a.open {
		if h.expiredAt(now) {
			holds = append(holds, h)
			credits += h.amount
		}
	}
	return holds, credits
}

// need finds the credits: which expired holds must be released for it, and, where that does not suffice, what there is.
func (a *account) need(amount int64, now time.Time) (release []*hold, available int64, ok bool) {
	free := a.balance - a.held
	if free >= amount {
		return nil, free, true
	}
	holds, credits := a.expired(now)
	return holds, free + credits, free+credits >= amount
}

const (
	whenNeeded = "expired: released when its credits were needed"
	byCleanup  = "expired: released by cleanup"
)

func overflows(balance, amount int64) bool { return amount > 0 && balance > math.MaxInt64-amount }

// add books the next entry of an account.
func (l *ledger) add(a *account, e *entry, now time.Time) *entry {
	a.seq++
	a.balance += e.amount
	a.held += e.held
	e.user, e.seq, e.balanceAfter, e.heldAfter, e.final, e.status = a.user, a.seq, a.balance, a.held, now, "COMPLETED"
	if e.created.IsZero() {
		e.created = now
	}
	a.chain = append(a.chain, e)
	if e.key != nil {
		a.byKey[*e.key] = e
	}
	if e.period != "" {
		a.months[e.period] = e
	}
	l.booked(e)
	l.entries[e.id] = e
	return e
}

func (l *ledger) expire(a *account, holds []*hold, now time.Time, why string) {
	for _, h := range slices.Clone(holds) {
		l.closeHold(a, h, "expired", 0, now, why, &entry{kind: "release", notes: &why})
	}
}

func (l *ledger) closeHold(a *account, h *hold, status string, take int64, now time.Time, why string, e *entry) *entry {
	h.status, h.captured, h.closedAt, h.reason, h.closed = status, take, now, why, e
	e.amount, e.held, e.hold = -take, -h.amount, h
	a.open = slices.DeleteFunc(a.open, func(x *hold) bool { return x == h })
	return l.add(a, e, now)
}

func (l *ledger) openAccount(o *operation, now time.Time) (outcome, func() *entry) {
	if _, ok := l.tiers[o.tier]; !ok {
		return refusal("TK109")
	}
	if l.accounts[o.user] != nil {
		return said("")
	}
	return outcome{}, func() *entry {
		l.accounts[o.user] = &account{user: o.user, tier: o.tier, created: now, byKey: map[string]*entry{}, months: map[string]*entry{}}
		return nil
	}
}

func month(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC) }

func day(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC) }

// share is what an account gets for a month.
func (l *ledger) share(tier string, opened, period time.Time) int64 {
	monthly, end := l.tiers[tier], period.AddDate(0, 1, 0)
	switch {
	case !opened.Before(end):
		return 0
	case opened.Before(period) || l.forNew == "full":
		return monthly
	case l.forNew == "none":
		return 0
	}
	left, all := int64(end.Sub(day(opened))/(24*time.Hour)), int64(end.Sub(period)/(24*time.Hour))
	whole := new(big.Int).Mul(big.NewInt(monthly), big.NewInt(left))
	return whole.Quo(whole, big.NewInt(all)).Int64()
}

func (l *ledger) setTier(o *operation, now time.Time) (outcome, func() *entry) {
	if _, ok := l.tiers[o.tier]; !ok {
		return refusal("TK109")
	}
	a := l.accounts[o.user]
	if a == nil {
		return refusal("TK102")
	}
	was := a.tier
	move := func() *entry { a.tier = o.tier; return nil }
	given := a.months[month(now).Format(time.DateOnly)]
	if was == o.tier || given == nil {
		return outcome{}, move
	}
	more := l.share(o.tier, a.created, month(now)) - given.amount
	for _, e := range a.chain {
		if e.kind == "adjustment" && e.related == given {
			more -= e.amount
		}
	}
	if more <= 0 {
		return outcome{}, move
	}
	if overflows(a.balance, more) {
		return refusal("TK100")
	}
	why := fmt.Sprintf("tier %s instead of %s", o.tier, was)
	return fresh(func() *entry {
		a.tier = o.tier
		return l.add(a, &entry{kind: "adjustment", amount: more, description: &why, related: given}, now)
	})
}

func (o *operation) entry(kind string, amount int64) *entry {
	return &entry{kind: kind, amount: amount, key: o.key, request: o.request(), endpoint: o.endpoint, description: o.description, ref: o.ref}
}

// book is a grant, a charge or an adjustment.
func (l *ledger) book(o *operation, kind string, amount int64, now time.Time) (outcome, func() *entry) {
	a, e, code := l.known(o.user, o)
	switch {
	case code != "":
		return refusal(code)
	case e != nil:
		return first(e.id)
	case overflows(a.balance, amount):
		return refusal("TK100")
	}
	var release []*hold
	if amount < 0 {
		holds, available, ok := a.need(-amount, now)
		if !ok {
			return outcome{code: "TK101", needed: -amount, available: available}, nil
		}
		release = holds
	}
	return fresh(func() *entry {
		l.expire(a, release, now, whenNeeded)
		return l.add(a, o.entry(kind, amount), now)
	})
}

func (l *ledger) charge(o *operation, now time.Time) (outcome, func() *entry) {
	if o.amount != nil {
		return l.book(o, "deduction", -*o.amount, now)
	}
	if r := l.rates[*o.endpoint]; r.active {
		return l.book(o, "deduction", -r.price, now)
	}
	_, e, code := l.known(o.user, o)
	switch {
	case code != "":
		return refusal(code)
	case e != nil:
		return first(e.id)
	}
	return refusal("TK106")
}

func (l *ledger) openHold(o *operation, now time.Time) (outcome, func() *entry) {
	a, e, code := l.known(o.user, o)
	switch {
	case code != "":
		return refusal(code)
	case e != nil && e.hold == nil:
		panic("a hold's key without a hold")
	case e != nil:
		return first(e.hold.id)
	}
	release, available, ok := a.need(*o.amount, now)
	if !ok {
		return outcome{code: "TK101", needed: *o.amount, available: available}, nil
	}
	return fresh(func() *entry {
		l.expire(a, release, now, whenNeeded)
		h := &hold{user: a.user, amount: *o.amount, created: now, expires: now.Add(*o.expiresIn), status: "open"}
		e := o.entry("hold", 0)
		e.held, e.hold, h.opened = h.amount, h, e
		a.open = append(a.open, h)
		l.add(a, e, now)
		l.holds[h.id] = h
		return e
	})
}

func (l *ledger) capture(o *operation, now time.Time) (outcome, func() *entry) {
	h := l.holds[o.hold]
	if h == nil {
		return refusal("TK103")
	}
	take := h.amount
	if o.amount != nil {
		take = *o.amount
	}
	switch {
	case h.status == "captured" && h.captured == take:
		return first(h.closed.id)
	case h.status == "expired" || h.expiredAt(now):
		return refusal("TK104")
	case h.status != "open":
		return refusal("TK103")
	case take > h.amount:
		return refusal("TK100")
	}
	return fresh(func() *entry {
		return l.closeHold(l.accounts[h.user], h, "captured", take, now, "captured", &entry{kind: "capture", description: o.description})
	})
}

func (l *ledger) release(o *operation, now time.Time) (outcome, func() *entry) {
	h := l.holds[o.hold]
	switch {
	case h == nil || h.status == "captured":
		return refusal("TK103")
	case h.status != "open":
		return first(h.closed.id)
	}
	return fresh(func() *entry {
		return l.closeHold(l.accounts[h.user], h, "released", 0, now, "released", &entry{kind: "release", description: o.description})
	})
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000") }

func (l *ledger) extend(o *operation, now time.Time) (outcome, func() *entry) {
	h := l.holds[o.hold]
	switch {
	case h == nil:
		return refusal("TK103")
	case h.status == "expired" || h.expiredAt(now):
		return refusal("TK104")
	case h.status != "open":
		return refusal("TK103")
	}
	until := h.expires
	if later := now.Add(*o.expiresIn); later.After(until) {
		until = later
	}
	return outcome{text: stamp(until)}, func() *entry { h.expires = until; return nil }
}

func (l *ledger) submit(o *operation, now time.Time) (outcome, func() *entry) {
	a, e, code := l.known(o.user, o)
	switch {
	case code != "":
		return refusal(code)
	case e != nil:
		return first(e.id)
	}
	return fresh(func() *entry {
		e := o.entry(o.entryType, *o.amount)
		if o.entryType == "deduction" {
			e.amount = -e.amount
		}
		e.user, e.status, e.created = a.user, "PENDING", now
		a.byKey[*o.key] = e
		a.submitted++
		l.booked(e)
		l.entries[e.id] = e
		return e
	})
}

func (l *ledger) resolve(o *operation, now time.Time) (outcome, func() *entry) {
	e := l.entries[o.transaction]
	switch {
	case e == nil, e.status == "COMPLETED" && !*o.commit:
		return refusal("TK107")
	case e.status != "PENDING":
		return said(e.status)
	}
	notes := o.description
	if !*o.commit && notes == nil {
		reverted := "reverted"
		notes = &reverted
	}
	status, do := l.decide(e, *o.commit, notes, now)
	return outcome{text: status}, func() *entry { do(); return nil }
}

// decide ends a pending entry. Holds that have expired are released for one that takes, whether their credits are needed or not.
func (l *ledger) decide(e *entry, commit bool, notes *string, now time.Time) (status string, do func()) {
	a := l.accounts[e.user]
	fail := func(why *string) { e.status, e.final, e.notes = "FAILED", now, why; l.booked(e) }
	if !commit {
		return "FAILED", func() { fail(notes) }
	}
	var release []*hold
	if e.amount < 0 {
		holds, available, ok := a.need(-e.amount, now)
		why := tooFew(-e.amount, available)
		release = holds
		if !ok {
			return "FAILED", func() { l.expire(a, release, now, whenNeeded); fail(&why) }
		}
		if len(release) == 0 && l.released(a) {
			release, _ = a.expired(now)
		}
	}
	if overflows(a.balance, e.amount) {
		why := "the balance would be beyond what it can hold"
		return "FAILED", func() { fail(&why) }
	}
	return "COMPLETED", func() {
		l.expire(a, release, now, whenNeeded)
		e.notes = notes
		l.add(a, e, now)
	}
}

func (l *ledger) allocateOne(o *operation, now time.Time) (outcome, func() *entry) {
	a := l.accounts[o.user]
	if a == nil {
		return refusal("TK102")
	}
	period := periodOf(o, now)
	name := period.Format(time.DateOnly)
	if e := a.months[name]; e != nil {
		return first(e.id)
	}
	share := l.share(a.tier, a.created, period)
	if share == 0 || overflows(a.balance, share) {
		return said("")
	}
	return fresh(func() *entry { return l.add(a, &entry{kind: "allocation", amount: share, period: name}, now) })
}

func (l *ledger) refund(o *operation, now time.Time) (outcome, func() *entry) {
	of := l.entries[o.transaction]
	if of == nil {
		return refusal("TK107")
	}
	a, e, code := l.known(of.user, o)
	switch {
	case code != "":
		return refusal(code)
	case e != nil:
		return first(e.id)
	case of.kind != "deduction" && of.kind != "capture" || of.status != "COMPLETED":
		return refusal("TK107")
	}
	left := -of.amount
	for _, x := range a.chain[of.seq:] {
		if x.kind == "refund" && x.related == of {
			left -= x.amount
		}
	}
	amount := left
	if o.amount != nil {
		amount = *o.amount
	}
	switch {
	case left == 0:
		return refusal("TK107")
	case amount > left, overflows(a.balance, amount):
		return refusal("TK100")
	}
	return fresh(func() *entry {
		e := o.entry("refund", amount)
		e.related = of
		return l.add(a, e, now)
	})
}

func (l *ledger) transfer(o *operation, now time.Time) (outcome, func() *entry) {
	to := l.accounts[o.to]
	from, e, code := l.known(o.user, o)
	switch {
	case to == nil:
		return refusal("TK102")
	case code != "":
		return refusal(code)
	case e != nil:
		return first(e.id)
	}
	release, available, ok := from.need(*o.amount, now)
	switch {
	case !ok:
		return outcome{code: "TK101", needed: *o.amount, available: available}, nil
	case overflows(to.balance, *o.amount):
		return refusal("TK100")
	}
	return fresh(func() *entry {
		l.expire(from, release, now, whenNeeded)
		out := o.entry("transfer_out", -*o.amount)
		in := &entry{kind: "transfer_in", amount: *o.amount, description: o.description, ref: o.ref}
		out.related, in.related = in, out
		l.add(from, out, now)
		l.add(to, in, now)
		return out
	})
}

func (l *ledger) redact(o *operation) (outcome, func() *entry) {
	e := l.entries[o.transaction]
	switch {
	case e == nil || e.status == "PENDING":
		return refusal("TK107")
	case e.redacted:
		return said("false")
	}
	return outcome{text: "true"}, func() *entry {
		e.redacted, e.description, e.ref, e.notes = true, nil, nil, nil
		return nil
	}
}
