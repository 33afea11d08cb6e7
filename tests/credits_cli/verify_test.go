package creditscli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVerify_OfALedgerInOrder_PrintsNothing(t *testing.T) {
	t.Parallel()
	l := ledger(t, 20)
	for _, args := range [][]string{{"verify"}, {"verify", "--json"}} {
		r := call(t, reader(t, l), nil, args...)
		require.Zero(t, r.code, r.talk)
		require.Empty(t, r.out)
		require.Regexp(t, `^100 entries of 20 accounts in \S+: 0 violations\n$`, r.talk)
	}
}

// The owner can switch the triggers off. The first entry that is wrong is named.
func TestVerify_NamesTheFirstWrongEntry(t *testing.T) {
	t.Parallel()
	id := func(user, seq int) string {
		return fmt.Sprintf("(select id::float8 from credits.transactions where user_id = '%s' and seq = %d)", userNumber(user), seq)
	}
	const none = "null::float8"
	for name, c := range map[string]struct {
		statements string
		user       string
		entry      string
		kind       string
	}{
		"an amount":              {"update credits.transactions set amount = amount - 1 where id = " + id(7, 2), userNumber(7), id(7, 2), "entry: it does not continue the one before"},
		"an amount, made to fit": {"update credits.transactions set amount = amount + 1, balance_after = balance_after + 1 where id = " + id(7, 5), userNumber(7), id(7, 5), "entry: its hash is wrong"},
		"an endpoint":            {"update credits.transactions set endpoint = '/v2' where id = " + id(9, 2), userNumber(9), id(9, 2), "entry: its hash is wrong"},
		"a text":                 {"update credits.transactions set description = 'farewell' where id = " + id(20, 1), userNumber(20), id(20, 1), "entry: its texts do not agree with their digest"},
		"a sign":                 {"update credits.transactions set type = 'addition' where id = " + id(1, 2), userNumber(1), id(1, 2), "entry: its amounts do not fit its type"},
		"the balance":            {"update credits.accounts set balance = balance + 1000000 where user_id = '" + userNumber(13) + "'", userNumber(13), none, "account: not the sum of its entries"},
		"a hold reopened":        {"update credits.holds set status = 'open', captured = 0, closed_seq = null, closed_at = null, reason = null where opened_seq = 3 and user_id = '" + userNumber(5) + "'", userNumber(5), id(5, 4), "entry: its hold does not agree with it"},
		"an account gone":        {"delete from credits.accounts where user_id = '" + userNumber(20) + "'", userNumber(20), id(20, 1), "entry: its account is missing"},
		"a user beyond all":      {"update credits.transactions set user_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff' where id = " + id(3, 5), "ffffffff-ffff-ffff-ffff-ffffffffffff", id(3, 5), "entry: its account is missing"},
		"a user before all":      {"update credits.transactions set user_id = '00000000-0000-0000-0000-000000000000' where id = " + id(3, 5), "00000000-0000-0000-0000-000000000000", id(3, 5), "entry: its account is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := ledger(t, 20)
			entry := one[*float64](t, l, "select "+c.entry)
			behindTheGuards(t, l, c.statements)
			want := one[int](t, l, `select count(*) from credits.violations`)

			r := call(t, reader(t, l), nil, "verify", "--json")
			require.Equal(t, 1, r.code)
			rows := objects(t, r.out)
			require.Len(t, rows, want, "as many as the view says")
			first := rows[0]
			for _, row := range rows {
				if row["kind"] == c.kind {
					first = row
					break
				}
			}
			require.Equal(t, c.kind, first["kind"], r.out)
			require.Equal(t, c.user, first["user_id"])
			if entry == nil {
				require.Nil(t, first["transaction_id"])
			} else {
				require.InDelta(t, *entry, first["transaction_id"], 0)
			}
			require.Contains(t, r.talk, fmt.Sprintf(": %d violation", want))

			r = call(t, l.URL, nil, "verify")
			require.Equal(t, 1, r.code)
			require.Regexp(t, `^USER +ENTRY +HOLD +VIOLATION +DETAIL\n`, r.out)
			require.Contains(t, r.out, c.kind)
			require.Equal(t, want+1, strings.Count(r.out, "\n"))
			require.Contains(t, r.talk, "pgtick: the ledger breaks its rules: ")
		})
	}
}
