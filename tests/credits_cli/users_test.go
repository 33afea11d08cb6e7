package creditscli

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestBalance_IsThatOfTheLedger(t *testing.T) {
	t.Parallel()
	l := ledger(t, 1)
	for _, url := range []string{l.URL, reader(t, l)} {
		r := call(t, url, nil, "balance", userNumber(1))
		require.Zero(t, r.code, r.talk)
		require.Equal(t, "BALANCE  HELD  AVAILABLE\n89       3     86\n", r.out)
		require.Empty(t, r.talk)
	}
	r := call(t, l.URL, nil, "balance", strings.ToUpper(userNumber(1)), "--json")
	require.Zero(t, r.code, r.talk)
	require.Equal(t, `{"user_id":"`+userNumber(1)+`","balance":89,"held":3,"available":86}`+"\n", r.out)
	pgtest.Advance(t, l, 2*time.Hour)
	require.Contains(t, call(t, l.URL, nil, "balance", userNumber(1)).out, "89       0     89", "an expired hold keeps nothing")
}

func TestStatement_HasTheEntriesOfAPeriod(t *testing.T) {
	t.Parallel()
	l := pgtest.New(t)
	user := userNumber(1)
	for i, at := range []time.Time{time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 15, 12, 30, 0, 0, time.UTC), time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)} {
		pgtest.SetNow(t, l, at)
		do(t, l, `select credits.open_account($1)`, user)
		do(t, l, []string{`select credits.grant($1, 100, 'g', 'welcome', 'order-1')`, `select credits.charge($1, 7, 'c', '/v1')`, `select credits.hold($1, 10, '1 hour', 'h')`}[i], user)
	}
	statement := func(args ...string) result {
		r := call(t, reader(t, l), nil, append([]string{"statement", user}, args...)...)
		require.Zero(t, r.code, r.talk)
		return r
	}
	require.Equal(t, strings.Join([]string{
		"SEQ  AT (UTC)             ENTRY  TYPE       AMOUNT  HELD  BALANCE  HELD AFTER  FOR",
		"1    2026-03-01 00:00:00  1      addition   +100    -     100      0           welcome  order-1",
		"2    2026-03-15 12:30:00  2      deduction  -7      -     93       0           /v1",
		"3    2026-04-01 00:00:00  3      hold       -       +10   93       10          -",
	}, "\n")+"\n", statement().out)
	seqs := func(args ...string) (all []float64) {
		for _, row := range objects(t, statement(append(args, "--json")...).out) {
			all = append(all, row["seq"].(float64))
		}
		return all
	}
	require.Equal(t, []float64{1, 2}, seqs("--to", "2026-04-01"))
	require.Equal(t, []float64{2, 3}, seqs("--from", "2026-03-01T00:00:00.000001Z"))
	require.Equal(t, []float64{2}, seqs("--from", "2026-03-01 00:01", "--to", "2026-03-31T23:59:59-00:00"))
	require.Equal(t, []float64{2, 3}, seqs("--from", "30d"), "lengths go back")
	require.Equal(t, []float64{1}, seqs("--to", "30d"))
	none := statement("--to", "2026-01-01")
	require.Equal(t, result{"", "no entries\n", 0}, none)
	row := objects(t, statement("--json").out)[1]
	require.Equal(t, map[string]any{"seq": 2.0, "at": "2026-03-15T12:30:00+00:00", "type": "deduction", "amount": -7.0, "held_amount": 0.0, "balance": 93.0, "held": 0.0,
		"transaction_id": 2.0, "hold_id": nil, "related_id": nil, "endpoint": "/v1", "description": nil, "reference_id": nil}, row)
}

func TestUsers_ThatAreNone_AndOtherMistakes(t *testing.T) {
	t.Parallel()
	l := ledger(t, 1)
	nobody := "6f9619ff-8b86-4d11-b42d-00c04fc964ff"
	for name, c := range map[string]struct {
		args []string
		says string
		code int
	}{
		"unknown user":             {[]string{"balance", nobody}, "user " + nobody + " has no account (TK102)", 1},
		"unknown user's statement": {[]string{"statement", nobody, "--json"}, "user " + nobody + " has no account (TK102)", 1},
		"no UUID":                  {[]string{"balance", "ann"}, `user "ann" is no UUID: give it as 6f9619ff-`, 2},
		"no UUID for a statement":  {[]string{"statement", "00000000-0000-4000-8000-00000000000x"}, "is no UUID", 2},
		"no user":                  {[]string{"balance"}, "accepts 1 arg(s), received 0 (see: pgtick credits balance --help)", 2},
		"no time":                  {[]string{"statement", userNumber(1), "--from", "yesterday"}, `--from "yesterday" is no time: give 2026-03-28T02:00:00Z, 2026-03-28 02:00, or a length back`, 2},
		"backwards":                {[]string{"statement", userNumber(1), "--from", "2026-02-01", "--to", "2026-01-01"}, `--to "2026-01-01" is not later than --from "2026-02-01"`, 2},
		"unknown verb":             {[]string{"blance"}, `unknown command "blance"`, 2},
		"too much":                 {[]string{"verify", "all"}, "all", 2},
	} {
		r := call(t, l.URL, nil, c.args...)
		require.Contains(t, r.talk, c.says, name)
		require.Equal(t, c.code, r.code, name)
		require.Empty(t, r.out, name)
	}
	r := call(t, pgtest.RunnerURL(t, l), nil, "balance", userNumber(1))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "permission denied for function balance")
	require.Equal(t, 2, call(t, "", nil, "verify").code)
	require.Equal(t, 1, call(t, "postgres://u@127.0.0.1:1/x", nil, "verify").code)
}

func TestHelp_NamesAllVerbs(t *testing.T) {
	t.Parallel()
	r := call(t, "", nil, "--help")
	require.Zero(t, r.code)
	for _, verb := range []string{"balance", "statement", "verify", "reconcile"} {
		require.Regexp(t, `(?m)^  `+verb+` +\S`, r.out)
		require.Contains(t, call(t, "", nil, verb, "--help").out, "--json")
	}
}
