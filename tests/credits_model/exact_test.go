package credits_model_test

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

var oneByOne = []weighted{
	{"open_account", 2}, {"set_tier", 6}, {"grant", 12}, {"adjust", 6}, {"charge", 16}, {"hold", 14}, {"capture", 9}, {"release", 5}, {"extend", 6}, {"submit", 9},
	{"resolve", 7}, {"refund", 10}, {"transfer", 8}, {"redact", 3}, {"allocate", 4}, {"charge_many", 5}, {"cleanup_chunk", 4}, {"allocate_chunk", 4}, {"resolve_chunk", 4}, {"sync_chunk", 3},
}

// TestModel_WhenCallsComeOneByOne_PredictsEachAnswer: every result, every refusal with its numbers, every row, before the call is over.
func TestModel_WhenCallsComeOneByOne_PredictsEachAnswer(t *testing.T) {
	t.Parallel()
	n, how := seed(t), proofAmount()
	total := newTally()
	t.Cleanup(func() { t.Log(total) })
	for stream := range how.exact {
		t.Run(fmt.Sprint(stream), func(t *testing.T) {
			t.Parallel()
			x := newExact(t, n, uint64(stream))
			for range how.exactCalls {
				x.step()
			}
			require.NoError(t, x.end(x.Pool))
			x.requireNoViolations()
			total.add(x.tally)
		})
	}
}

type exact struct {
	*world
	*replayer
	g    *generator
	conn *pgx.Conn
	last *operation // a chunk that may be gone on from
}

func newExact(t *testing.T, n, stream uint64) *exact {
	w := newWorld(t)
	w.exec(`insert into credits.tiers values ('odd', 101), ('nothing', 0), ('huge', 4000000000000000001);
		insert into credits.usage_rates values ('/v1/a', 3, true), ('/v1/b', 12, true), ('/old', 5, false)`)
	x := &exact{world: w, replayer: newReplayer(w.rows, true)}
	x.tiers["odd"], x.tiers["nothing"], x.tiers["huge"] = 101, 0, 4000000000000000001
	x.rates["/v1/a"], x.rates["/v1/b"], x.rates["/old"] = rate{3, true}, rate{12, true}, rate{5, false}
	x.g = &generator{Rand: random(n, 1000+stream), shared: &shared{}, weights: oneByOne, model: x.replayer, now: w.now, rows: 12, settled: 7}
	var err error
	x.conn, err = pgx.ConnectConfig(context.Background(), w.Config(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = x.conn.Close(context.Background()) })
	x.query("select nextval('credits.transactions_id_seq')")
	for i := range 7 {
		x.g.users = append(x.g.users, fmt.Sprintf("00000000-0000-4000-8000-0000000000%02x", 16*(7-i)))
	}
	for _, user := range x.g.users[:4] {
		x.run(operation{kind: "open_account", user: user, tier: "standard"})
	}
	x.run(operation{kind: "open_account", user: x.g.users[4], tier: "huge"})
	x.run(operation{kind: "grant", user: x.g.users[0], amount: ptr(int64(math.MaxInt64 - 500)), key: ptr("rich")})
	return x
}

func (x *exact) query(query string, args ...any) {
	x.t.Helper()
	_, err := x.conn.Exec(context.Background(), query, args...)
	require.NoError(x.t, err)
}

func (x *exact) step() {
	switch {
	case x.g.chance(6):
		x.moveClock()
	case x.g.chance(60):
		x.changeSettings()
	case x.g.chance(15):
		x.requireBalances()
	case x.g.chance(12):
		x.rolledBack(x.g.next())
	}
	x.run(x.g.next())
}

// moveClock likes the very moments at which something expires or falls due, and those just before and after.
func (x *exact) moveClock() {
	var aims []time.Time
	for _, a := range x.accounts {
		for _, h := range a.open {
			aims = append(aims, h.expires)
		}
		for _, e := range a.byKey {
			if e.status == "PENDING" {
				aims = append(aims, e.created.Add(x.rules[e.kind].after))
			}
		}
	}
	for range 4 {
		if aim := pick(x.g, aims, x.now()).Add(time.Duration(x.g.IntN(3)-1) * time.Microsecond).Sub(x.now()); aim > 0 && aim < 40*24*time.Hour {
			x.advance(aim)
			return
		}
	}
	x.advance(x.g.moment())
}

func (g *generator) moment() time.Duration {
	switch n := g.IntN(20); {
	case n < 13:
		return time.Duration(1+g.IntN(900_000)) * time.Millisecond
	case n < 19:
		return time.Duration(1+g.IntN(5)) * time.Hour
	}
	return time.Duration(5+g.IntN(15)) * 24 * time.Hour
}

func (x *exact) changeSettings() {
	switch x.g.IntN(4) {
	case 0:
		x.forNew = pick(x.g, []string{"full", "pro_rata", "none"}, "")
		x.query("update credits.settings set value = $1", x.forNew)
	case 1:
		commit := x.g.chance(2)
		r := rule{time.Duration(1+x.g.IntN(30)) * time.Hour, commit}
		x.rules["deduction"] = r
		x.query("update credits.pending_rules set after = $1, action = $2 where type = 'deduction'", r.after, map[bool]string{true: "commit", false: "revert"}[commit])
	case 2:
		r := x.rates["/v1/a"]
		x.rates["/v1/a"] = rate{1 + x.g.Int64N(9), !r.active}
		x.query("update credits.usage_rates set credits_per_request = $1, is_active = $2 where endpoint = '/v1/a'", x.rates["/v1/a"].price, !r.active)
	case 3:
		if _, ok := x.rules["addition"]; ok {
			delete(x.rules, "addition")
			x.query("delete from credits.pending_rules where type = 'addition'")
		} else {
			x.rules["addition"] = rule{12 * time.Hour, true}
			x.query("insert into credits.pending_rules values ('addition', '12 hours', 'commit')")
		}
	}
}

func (x *exact) run(o operation) {
	x.t.Helper()
	x.goOn(&o)
	x.tally.called(&o)
	a := call(x.conn, 0, &o)
	require.NoError(x.t, a.err, o.String())
	require.NoError(x.t, x.world.rows.load(x.conn, changedBy(&o, a)))
	if a.out.code != "" {
		x.tally.refused(a.out.code)
		require.NoError(x.t, x.would(&o, a, []time.Time{x.now()}))
	} else {
		require.NoError(x.t, x.agrees(&o, a, math.MaxInt64, []time.Time{x.now()}))
	}
	require.Equal(x.t, len(x.entries), len(x.world.rows.byID), "entries after %s: %s", &o, a.text)
	x.g.shared.heard(&o, a)
	for _, e := range x.chainEnds() {
		x.g.shared.transactions = keep(x.g.shared.transactions, e)
	}
	x.remember(o, a)
}

// chainEnds are some ids that no answer has given.
func (x *exact) chainEnds() (ids []int64) {
	if x.g.chance(8) {
		ids = append(ids, x.world.rows.lastID)
	}
	return ids
}

// goOn lets a chunk begin where one before has ended.
func (x *exact) goOn(o *operation) {
	if x.last == nil || x.last.kind != o.kind || x.g.chance(3) {
		return
	}
	o.afterAt, o.afterID, o.afterUser = x.last.afterAt, x.last.afterID, x.last.afterUser
	x.last = nil
}

func (x *exact) remember(o operation, a answer) {
	fields := strings.Fields(a.text)
	if chunks[o.kind] == "" || len(fields) < 2 || fields[1] == "-1" || fields[1] == "-" {
		return
	}
	next := operation{kind: o.kind}
	id, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		next.afterUser = fields[1]
	} else {
		next.afterID = &id
		switch o.kind {
		case "cleanup_chunk":
			next.afterAt = ptr(x.holds[id].expires)
		case "resolve_chunk":
			next.afterAt = ptr(x.entries[id].created)
		}
	}
	x.last = &next
}

func changedBy(o *operation, a answer) []int64 {
	changed := []int64{o.transaction}
	_, list, _ := strings.Cut(a.text, "|")
	for _, field := range strings.Fields(list) {
		if id, err := strconv.ParseInt(field, 10, 64); err == nil && chunks[o.kind] != "" {
			changed = append(changed, id)
		}
	}
	return changed
}

// rolledBack calls, and takes it back: the answer is what it would be, and nothing stays.
func (x *exact) rolledBack(o operation) {
	if o.kind == "charge_many" || chunks[o.kind] != "" || o.kind == "resolve" {
		return
	}
	tx, err := x.conn.Begin(context.Background())
	require.NoError(x.t, err)
	a := call(tx, 0, &o)
	require.NoError(x.t, tx.Rollback(context.Background()))
	require.NoError(x.t, a.err)
	require.NoError(x.t, x.would(&o, a, []time.Time{x.now()}))
	x.tally.count(&x.tally.rolledBack, 1)
}

func (x *exact) requireBalances() {
	for user, a := range x.accounts {
		_, expired := a.expired(x.now())
		var got []int64
		require.NoError(x.t, x.conn.QueryRow(context.Background(), "select array[b.balance, b.held, b.available] from credits.balance($1) as b", user).Scan(&got))
		require.Equal(x.t, []int64{a.balance, a.held - expired, a.balance - a.held + expired}, got, "balance of %s", user)
		if x.g.chance(4) && len(a.chain) > 0 {
			x.requireStatement(user, a)
		}
	}
}

func (x *exact) requireStatement(user string, a *account) {
	from, to := pick(x.g, a.chain, nil).final, pick(x.g, a.chain, nil).final
	if !from.Before(to) {
		to = from.Add(time.Microsecond)
	}
	var expected []int64
	for _, e := range a.chain {
		if !e.final.Before(from) && e.final.Before(to) {
			expected = append(expected, e.id)
		}
	}
	got, err := collect[int64](x.conn, "select s.transaction_id from credits.statement($1, $2, $3) as s", user, from, to)
	require.NoError(x.t, err)
	require.Equal(x.t, len(expected), len(got))
	for i := range got {
		require.Equal(x.t, expected[i], got[i])
	}
}
