package credits_model_test

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// replayer lets the model follow the database, one call after the other in the order of their turns.
type replayer struct {
	*ledger
	rows   *rows
	lastID int64 // the highest id that the call at hand may have used
	wrong  error // found while booking
	exact  bool  // nothing else is going on: a chunk finds every account free
}

func newReplayer(r *rows, exact bool) *replayer {
	p := &replayer{ledger: newLedger(), rows: r, exact: exact}
	p.booked = func(e *entry) {
		if err := r.name(e); err != nil && p.wrong == nil {
			p.wrong = err
		}
	}
	p.released = func(a *account) bool {
		x := r.bySeq[place{a.user, a.seq + 1}]
		return x != nil && x.Kind == "release" && x.Reason == whenNeeded && x.ID <= p.lastID
	}
	return p
}

// agrees says whether the model answers the same at one of these moments, and then does it.
func (p *replayer) agrees(o *operation, a answer, lastID int64, moments []time.Time) error {
	p.lastID, p.wrong = lastID, nil
	if id, err := strconv.ParseInt(a.text, 10, 64); err == nil && o.kind == "allocate" && p.rows.byID[id] != nil {
		o.period = p.monthOf(p.rows.byID[id], moments) // read before it waited for the account
	}
	switch {
	case o.kind == "charge_many":
		return p.many(o, a, moments)
	case chunks[o.kind] != "":
		return p.chunk(o, a, moments)
	}
	var first error
	for _, now := range p.likeliest(o, a, moments) {
		out, do := p.judge(o, now)
		if err := sameAnswer(out, a); err != nil {
			first = cmp.Or(first, err)
			continue
		}
		return p.do(o, out, do, a)
	}
	return fmt.Errorf("%s: %w", o, first)
}

func (p *replayer) monthOf(x *row, moments []time.Time) string {
	if slices.ContainsFunc(moments, func(now time.Time) bool { return month(now).Format(time.DateOnly) == x.Period }) {
		return x.Period
	}
	return ""
}

// likeliest begins with the moment that the row says, where the call may have been what made it so.
func (p *replayer) likeliest(o *operation, a answer, moments []time.Time) []time.Time {
	if len(moments) == 1 {
		return moments
	}
	var at *time.Time
	switch {
	case o.kind == "open_account":
		at = p.rows.opened[o.user]
	case o.kind == "resolve" && p.rows.byID[o.transaction] != nil:
		at = p.rows.byID[o.transaction].Final
	case o.kind == "hold" && o.key != nil && p.rows.byKey[named{o.user, *o.key}] != nil:
		at = &p.rows.byKey[named{o.user, *o.key}].Created
	default:
		if id, err := strconv.ParseInt(a.text, 10, 64); err == nil && p.rows.byID[id] != nil {
			at = &p.rows.byID[id].Created
		}
	}
	if at == nil || !slices.ContainsFunc(moments, at.Equal) {
		return moments
	}
	return append([]time.Time{at.UTC()}, moments...)
}

// would says whether the model answers the same at one of these moments, and does nothing.
func (p *replayer) would(o *operation, a answer, moments []time.Time) error {
	if o.kind == "charge_many" || chunks[o.kind] != "" {
		if a.out.code == "TK100" && slices.ContainsFunc(moments, o.wrongForm) {
			return nil
		}
		return fmt.Errorf("%s: %s, without a reason", o, a.out)
	}
	var last error
	for _, now := range moments {
		out, _ := p.judge(o, now)
		if last = sameAnswer(out, a); last == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", o, last)
}

// wrongForm is a call over many rows that is refused as a whole.
func (o *operation) wrongForm(now time.Time) bool {
	if o.kind == "charge_many" {
		return len(o.rows) == 0
	}
	period := periodOf(o, now)
	return o.limit < 1 || o.limit > 20_000 || o.kind == "allocate_chunk" && (period.Day() != 1 || period.After(month(now)))
}

func sameAnswer(out outcome, a answer) error {
	got := a.out
	if got.code == "" {
		got = outcome{text: a.text}
		if id, err := strconv.ParseInt(a.text, 10, 64); err == nil && (out.fresh || out.id != 0) {
			got = outcome{id: id, fresh: out.fresh}
			if out.fresh {
				got.id = 0
			}
		}
	}
	if out != got {
		return fmt.Errorf("the database says %s, the model %s", got, out)
	}
	return nil
}

func (p *replayer) do(o *operation, out outcome, do func() *entry, a answer) error {
	if do == nil {
		return nil
	}
	e := do()
	if out.fresh && p.wrong == nil {
		id := e.id
		if o.kind == "hold" {
			id = e.hold.id
		}
		if a.text != fmt.Sprint(id) {
			p.wrong = fmt.Errorf("the answer is %s, but it booked %d", a.text, id)
		}
	}
	if p.wrong != nil {
		return fmt.Errorf("%s: %w", o, p.wrong)
	}
	return nil
}

// many is charge_many: each row as charge would have it, one after the other. Expired holds may be released before, needed or not.
func (p *replayer) many(o *operation, a answer, moments []time.Time) error {
	said, err := parseRows(a.text)
	if err != nil || len(said) != len(o.rows) {
		return fmt.Errorf("%s: %d rows for %d: %s, %w", o, len(said), len(o.rows), a.text, err)
	}
	now := p.judgedAt(o, said, moments)
	first, _ := o.inOrder()
	for _, i := range first {
		user := o.rows[i].user
		if x := p.nextRelease(user); x != nil && x.Created.Equal(now) {
			holds, _ := p.accounts[user].expired(now)
			p.expire(p.accounts[user], holds, now, whenNeeded)
		}
	}
	return p.charges(o, said, now, moments)
}

// judgedAt is the moment at which all rows were judged but those that come last. Where none was charged, judging changes nothing.
func (p *replayer) judgedAt(o *operation, said []answered, moments []time.Time) time.Time {
	once, _ := o.inOrder()
	for _, i := range once {
		if x := p.rows.byID[said[i].ID]; said[i].Outcome == "charged" && x != nil {
			return x.Created.UTC()
		}
	}
	for _, now := range moments {
		if !slices.ContainsFunc(once, func(i int) bool {
			out, _ := p.judge(&o.rows[i], now)
			return sameRow(out, said[i]) != nil
		}) {
			return now
		}
	}
	return moments[0]
}

func (p *replayer) nextRelease(user string) *row {
	if a := p.accounts[user]; a != nil && p.released(a) {
		return p.rows.bySeq[place{user, a.seq + 1}]
	}
	return nil
}

// inOrder: charge_many takes the rows in their order, but all of a user whose key comes twice come last.
func (o *operation) inOrder() (first, last []int) {
	seen, twice := map[named]bool{}, map[string]bool{}
	for _, r := range o.rows {
		key := named{r.user, quoted(r.key)}
		twice[r.user] = twice[r.user] || seen[key]
		seen[key] = true
	}
	for i, r := range o.rows {
		if twice[r.user] {
			last = append(last, i)
		} else {
			first = append(first, i)
		}
	}
	return first, last
}

func (p *replayer) charges(o *operation, said []answered, now time.Time, moments []time.Time) error {
	first, last := o.inOrder()
	for _, i := range append(first, last...) {
		r, s := &o.rows[i], said[i]
		if x := p.rows.byID[s.ID]; s.Outcome == "charged" && x != nil && slices.ContainsFunc(moments, x.Created.Equal) {
			now = x.Created.UTC() // a row that comes last reads the clock anew
		}
		at := slices.IndexFunc(moments, now.Equal)
		for _, now = range moments[max(at, 0):] {
			out, _ := p.judge(r, now)
			if sameRow(out, s) == nil {
				break
			}
		}
		out, do := p.judge(r, now)
		if err := sameRow(out, s); err != nil {
			return fmt.Errorf("%s, row %d, %s: %w", o, i+1, r, err)
		}
		if err := p.do(r, out, do, answer{text: fmt.Sprint(s.ID)}); err != nil {
			return fmt.Errorf("%s, row %d: %w", o, i+1, err)
		}
	}
	return nil
}

func sameRow(out outcome, s answered) error {
	got := outcome{code: s.Code, id: s.ID, fresh: s.Outcome == "charged"}
	if got.fresh {
		got.id = 0
	}
	if got.code == "TK101" && s.Message == tooFew(out.needed, out.available) {
		got.needed, got.available = out.needed, out.available
	}
	word := map[bool]string{true: "charged", false: "repeated"}[out.fresh]
	if out.code != "" {
		word = "refused"
	}
	if out != got || s.Outcome != word || (out.code == "") != (s.Message == "") {
		return fmt.Errorf("%s %s %s, by the model %s %s", s.Outcome, got, s.Message, word, out)
	}
	return nil
}

// chunk follows what a task's function says it did to which entries; where nobody else is there, it must have done all that was due.
func (p *replayer) chunk(o *operation, a answer, moments []time.Time) error {
	if !slices.ContainsFunc(moments, func(now time.Time) bool { return !o.wrongForm(now) }) {
		return fmt.Errorf("%s: %s, and not refused", o, a.text)
	}
	counts, list, _ := strings.Cut(a.text, "|")
	var touched []*row
	for _, field := range strings.Fields(list) {
		id, err := strconv.ParseInt(field, 10, 64)
		if x := p.rows.byID[id]; err == nil && x != nil {
			touched = append(touched, x)
		}
	}
	now := moments[len(moments)-1]
	if len(touched) > 0 && touched[0].Final != nil && o.kind != "sync_chunk" {
		now = touched[0].Final.UTC()
	}
	before := p.due(o, now, moments)
	did, err := map[string]func(*operation, []*row, time.Time) (string, error){
		"cleanup_chunk": p.cleanup, "allocate_chunk": p.allocate, "resolve_chunk": p.resolveChunk, "sync_chunk": p.sync,
	}[o.kind](o, touched, now)
	switch {
	case err != nil:
		return fmt.Errorf("%s, %s: %w", o, a.text, err)
	case p.wrong != nil:
		return fmt.Errorf("%s, %s: %w", o, a.text, p.wrong)
	}
	if o.kind == "allocate_chunk" && !p.exact {
		fields := strings.Fields(counts) // todo, last_user, seen, busy, allocated, credits, overflowing, period
		most, err := p.tooRich(fields[7])
		over, wrong := strconv.Atoi(fields[6])
		if err != nil || wrong != nil || over > most || slices.ContainsFunc(touched, func(x *row) bool { return x.Period != fields[7] }) {
			return fmt.Errorf("%s: %s, by the model at most %d overflowing, and all for that month", o, counts, most)
		}
	}
	if p.exact {
		did = before + did
		if counts != did {
			return fmt.Errorf("%s: %s, by the model %s", o, counts, did)
		}
	} else if !strings.Contains(" "+counts+" ", did+" ") {
		return fmt.Errorf("%s: %s, by the model …%s", o, counts, did)
	}
	return nil
}

// due is what the answer says of what there was to do: todo, the last one looked at, how many were looked at, none of them busy.
func (p *replayer) due(o *operation, now time.Time, moments []time.Time) string {
	if !p.exact {
		return ""
	}
	type item struct {
		at time.Time
		id int64
	}
	var items []item
	switch o.kind {
	case "cleanup_chunk":
		for _, h := range p.holds {
			if h.expiredAt(now) {
				items = append(items, item{h.expires, h.id})
			}
		}
	case "resolve_chunk":
		for _, e := range p.entries {
			if r, ok := p.rules[e.kind]; e.status == "PENDING" && ok && !e.created.After(now.Add(-r.after)) {
				items = append(items, item{e.created, e.id})
			}
		}
	case "sync_chunk":
		for _, e := range p.entries {
			if e.status == "COMPLETED" && !e.synced {
				items = append(items, item{epoch, e.id})
			}
		}
	case "allocate_chunk":
		return p.dueUsers(o, moments[0])
	}
	slices.SortFunc(items, func(a, b item) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.id, b.id)) })
	todo := -1
	if o.afterID == nil {
		todo = len(items)
	}
	items = slices.DeleteFunc(items, func(i item) bool {
		if o.afterID == nil {
			return false
		}
		at := i.at
		if o.afterAt != nil {
			at = *o.afterAt
		}
		return i.at.Before(at) || i.at.Equal(at) && i.id <= *o.afterID
	})
	items = items[:min(len(items), o.limit)]
	last := int64(-1)
	if len(items) > 0 {
		last = items[len(items)-1].id
	}
	if o.kind == "sync_chunk" {
		return fmt.Sprintf("%d %d %d", todo, last, len(items))
	}
	return fmt.Sprintf("%d %d %d 0", todo, last, len(items))
}

func (p *replayer) dueUsers(o *operation, now time.Time) string {
	todo, last, seen, allocated, credits, overflowing := -1, "-", 0, 0, &total{}, 0
	if o.afterUser == "" {
		todo = len(p.accounts)
	}
	period := periodOf(o, now)
	for _, user := range sortedUsers(p.accounts) {
		if user <= o.afterUser || seen == o.limit {
			continue
		}
		seen++
		last = user
		a := p.accounts[user]
		share := p.share(a.tier, a.created, period)
		switch {
		case share == 0 || a.months[period.Format(time.DateOnly)] != nil:
		case overflows(a.balance, share):
			overflowing++
		default:
			allocated++
			credits.add(share)
		}
	}
	return fmt.Sprintf("%d %s %d 0 %d %s %d %s", todo, last, seen, allocated, credits, overflowing, period.Format(time.DateOnly))
}

func sortedUsers(accounts map[string]*account) []string {
	users := make([]string, 0, len(accounts))
	for user := range accounts {
		users = append(users, user)
	}
	slices.Sort(users)
	return users
}

func periodOf(o *operation, now time.Time) time.Time {
	if period, err := time.Parse(time.DateOnly, o.period); err == nil {
		return period
	}
	return month(now)
}

// total is a sum that may be beyond an int64.
type total struct{ big.Int }

func (t *total) add(n int64) { t.Add(&t.Int, big.NewInt(n)) }

func (p *replayer) cleanup(_ *operation, touched []*row, now time.Time) (string, error) {
	credits := &total{}
	for _, x := range touched {
		h := p.holds[x.HoldID]
		if x.Kind != "release" || h == nil || !h.expiredAt(now) {
			return "", fmt.Errorf("a %s of hold %d, which has not expired", x.Kind, x.HoldID)
		}
		credits.add(h.amount)
		p.expire(p.accounts[h.user], []*hold{h}, now, byCleanup)
	}
	return fmt.Sprintf(" %d %s", len(touched), credits), nil
}

func (p *replayer) allocate(_ *operation, touched []*row, now time.Time) (string, error) {
	credits := &total{}
	for _, x := range touched {
		a := p.accounts[x.User]
		opens, err := time.Parse(time.DateOnly, x.Period)
		if err != nil || a == nil || a.months[x.Period] != nil {
			return "", fmt.Errorf("an allocation of %s, which user %s has already", x.Period, x.User)
		}
		share := p.share(a.tier, a.created, opens)
		credits.add(share)
		p.add(a, &entry{kind: "allocation", amount: share, period: x.Period}, now)
	}
	if p.exact {
		return "", nil // dueUsers has said it all, but for the month
	}
	if len(touched) == 0 {
		return " 0 0", nil
	}
	return fmt.Sprintf(" %d %s", len(touched), credits), nil
}

// tooRich counts the accounts whose balance can not hold what they have not got yet for the month. Beside other sessions it is a bound: each of them
// was passed over as such, or was busy, or was not come to.
func (p *replayer) tooRich(period string) (n int, err error) {
	opens, err := time.Parse(time.DateOnly, period)
	for _, a := range p.accounts {
		if share := p.share(a.tier, a.created, opens); a.months[period] == nil && overflows(a.balance, share) {
			n++
		}
	}
	return n, err
}

func (p *replayer) resolveChunk(_ *operation, touched []*row, now time.Time) (string, error) {
	entries := make([]*entry, 0, len(touched))
	for _, x := range touched {
		if x.Kind != "release" {
			entries = append(entries, p.entries[x.ID])
		}
	}
	if slices.Contains(entries, nil) {
		return "", fmt.Errorf("an entry that the model does not know")
	}
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Or(cmp.Compare(a.user, b.user), cmp.Compare(a.id, b.id)) })
	for _, e := range entries {
		if a := p.accounts[e.user]; p.rules[e.kind].commit && e.amount < 0 && p.released(a) {
			holds, _ := a.expired(now)
			p.expire(a, holds, now, whenNeeded)
		}
	}
	n := map[string]int{}
	added, deducted := &total{}, &total{}
	for _, e := range entries {
		r, ok := p.rules[e.kind]
		if e.status != "PENDING" || !ok || e.created.After(now.Add(-r.after)) {
			return "", fmt.Errorf("transaction %d is not due", e.id)
		}
		word := map[bool]string{true: "committed", false: "reverted"}[r.commit]
		notes := fmt.Sprintf("%s: pending for longer than %02d:00:00", word, int(r.after.Hours()))
		status, do := p.decide(e, r.commit, &notes, now)
		if r.commit && status == "FAILED" {
			word = "failed"
		}
		do()
		n[word]++
		if status == "COMPLETED" {
			added.add(max(e.amount, 0))
			deducted.add(max(-e.amount, 0))
		}
	}
	return fmt.Sprintf(" %d %d %d %s %s", n["committed"], n["reverted"], n["failed"], added, deducted), nil
}

func (p *replayer) sync(_ *operation, touched []*row, _ time.Time) (string, error) {
	added, deducted := &total{}, &total{}
	for _, x := range touched {
		e := p.entries[x.ID]
		if e == nil || e.status != "COMPLETED" || e.synced {
			return "", fmt.Errorf("transaction %d is not to be synced", x.ID)
		}
		e.synced = true
		added.add(max(e.amount, 0))
		deducted.add(max(-e.amount, 0))
	}
	if p.exact {
		return fmt.Sprintf(" %s %s", added, deducted), nil
	}
	return fmt.Sprintf(" %d %s %s", len(touched), added, deducted), nil
}

func (o *operation) String() string {
	show := func(v *int64) string {
		if v == nil {
			return "null"
		}
		return fmt.Sprint(*v)
	}
	return fmt.Sprintf("%s(user %s, to %s, tier %q, type %q, amount %s, key %s, endpoint %s, hold %d, transaction %d, expires %v, %d rows, limit %d)", o.kind, o.user, o.to,
		o.tier, o.entryType, show(o.amount), quoted(o.key), quoted(o.endpoint), o.hold, o.transaction, o.expiresIn, len(o.rows), o.limit)
}

// end compares everything once more: what was never booked, and what has changed since.
func (p *replayer) end(db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) error {
	if len(p.entries) != len(p.rows.byID) {
		return fmt.Errorf("the database has %d entries, the model %d", len(p.rows.byID), len(p.entries))
	}
	for id, e := range p.entries {
		if err := e.compare(p.rows.byID[id], true); err != nil {
			return err
		}
	}
	return cmp.Or(p.endAccounts(db), p.endHolds(db), p.endUsage(db))
}

func collect[T any](db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, query string, args ...any) ([]T, error) {
	found, err := db.Query(context.Background(), query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowTo[T])
}

func sameSet(what string, model, database []string) error {
	slices.Sort(model)
	slices.Sort(database)
	for i := range max(len(model), len(database)) {
		if i >= len(model) || i >= len(database) || model[i] != database[i] {
			return fmt.Errorf("%s: %d, by the model %d; the first difference: %v, by the model %v", what, len(database), len(model),
				database[min(i, len(database)):min(i+1, len(database))], model[min(i, len(model)):min(i+1, len(model))])
		}
	}
	return nil
}

func (p *replayer) endAccounts(db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) error {
	found, err := collect[string](db, `select format('%s %s: balance %s, held %s, seq %s, submitted %s, opened %s', a.user_id, a.tier, a.balance, a.held, a.seq, a.submitted,
		to_char(a.created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')) from credits.accounts as a`)
	var model []string
	for _, a := range p.accounts {
		model = append(model, fmt.Sprintf("%s %s: balance %d, held %d, seq %d, submitted %d, opened %s", a.user, a.tier, a.balance, a.held, a.seq, a.submitted, stamp(a.created)))
	}
	return cmp.Or(err, sameSet("accounts", model, found))
}

func (p *replayer) endHolds(db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) error {
	const format = "YYYY-MM-DD HH24:MI:SS.US"
	found, err := collect[string](db, `select format('%s of %s: %s %s, captured %s, opened at %s, closed at %s, %s to %s, closed %s: %s', h.id, h.user_id, h.status, h.amount,
		h.captured, h.opened_seq, coalesce(h.closed_seq, 0), to_char(h.created_at at time zone 'UTC', $1), to_char(h.expires_at at time zone 'UTC', $1),
		to_char(h.closed_at at time zone 'UTC', $1), h.reason) from credits.holds as h`, format)
	var model []string
	for _, h := range p.holds {
		closedSeq, closedAt := int64(0), ""
		if h.closed != nil {
			closedSeq, closedAt = h.closed.seq, stamp(h.closedAt)
		}
		model = append(model, fmt.Sprintf("%d of %s: %s %d, captured %d, opened at %d, closed at %d, %s to %s, closed %s: %s", h.id, h.user, h.status, h.amount,
			h.captured, h.opened.seq, closedSeq, stamp(h.created), stamp(h.expires), closedAt, h.reason))
	}
	return cmp.Or(err, sameSet("holds", model, found))
}

func (p *replayer) endUsage(db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) error {
	found, err := collect[string](db, `select format('%s %s %s %s %s %s %s %s', u.transaction_id, u.user_id, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint, u.period)
		from analytics.credit_usage as u join credits.transactions as t on t.id = u.transaction_id
		and (t.synced_at, t.created_at, t.final_at) = (u.synced_at, u.created_at, u.completed_at)`)
	var model []string
	for _, e := range p.entries {
		if e.synced {
			endpoint := ""
			if e.endpoint != nil {
				endpoint = *e.endpoint
			}
			model = append(model, fmt.Sprintf("%d %s %s %d %d %d %s %s", e.id, e.user, e.kind, e.amount, e.held, e.balanceAfter, endpoint, e.period))
		}
	}
	return cmp.Or(err, sameSet("analytics.credit_usage", model, found))
}
