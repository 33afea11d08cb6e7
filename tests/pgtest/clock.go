package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clock is what pgtick.now() of a database answers: the real time and an offset, or a moment that stands still.
type clock struct {
	offset time.Duration
	frozen *time.Time
}

// Advance moves pgtick.now() of this database forward, or back: jobs, retries and slots of schedules come due, leases run out. Moves add up.
// Nothing else is moved: neither Go's clock nor the server's own now().
func (db *DB) Advance(t testing.TB, d time.Duration) {
	t.Helper()
	db.setClock(t, func(c *clock) {
		if c.frozen != nil {
			later := c.frozen.Add(d)
			c.frozen = &later
			return
		}
		c.offset += d
	})
}

// SetNow makes pgtick.now() of this database answer this moment until it is moved.
func (db *DB) SetNow(t testing.TB, now time.Time) {
	t.Helper()
	db.setClock(t, func(c *clock) { c.frozen = &now })
}

// RealTime gives pgtick.now() of this database back to the server's clock.
func (db *DB) RealTime(t testing.TB) {
	t.Helper()
	db.setClock(t, func(c *clock) { *c = clock{} })
}

// Now is what pgtick.now() of this database answers.
func (db *DB) Now(t testing.TB) (now time.Time) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(context.Background(), "select pgtick.now()").Scan(&now))
	return now
}

// Advance is db.Advance.
func Advance(t testing.TB, db *DB, d time.Duration) {
	t.Helper()
	db.Advance(t, d)
}

// SetNow is db.SetNow.
func SetNow(t testing.TB, db *DB, now time.Time) {
	t.Helper()
	db.SetNow(t, now)
}

// RealTime is db.RealTime.
func RealTime(t testing.TB, db *DB) {
	t.Helper()
	db.RealTime(t)
}

func (db *DB) setClock(t testing.TB, change func(*clock)) {
	t.Helper()
	db.mu.Lock()
	defer db.mu.Unlock()
	change(&db.clock)
	_, err := db.Pool.Exec(context.Background(), fmt.Sprintf(`create or replace function pgtick.now() returns timestamptz
		language sql volatile parallel safe set search_path = '' as $$ select %s $$`, db.clock.sql()))
	require.NoError(t, err)
}

func (c *clock) sql() string {
	if c.frozen != nil {
		return fmt.Sprintf("timestamptz '%s'", c.frozen.UTC().Format("2006-01-02 15:04:05.999999+00"))
	}
	return fmt.Sprintf("pg_catalog.clock_timestamp() + interval '%d microseconds'", c.offset.Microseconds())
}
