package dashboard_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const (
	alice = "6f9619ff-8b86-4d11-b42d-00c04fc964ff"
	bob   = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
)

// ledger has an account with 130 entries, two holds and a pending one.
func ledger(t *testing.T) *dash {
	t.Helper()
	d := open(t)
	run(t, d.DB, fmt.Sprintf(`select credits.open_account('%[1]s'); select credits.open_account('%[2]s', 'premium'); select credits.grant('%[1]s', 1000, 'a', 'bought in the shop');
		select count(*) from credits.charge_many(array_fill('%[1]s'::uuid, array[127]), array_fill(1::bigint, array[127]), (select array_agg('k' || g) from generate_series(1, 127) as g));
		select credits.hold('%[1]s', 40, '30 minutes', 'h1'); select credits.hold('%[1]s', 5, '2 days', 'h2'); select credits.submit('%[1]s', 'addition', 50, 'p1', 'an invoice')`, alice, bob))
	return d
}

func accountPage(user string) string { return "/credits/account?user=" + user }

// An account's page has its balance, open holds and entries, page by page, each with the balance after it: what credits.statement says.
func TestCredits_AccountIsWhatTheStatementSays_PageByPage(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	var shown []string
	next := regexp.MustCompile(`<a href="([^"#]*)[^"]*" rel="next"`)
	for address := accountPage(alice); address != ""; {
		status, body := d.get(t, address)
		require.Equal(t, http.StatusOK, status, words(body))
		require.Contains(t, says(body), "available 828 balance 873 held 45")
		for _, row := range regexp.MustCompile(`(?s)<tr id="entry-\d+"><th scope="row" class="number".*?</tr>`).FindAllString(body, -1) {
			fields := strings.Fields(strings.ReplaceAll(says(row), " UTC", ""))
			shown = append(shown, fields[0]+" "+fields[2]+" "+strings.Join(fields[5:], " "))
		}
		address = ""
		if found := next.FindStringSubmatch(body); found != nil {
			address = html.UnescapeString(found[1])
		}
	}
	rows, err := d.DB.Pool.Query(t.Context(), `select seq, transaction_id, type, amount, balance, held, hold_id from credits.statement($1) order by seq desc`, alice)
	require.NoError(t, err)
	defer rows.Close()
	at := 0
	for ; rows.Next(); at++ {
		var seq, id, amount, balance, held int64
		var hold *int64
		var kind string
		require.NoError(t, rows.Scan(&seq, &id, &kind, &amount, &balance, &held, &hold))
		require.Less(t, at, len(shown))
		require.Contains(t, shown[at], fmt.Sprintf("%d %d ", seq, id))
		require.Contains(t, shown[at], kind)
		require.Contains(t, strings.ReplaceAll(shown[at], ",", ""), fmt.Sprintf(" %d ", balance), "the balance after it")
	}
	require.NoError(t, rows.Err())
	require.Equal(t, at, len(shown))
	require.Equal(t, 130, at)

	_, body := d.get(t, accountPage(alice))
	require.Contains(t, says(element(t, body, "table", "hold-rows")), "1 40")
	require.Contains(t, says(element(t, body, "table", "pending-rows")), "PENDING addition +50")
	require.Contains(t, says(body), "an invoice")
	_, body = d.reader().get(t, accountPage(alice))
	require.NotContains(t, body, "an invoice", "free texts are shown as arguments are")
	require.Contains(t, says(body), "available 828", "figures are for readers too")
	run(t, d.DB, fmt.Sprintf(`select credits.grant('%[1]s', 5000, 'a');
		select count(*) from credits.charge_many(array_fill('%[1]s'::uuid, array[3000]), array_fill(1::bigint, array[3000]), (select array_agg('k' || g) from generate_series(1, 3000) as g))`, bob))
	run(t, d.DB, `analyze credits.transactions`)
	for _, p := range d.plans(t, accountPage(alice)) {
		readsLittle(t, p, "an account", 60, "transactions", "holds", "accounts")
	}

	status, body := d.get(t, accountPage("7d444840-9dc0-11d1-b245-5ffdce74fad3"))
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, says(body), "has no account")
	status, body = d.get(t, accountPage("alice"))
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, says(body), `user "alice" is no UUID`)
}

// Only a hold that has expired may be released, and nothing else can be booked.
func TestCredits_ExpiredHold_IsReleasedByHand(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	status, body := d.post(t, "/do/credits/release", url.Values{"hold": {"1"}, "back": {"/credits"}})
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, says(body), "only one that has expired may be released from here")
	require.Equal(t, "open", ask[string](t, d.DB, `select status from credits.holds where id = 1`))

	pgtest.Advance(t, d.DB, time.Hour)
	b := d.browse(t)
	b.visit("/credits")
	require.Contains(t, b.text("main"), "Nothing can be booked from here")
	b.axe()
	b.phone()
	b.desk()
	require.Contains(t, b.text("#holds"), alice)
	b.press("#hold-1 button")
	require.Contains(t, b.text("#notices"), "Hold 1 is released: 40 credits are available again.")
	require.Equal(t, "released", ask[string](t, d.DB, `select status from credits.holds where id = 1`))
	require.Equal(t, "dashboard: operator's token credits/release credits", ask[string](t, d.DB, `select concat_ws(' ', by_whom, action, subject) from pgtick.audit`))
	b.visit(accountPage(alice))
	b.axe()
	b.phone()
	for _, action := range []string{"credits/release", "credits/verify"} {
		status, _ := d.reader().post(t, "/do/"+action, url.Values{"hold": {"2"}})
		require.Equal(t, http.StatusForbidden, status, action)
	}
}

// The ledger is verified by the program when somebody asks, beside the pages, which then show what came of it, also another dashboard's.
func TestCredits_Verify_ShowsTotalsAndWhatIsBroken(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	said, end := pgtick(t, []string{"DATABASE_URL=" + d.DB.URL, "PGTICK_WEB_TOKEN=" + operatorToken}, "web")
	program := *d
	program.URL = served(t, said)
	_, body := program.get(t, "/credits")
	require.Contains(t, says(body), "It has not been verified from here yet.")
	verify := func(violations int) string {
		status, body := program.post(t, "/do/credits/verify", url.Values{"back": {"/credits"}})
		require.Equal(t, http.StatusOK, status, words(body))
		require.Contains(t, says(body), "The ledger is being verified")
		ended := fmt.Sprintf("violations %d ", violations)
		eventually(t, ended, func() bool { _, body = program.get(t, "/credits"); return strings.Contains(says(body), ended) })
		return says(body)
	}
	require.Contains(t, verify(0), "violations 0 131 entries in")
	_, body = d.get(t, "/credits")
	require.Contains(t, says(body), "accounts 2 credits in all 873 of them held 45 pending entries 1")
	require.Contains(t, says(body), "asked for by dashboard: operator's token")
	require.NotContains(t, body, "/do/credits/verify", "what has no way to verify has no button for it")
	_, body = d.post(t, "/do/credits/verify", url.Values{"back": {"/credits"}})
	require.Contains(t, says(body), "pgtick credits verify does")

	run(t, d.DB, `alter table credits.transactions disable trigger all; update credits.transactions set amount = -2 where seq = 7`)
	found := verify(ask[int](t, d.DB, `select count(*) from credits.violations`))
	require.Contains(t, found, "entry: it does not continue the one before "+alice)
	require.Zero(t, end())
	for _, p := range d.plans(t, "/credits") {
		readsLittle(t, p, "/credits", 20, "transactions", "holds", "accounts")
	}
}

func TestCredits_WhereNobodyHasAnAccount_SaysHowToOpenOne(t *testing.T) {
	t.Parallel()
	d := open(t)
	status, body := d.get(t, "/credits")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, says(body), "No user has an account yet")
	run(t, d.DB, `drop schema credits cascade`)
	status, body = d.get(t, "/credits?again")
	require.Equal(t, http.StatusOK, status, words(body))
	require.Contains(t, says(body), "This database has no ledger")
}
