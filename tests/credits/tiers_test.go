package credits_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// at puts the database's clock on a moment.
func (l *ledger) at(moment string) {
	l.t.Helper()
	when, err := time.Parse(time.RFC3339, moment)
	require.NoError(l.t, err)
	pgtest.SetNow(l.t, l.DB, when)
}

func TestSetTier_Higher_GivesTheDifferenceOfTheMonthAtOnce_Lower_TakesNothing(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.exec("insert into credits.tiers values ('gold', 900)")
	user := l.user("standard", 0)
	l.exec("select credits.allocate_chunk(null, null, 10)")
	l.requireBalance(user, 100, 0)
	entry := one[int64](l, "select credits.set_tier($1, 'premium')", user)
	l.requireBalance(user, 500, 0)
	require.Equal(t, "adjustment 400 tier premium instead of standard allocation", one[string](l, `select format('%s %s %s %s', t.type, t.amount, t.description, a.type)
		from credits.transactions as t join credits.transactions as a on a.id = t.related_id where t.id = $1`, entry))
	for _, step := range []struct {
		tier    string
		balance int64
	}{{"premium", 500}, {"standard", 500}, {"premium", 500}, {"gold", 900}, {"standard", 900}, {"gold", 900}} {
		l.exec("select credits.set_tier($1, $2)", user, step.tier)
		l.requireBalance(user, step.balance, 0)
		require.Equal(t, step.tier, one[string](l, "select tier from credits.accounts where user_id = $1", user))
	}
	require.EqualValues(t, 3, l.entries(user), "down and up again gives nothing twice")
}

func TestSetTier_BeforeTheMonthsAllocation_LeavesItToThat(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 0)
	require.True(t, one[bool](l, "select credits.set_tier($1, 'premium') is null", user))
	l.requireBalance(user, 0, 0)
	l.exec("select credits.allocate_chunk(null, null, 10)")
	l.requireBalance(user, 500, 0)
}

func TestSetTier_InTheMonthOfOpening_GoesByTheSettingForNewAccounts(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.exec("update credits.settings set value = 'pro_rata'")
	l.at("2026-06-16T10:00:00Z")
	user := l.user("standard", 0)
	l.exec("select credits.allocate_chunk(null, null, 10)")
	l.requireBalance(user, 50, 0)
	l.exec("select credits.set_tier($1, 'premium')", user)
	l.requireBalance(user, 250, 0)
	l.at("2026-07-01T00:00:00Z")
	l.exec("select credits.allocate_chunk(null, null, 10)")
	l.requireBalance(user, 750, 0)
}

func TestSetTier_ThatIsNone_OrOfNobody_IsRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 0)
	require.Contains(t, l.refusal("TK109", "select credits.set_tier($1, 'gold')", user).Hint, "standard, premium")
	l.refused("TK109", "select credits.set_tier($1, null)", user)
	l.refused("TK102", "select credits.set_tier(gen_random_uuid(), 'premium')")
	l.refused("TK100", "select credits.set_tier(null, 'premium')")
}

func TestAllocate_GivesAnAccountOpenedWithinTheMonthItsCredits_Once(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	early := l.user("standard", 0)
	l.exec("select credits.allocate_chunk(null, null, 10)")
	late := l.user("premium", 0)
	entry := one[int64](l, "select credits.allocate($1)", late)
	l.requireBalance(late, 500, 0)
	require.Equal(t, entry, one[int64](l, "select credits.allocate($1)", late), "again: the same")
	l.exec("select credits.allocate($1)", early)
	l.exec("select credits.allocate_chunk(null, null, 10)")
	l.requireBalance(late, 500, 0)
	l.requireBalance(early, 100, 0)
	l.exec("update credits.settings set value = 'none'")
	require.True(t, one[bool](l, "select credits.allocate($1) is null", l.user("standard", 0)))
	l.refused("TK102", "select credits.allocate(gen_random_uuid())")
	l.refused("TK100", "select credits.allocate(null)")
}
