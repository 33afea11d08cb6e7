package credits_model_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pairs is a crowd in which one call after the other is kept waiting by a transaction that is not over yet.
type pairs struct {
	*crowd
	s       []*session
	opened  int
	entries map[string]map[string]int64 // of each user: the ids of a charge, a hold and a pending entry
}

var waiting = []string{"set_tier", "grant", "adjust", "charge", "charge by endpoint", "hold", "capture", "release", "extend", "submit", "resolve", "revert", "refund", "transfer",
	"transfer to", "redact", "allocate", "charge_many", "same key", "other under the key"}

// TestModel_WhenACallWaitsForAnother_SeesWhatThatHasDone: every call, behind every other call on the same account that has not been committed
// yet, and behind each task's chunk.
func TestModel_WhenACallWaitsForAnother_SeesWhatThatHasDone(t *testing.T) {
	t.Parallel()
	for _, before := range waiting {
		if before == "grant" || before == "charge by endpoint" || before == "revert" || before == "transfer to" || before == "other under the key" {
			continue // does to the account what another one does
		}
		t.Run("behind "+before, func(t *testing.T) {
			t.Parallel()
			p := newPairs(t, len(waiting))
			for i, behind := range waiting {
				p.race(p.operation(before, p.users[i]), p.operation(behind, p.users[i]))
			}
			p.replay()
			p.requireNoViolations()
		})
	}
	for kind := range chunks {
		t.Run("behind "+kind, func(t *testing.T) {
			t.Parallel()
			p := newPairs(t, len(waiting))
			p.advance(100 * time.Hour)
			for i := 0; i < len(waiting); i += sessions - 1 {
				behind := map[int]operation{}
				for j := i; j < min(i+sessions-1, len(waiting)); j++ {
					behind[j] = p.operation(waiting[j], p.users[j])
				}
				p.raceAll(operation{kind: kind, limit: 20_000}, behind)
				p.advance(45 * 24 * time.Hour)
			}
			p.replay()
			p.requireNoViolations()
		})
	}
}

// TestCharge_WhenTheRateGoesWhileTheFirstIsNotCommitted_GivesTheFirstResult: the second of two same requests finds no rate, and waits all the same.
func TestCharge_WhenTheRateGoesWhileTheFirstIsNotCommitted_GivesTheFirstResult(t *testing.T) {
	t.Parallel()
	p := newPairs(t, 1)
	o := p.operation("charge by endpoint", p.users[0])
	tx, err := p.s[0].conn.Begin(context.Background())
	require.NoError(t, err)
	first := call(tx, 0, &o)
	p.exec("update credits.usage_rates set is_active = false")
	over, second := make(chan struct{}), answer{}
	go func() {
		defer close(over)
		second = call(p.s[1].conn, 0, &o)
	}()
	p.awaitWait(p.s[1].pid, over)
	require.NoError(t, tx.Commit(context.Background()))
	<-over
	require.NoError(t, second.err)
	require.Equal(t, first, second)
	p.requireNoViolations()
}

func newPairs(t *testing.T, accounts int) *pairs {
	c := newCrowd(t, 1, 1)
	c.users = nil
	p := &pairs{crowd: c, entries: map[string]map[string]int64{}}
	for n := range sessions {
		p.s = append(p.s, c.session(n))
		t.Cleanup(func() { _ = p.s[n].conn.Close(context.Background()) })
	}
	for i := range accounts + 1 {
		user := fmt.Sprintf("00000000-0000-4000-8000-0000000001%02x", i)
		c.users = append(c.users, user)
		p.send(operation{kind: "open_account", user: user, tier: "standard"})
		p.send(operation{kind: "grant", user: user, amount: ptr(int64(40)), key: ptr("opening")})
		p.entries[user] = map[string]int64{
			"charge": p.send(operation{kind: "charge", user: user, amount: ptr(int64(7)), key: ptr("c"), description: ptr("words")}),
			"hold":   p.send(operation{kind: "hold", user: user, amount: ptr(int64(10)), expiresIn: ptr(time.Hour), key: ptr("h")}),
			"submit": p.send(operation{kind: "submit", user: user, entryType: "deduction", amount: ptr(int64(15)), key: ptr("p")}),
		}
	}
	p.s[0].send(operation{kind: "allocate_chunk", limit: 100})
	for _, user := range c.users { // so that each has 30 to spend, not all of it twice
		p.send(operation{kind: "charge", user: user, amount: ptr(int64(93)), key: ptr("rest")})
	}
	return p
}

func (p *pairs) send(o operation) (id int64) {
	p.s[0].send(o)
	mine := p.attempts[0]
	_, _ = fmt.Sscan(mine[len(mine)-1].a.text, &id)
	return id
}

// operation is one of those that wait, on this user.
func (p *pairs) operation(name, user string) operation {
	p.opened++
	ids, other := p.entries[user], p.users[len(p.users)-1]
	o := operation{kind: name, user: user, amount: ptr(int64(20)), key: ptr(fmt.Sprintf("w%d", p.opened))}
	switch name {
	case "set_tier":
		o.tier = "premium"
	case "adjust":
		o.amount, o.description = ptr(int64(-20)), ptr("why")
	case "charge by endpoint":
		o.kind, o.amount, o.endpoint = "charge", nil, ptr("/v1/b")
	case "hold":
		o.expiresIn = ptr(time.Hour)
	case "capture", "release", "extend":
		o.hold, o.amount = ids["hold"], nil
		if name == "extend" {
			o.expiresIn = ptr(2 * time.Hour)
		}
	case "submit":
		o.entryType = "deduction"
	case "resolve", "revert":
		o.kind, o.transaction, o.commit = "resolve", ids["submit"], ptr(name == "resolve")
	case "refund", "redact":
		o.transaction, o.amount = ids["charge"], ptr(int64(5))
	case "transfer":
		o.to = other
	case "transfer to":
		o.kind, o.user, o.to, o.amount = "transfer", other, user, ptr(int64(1))
	case "charge_many":
		o.key = nil
		for n := range 3 {
			o.rows = append(o.rows, operation{kind: "charge", user: user, amount: ptr(int64(9)), key: ptr(fmt.Sprintf("w%d-%d", p.opened, n))})
		}
	case "same key", "other under the key":
		o.kind, o.key = "charge", ptr("same")
		if name != "same key" {
			o.amount = ptr(int64(2))
		}
	}
	return only(o)
}

func (p *pairs) race(before, behind operation) { p.raceAll(before, map[int]operation{0: behind}) }

// raceAll calls before in a transaction, then the others, waits until each waits or has answered, and commits.
func (p *pairs) raceAll(before operation, behind map[int]operation) {
	p.t.Helper()
	at := p.s[0].begin(before)
	tx, err := p.s[0].conn.Begin(context.Background())
	require.NoError(p.t, err)
	at.a = call(tx, p.s[0].number64(), &at.o)
	var all sync.WaitGroup
	n := 1
	for _, o := range behind {
		s, over := p.s[n], make(chan struct{})
		n++
		all.Go(func() {
			defer close(over)
			s.send(o)
		})
		p.awaitWait(s.pid, over)
	}
	require.NoError(p.t, tx.Commit(context.Background()), "%s: %s %v", &at.o, at.a.out, at.a.err)
	p.s[0].over(at)
	all.Wait()
}

func (p *pairs) awaitWait(pid uint32, over chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for waits := false; !waits; {
		select {
		case <-over:
			return
		default:
		}
		require.NoError(p.t, p.Pool.QueryRow(ctx, "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')", pid).Scan(&waits))
	}
}

// TestChunk_WhenAnAccountIsBusy_PassesItOverAndSaysSo: of six things that are due, two each of three users, the chunk is to look at four.
func TestChunk_WhenAnAccountIsBusy_PassesItOverAndSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.exec(`do $$ declare u uuid; n integer; begin
		for u in select ('00000000-0000-4000-8000-00000000000' || i)::uuid from generate_series(1, 3) as i loop
			perform credits.open_account(u), credits.grant(u, 100, 'g', 'words');
		end loop;
		for n in 1 .. 2 loop
			for u in select a.user_id from credits.accounts as a order by 1 loop
				perform credits.hold(u, 5, n * interval '1 minute', 'h' || n), credits.submit(u, 'addition', 7, 'p' || n);
			end loop;
		end loop;
	end $$`)
	w.advance(25 * time.Hour)
	tx, err := w.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "select credits.redact(id) from credits.transactions where user_id = '"+forged2+"' and seq = 1")
	require.NoError(t, err)
	for _, c := range []struct{ query, busy string }{
		{"select concat_ws(' ', todo, seen, busy, released, credits) from credits.cleanup_chunk(null, null, 4)", "6 4 1 3 15"},
		{"select concat_ws(' ', todo, seen, busy, committed, credits_added) from credits.resolve_chunk(null, null, 4)", "6 4 1 3 21"},
		{"select concat_ws(' ', todo, seen, busy, allocated, credits) from credits.allocate_chunk(null, null, 2)", "3 2 1 1 100"},
		{"select concat_ws(' ', todo, synced) from credits.sync_chunk(null, 20000)", "16 15"},
	} {
		var said string
		require.NoError(t, w.Pool.QueryRow(ctx, c.query).Scan(&said))
		require.Equal(t, c.busy, said, c.query)
	}
	require.NoError(t, tx.Commit(ctx))
	for query, expected := range map[string]string{
		"select concat_ws(' ', todo, seen, busy, released, credits) from credits.cleanup_chunk(null, null, 4)":        "3 3 0 3 15",
		"select concat_ws(' ', todo, seen, busy, committed, credits_added) from credits.resolve_chunk(null, null, 4)": "3 3 0 3 21",
		"select concat_ws(' ', todo, seen, busy, allocated, credits) from credits.allocate_chunk(null, null, 2)":      "3 2 0 1 100",
	} {
		var said string
		require.NoError(t, w.Pool.QueryRow(ctx, query).Scan(&said))
		require.Equal(t, expected, said, query)
	}
	w.requireNoViolations()
}
