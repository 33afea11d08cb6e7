package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func addresses(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return all[string](t, db.Pool, "select address || ' ' || to_char(adopted_at at time zone 'UTC', 'HH24:MI') from pgtick.addresses order by address")
}

func TestAddress_TheFirstIsRecorded_AndAnyOtherRefusedUntilItIsAdopted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "delete from pgtick.addresses")
	for range 2 {
		exec(t, db.Pool, "select pgtick.check_address('here/app')")
	}
	require.Equal(t, []string{"here/app 12:00"}, addresses(t, db))
	message := refused(t, db.Pool, "TK009", "select pgtick.check_address('copy/app')").Message
	require.Contains(t, message, "here/app")
	require.Contains(t, message, "copy/app")
	require.Equal(t, []string{"here/app 12:00"}, addresses(t, db), "who is refused records nothing")
	exec(t, db.Pool, "select pgtick.adopt('copy/app')")
	exec(t, db.Pool, "select pgtick.check_address('copy/app'), pgtick.check_address('here/app')")
	for _, call := range []string{"check_address", "adopt"} {
		for _, bad := range []any{nil, "", strings.Repeat("x", 501)} {
			refused(t, db.Pool, "TK000", "select pgtick."+call+"($1)", bad)
		}
		exec(t, db.Pool, "begin; select pgtick.adopt(repeat('x', 500)); select pgtick."+call+"(repeat('x', 500)); rollback")
	}
}

func TestAdopt_Only_ForgetsTheOthers_AndNotSinceWhenItsOwnWasThere(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "delete from pgtick.addresses")
	exec(t, db.Pool, "select pgtick.adopt('old/app'), pgtick.adopt('new/app')")
	pgtest.Advance(t, db, time.Hour)
	exec(t, db.Pool, "select pgtick.adopt('new/app')")
	require.Equal(t, []string{"new/app 12:00", "old/app 12:00"}, addresses(t, db))
	exec(t, db.Pool, "select pgtick.adopt('new/app', p_only => true)")
	require.Equal(t, []string{"new/app 12:00"}, addresses(t, db))
}

// Two runners that come first, at once and under the same address.
func TestCheckAddress_OfTwoThatComeFirst_BothMay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "delete from pgtick.addresses")
	first, second := session(t, db), session(t, db)
	exec(t, first, "begin")
	exec(t, first, "select pgtick.check_address('here/app')")
	ended := inBackground(t, second, "select pgtick.check_address('here/app')")
	awaitLock(t, db, second)
	exec(t, first, "commit")
	require.NoError(t, <-ended)
}
