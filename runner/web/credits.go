package web

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgtick/pgtick/runner/jobs"
)

func creditsPages() []page {
	return []page{
		{Path: "/credits", Nav: "/credits", Title: "Credits", Template: "credits.html", Live: true, Load: loadLedger},
		{Path: "/credits/account", Nav: "/credits", Title: "Account", Template: "account.html", Live: true, Load: loadAccount},
	}
}

func creditsActions() []action {
	return []action{
		{Name: "credits/verify", Run: verifyLedger},
		{Name: "credits/release", Run: releaseExpired},
	}
}

const (
	holdsShown   = 20
	entriesShown = 50
)

// ledgerShown is what the template of the ledger gets.
type ledgerShown struct {
	State   ledgerState
	Overdue []ledgerHold
	More    bool // holds than are shown
	Check   ledgerCheck
	Checks  bool // it can be verified from here
}

func loadLedger(ctx context.Context, v *view) (any, error) {
	l := ledgerShown{Checks: v.database.options.Verify != nil}
	var err error
	if v.Now, err = jobs.Now(ctx, v.DB); err != nil {
		return nil, err
	}
	if l.State, err = stateOfLedger(ctx, v.DB); err != nil || !l.State.Used {
		return l, err
	}
	if l.Overdue, err = overdueHolds(ctx, v.DB, holdsShown+1); err != nil {
		return nil, err
	}
	if len(l.Overdue) > holdsShown {
		l.Overdue, l.More = l.Overdue[:holdsShown], true
	}
	l.Check, err = lastCheck(ctx, v)
	return l, err
}

// accountShown is what the template of one account gets.
type accountShown struct {
	*ledgerAccount
	Holds     []ledgerHold
	MoreHolds bool
	Unchained []ledgerEntry
	Entries   []ledgerEntry
	Pager     pager
	At        int64 // the seq that the page begins below; 0: the newest
}

func loadAccount(ctx context.Context, v *view) (any, error) {
	user, err := userOf(v.Query.Get("user"))
	if err != nil {
		return nil, err
	}
	before, err := strconv.ParseInt(cmp.Or(v.Query.Get("before"), "0"), 10, 64)
	if err != nil || before < 0 {
		return nil, wrong("before %q is no number of an entry", v.Query.Get("before"))
	}
	if v.Now, err = jobs.Now(ctx, v.DB); err != nil {
		return nil, err
	}
	a := accountShown{At: before}
	if a.ledgerAccount, err = accountOf(ctx, v.DB, user); err != nil {
		return nil, err
	}
	if a.ledgerAccount == nil {
		return nil, missing("user %s has no account", user)
	}
	v.Title = "Account " + user
	if a.Holds, err = openHolds(ctx, v.DB, user, holdsShown+1); err != nil {
		return nil, err
	}
	if len(a.Holds) > holdsShown {
		a.Holds, a.MoreHolds = a.Holds[:holdsShown], true
	}
	if a.Unchained, err = unchained(ctx, v.DB, user, holdsShown); err != nil {
		return nil, err
	}
	if err := a.addStatement(ctx, v); err != nil {
		return nil, err
	}
	return a, nil
}

// userOf reads a UUID as Postgres writes it.
func userOf(text string) (string, error) {
	var user pgtype.UUID
	if err := user.Scan(strings.TrimSpace(text)); err != nil || !user.Valid {
		return "", wrong("user %q is no UUID such as 6f9619ff-8b86-4d11-b42d-00c04fc964ff", text)
	}
	return user.String(), nil
}

func (a *accountShown) addStatement(ctx context.Context, v *view) (err error) {
	before := a.At
	if before == 0 {
		before = math.MaxInt64
	}
	a.Entries, err = statementPage(ctx, v.DB, a.User, before, entriesShown+1)
	if err != nil {
		return err
	}
	if a.At != 0 {
		a.Pager.First = accountAddress(v.Base, a.User, 0)
	}
	if len(a.Entries) > entriesShown {
		a.Entries = a.Entries[:entriesShown]
		a.Pager.Next = accountAddress(v.Base, a.User, a.Entries[entriesShown-1].Seq)
	}
	for i := range a.Entries {
		a.Entries[i].mask(v)
	}
	for i := range a.Unchained {
		a.Unchained[i].mask(v)
	}
	return nil
}

func accountAddress(base, user string, before int64) string {
	query := url.Values{"user": {user}}
	if before != 0 {
		query.Set("before", strconv.FormatInt(before, 10))
	}
	return base + "/credits/account?" + query.Encode() + "#statement"
}

// ledgerTask stands for the ledger in the rules of what is hidden, as credits:description does.
const ledgerTask = "credits"

// mask leaves what this person may see of the free texts: people wrote them.
func (e *ledgerEntry) mask(v *view) {
	e.Description = v.Text(ledgerTask, "description", e.Description)
	e.Reference = v.Text(ledgerTask, "reference_id", e.Reference)
	e.Notes = v.Text(ledgerTask, "notes", e.Notes)
}

// Signed is an amount with its sign; nothing for none.
func (ledgerEntry) Signed(n int64) string {
	switch {
	case n == 0:
		return ""
	case n > 0:
		return "+" + number(n)
	}
	return "−" + number(-n)
}

// For is what an entry was for, in the words that it has.
func (e ledgerEntry) For() (words []string) {
	if e.Redacted {
		words = append(words, "redacted")
	}
	for _, w := range []string{e.Endpoint, e.Description, e.Reference, e.Notes} {
		if w != "" {
			words = append(words, w)
		}
	}
	return words
}

// Address is that of the account, without the base.
func (h ledgerHold) Address() string { return accountAddress("", h.User, 0) }

// releaseExpired gives back what a hold has set aside that can't be captured any more: the cleanup does so as well, a while later. Nothing else
// can be booked from here.
func releaseExpired(ctx context.Context, d *doing) (string, error) {
	id, err := strconv.ParseInt(d.Form.Get("hold"), 10, 64)
	if err != nil {
		return "", refuse("hold", "hold %q is no number.", d.Form.Get("hold"))
	}
	h, state, err := holdNow(ctx, d.DB, id)
	switch {
	case err != nil:
		return "", err
	case h == nil:
		return "", refuse("hold", "There is no hold %d.", id)
	case state != "open":
		return fmt.Sprintf("Hold %d is %s already.", id, state), nil
	case !h.Expired:
		return "", refuse("hold", "Hold %d is open until %s: only one that has expired may be released from here.", id, h.ExpiresAt.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	if err := releaseHold(ctx, d.DB, id, "released from the dashboard, since it had expired"); err != nil {
		return "", err
	}
	d.Note("credits", map[string]any{"hold": id, "user": h.User, "amount": h.Amount})
	return fmt.Sprintf("Hold %d is released: %s credits are available again.", id, number(h.Amount)), nil
}
