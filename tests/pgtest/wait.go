package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Looks are soon followed by another at first, then by one each twentieth of the time that it takes already.
const (
	soonest = 10 * time.Millisecond
	latest  = 200 * time.Millisecond
)

// Becomes waits until a query answers what it should. A query that fails is asked again: the server may be away. The longer it takes the more
// seldom it is asked, so that tests that wait leave the processors to what they wait for.
func Becomes[V comparable](t testing.TB, db *DB, within time.Duration, want V, sql string, args ...any) {
	t.Helper()
	ctx, end := context.WithTimeout(context.Background(), within)
	defer end()
	begun := time.Now()
	for {
		var last V
		err := db.Pool.QueryRow(ctx, sql, args...).Scan(&last)
		if err == nil && last == want {
			return
		}
		select {
		case <-ctx.Done():
			require.FailNow(t, "it does not become so", "%s %v: want %v, have %v (%v) after %s", sql, args, want, last, err, within)
		case <-time.After(min(max(soonest, time.Since(begun)/20), latest)):
		}
	}
}
