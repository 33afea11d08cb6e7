package credits_model_test

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

const sessions = 8

var atOnce = []weighted{
	{"open_account", 4}, {"set_tier", 16}, {"grant", 110}, {"adjust", 30}, {"charge", 200}, {"hold", 110}, {"capture", 70}, {"release", 40}, {"extend", 30},
	{"submit", 60}, {"resolve", 50}, {"refund", 60}, {"transfer", 60}, {"redact", 12}, {"allocate", 12}, {"charge_many", 55}, {"cleanup_chunk", 12}, {"allocate_chunk", 10},
	{"resolve_chunk", 12}, {"sync_chunk", 16},
}

// attempt is one sending of a call. start and end tell which were over before others began.
type attempt struct {
	o           operation
	start, end  int64
	from, until int // the clocks that it may have read
	a           answer
	lost        bool
	discarded   bool // rolled back by the client
}

// TestModel_WhenEightSessionsAreAtIt_AgreesWithEveryAnswerAndRow: each call is a transaction of its own, over few accounts with little in
// them; the tasks are among them, several copies at once; the clock moves, clients roll back, and connections are killed. Afterwards
// the model goes through the same calls in the order of their turns, and must come to the same answers and rows. Nothing deadlocks.
func TestModel_WhenEightSessionsAreAtIt_AgreesWithEveryAnswerAndRow(t *testing.T) {
	t.Parallel()
	n, how, total := seed(t), proofAmount(), newTally()
	for round := range how.rounds {
		if !t.Run(fmt.Sprint(round), func(t *testing.T) {
			c := newCrowd(t, n, uint64(round))
			c.run(how.perRound)
			c.replay()
			c.requireNoViolations()
			total.add(c.tally)
		}) {
			break
		}
	}
	t.Log(total)
}

// crowd is a world with eight sessions in it.
type crowd struct {
	*world
	n, round uint64
	shared   *shared
	users    []string
	tick     atomic.Int64
	done     atomic.Int64
	kill     chan *pgx.Conn
	attempts [][]*attempt // of each session; the number of an attempt is session + sessions × place
}

func newCrowd(t *testing.T, n, round uint64) *crowd {
	t.Helper()
	c := &crowd{world: newWorld(t), n: n, round: round, shared: &shared{}, kill: make(chan *pgx.Conn), attempts: make([][]*attempt, sessions)}
	c.exec(`insert into credits.tiers values ('odd', 101), ('nothing', 0); alter sequence model.clock cache 1;
		insert into credits.usage_rates values ('/v1/a', 3, true), ('/v1/b', 12, true), ('/old', 5, false)`)
	for i := range 12 {
		c.users = append(c.users, fmt.Sprintf("00000000-0000-4000-8000-0000000000%02x", 16*(12-i)))
	}
	return c
}

func (c *crowd) run(operations int) {
	c.t.Helper()
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for conn := range c.kill {
			c.cut(conn)
		}
	}()
	for _, user := range c.users[:9] {
		s := c.session(0)
		s.send(operation{kind: "open_account", user: user, tier: "standard"})
		_ = s.conn.Close(context.Background())
	}
	var all sync.WaitGroup
	for number := range sessions {
		all.Go(func() {
			s := c.session(number)
			defer func() { _ = s.conn.Close(context.Background()) }()
			for c.done.Load() < int64(operations) && !c.t.Failed() {
				s.step()
			}
		})
	}
	all.Wait()
	close(c.kill)
	<-killed
}

// cut ends a session from the server's side, or hangs up on it, which the server notices when all is done and committed.
func (c *crowd) cut(conn *pgx.Conn) {
	c.tally.count(&c.tally.kills, 1)
	if c.tally.kills%2 == 0 {
		_ = conn.PgConn().Conn().Close()
		return
	}
	if _, err := c.Pool.Exec(context.Background(), "select pg_terminate_backend($1)", conn.PgConn().PID()); err != nil {
		c.t.Errorf("kill a session: %v", err)
	}
}

func (c *crowd) latest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

type session struct {
	*crowd
	number int
	g      *generator
	conn   *pgx.Conn
	pid    uint32
}

func (c *crowd) session(number int) *session {
	s := &session{crowd: c, number: number}
	s.g = &generator{Rand: random(c.n, c.round*sessions+uint64(number)), shared: c.shared, users: c.users, weights: atOnce, rows: 120, settled: 9, now: c.latest}
	s.connect()
	return s
}

// connect replaces a connection that was lost, once the server has nothing more to do for it.
func (s *session) connect() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	old := s.pid
	for {
		conn, err := pgx.ConnectConfig(ctx, s.Config(s.t))
		if err == nil {
			s.conn, s.pid = conn, conn.PgConn().PID()
			_, err = conn.Exec(ctx, "select nextval('credits.transactions_id_seq')")
		}
		for gone := false; err == nil && !gone && old != 0; {
			err = conn.QueryRow(ctx, "select not exists (select from pg_stat_activity where pid = $1)", old).Scan(&gone)
		}
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			s.t.Errorf("connect: %v", err)
			return
		}
	}
}

func (s *session) step() {
	if s.g.chance(150) {
		s.advance(s.g.moment())
	}
	o := s.g.next()
	if s.g.chance(20) {
		s.rollBack(o)
		return
	}
	for again := true; again; {
		if s.g.chance(300) {
			s.kill <- s.conn
		}
		again = s.send(o)
	}
}

func (s *session) begin(o operation) *attempt {
	at := &attempt{o: o, start: s.tick.Add(1)}
	at.from, _ = s.clockRead()
	s.attempts[s.number] = append(s.attempts[s.number], at)
	s.tally.called(&o)
	s.done.Add(int64(max(1, len(o.rows))))
	return at
}

func (s *session) number64() int64 { return int64(s.number + sessions*(len(s.attempts[s.number])-1)) }

// send says whether the answer was lost, so that the same must be sent again.
func (s *session) send(o operation) bool {
	at := s.begin(o)
	at.a = call(s.conn, s.number64(), &at.o)
	return s.over(at)
}

func (s *session) over(at *attempt) bool {
	at.lost = lostAnswer(at.a.err)
	if at.lost {
		s.tally.count(&s.tally.lost, 1)
		s.connect()
	}
	_, at.until = s.clockRead()
	at.end = s.tick.Add(1)
	switch {
	case at.lost:
		return !s.t.Failed()
	case at.a.err != nil:
		s.tally.refused(sqlState(at.a.err))
		s.t.Errorf("%s: %v", &at.o, at.a.err)
	case at.a.out.code != "":
		s.tally.refused(at.a.out.code)
	}
	if !at.discarded {
		s.shared.heard(&at.o, at.a)
	}
	return false
}

func (s *session) rollBack(o operation) {
	at := s.begin(o)
	at.discarded = true
	tx, err := s.conn.Begin(context.Background())
	if err == nil {
		at.a = call(tx, s.number64(), &at.o)
		err = tx.Rollback(context.Background())
	}
	if at.a.err == nil && lostAnswer(err) {
		at.a.err = err
	}
	s.tally.count(&s.tally.rolledBack, 1)
	s.over(at)
}

// turn is a call that was committed.
type turn struct {
	Turn, Attempt int64
	Answer        string
	LastID        int64
}

func (c *crowd) replay() {
	c.t.Helper()
	require.False(c.t, c.t.Failed())
	require.NoError(c.t, c.rows.load(c.Pool, nil))
	found, err := c.Pool.Query(context.Background(), "select c.turn, c.attempt, c.answer, c.last_id from model.calls as c order by c.turn")
	require.NoError(c.t, err)
	turns, err := pgx.CollectRows(found, pgx.RowToStructByPos[turn])
	require.NoError(c.t, err)
	p := newReplayer(c.rows, false)
	p.rows.opened = c.opened()
	p.tiers["odd"], p.tiers["nothing"] = 101, 0
	p.rates["/v1/a"], p.rates["/v1/b"], p.rates["/old"] = rate{3, true}, rate{12, true}, rate{5, false}
	open := c.refusals(turns)
	for at := range len(turns) + 1 {
		open.check(c, p, at)
		if at == len(turns) {
			break
		}
		made := c.attempt(turns[at].Attempt)
		require.False(c.t, made.discarded, "what was rolled back is there")
		if made.lost {
			c.tally.keptLost++
		} else {
			require.Equal(c.t, turns[at].Answer, made.a.text)
		}
		require.NoError(c.t, p.agrees(&made.o, answer{text: turns[at].Answer}, turns[at].LastID, c.clock[made.from:made.until+1]), "turn %d", turns[at].Turn)
	}
	require.Empty(c.t, open.waiting)
	require.NoError(c.t, p.end(c.Pool))
	c.requireEachAnswer(turns)
	var deadlocks int64
	require.NoError(c.t, c.Pool.QueryRow(context.Background(), "select deadlocks from pg_stat_database where datname = current_database()").Scan(&deadlocks))
	require.Zero(c.t, deadlocks)
}

func (c *crowd) opened() map[string]*time.Time {
	type account struct {
		User string
		At   time.Time
	}
	found, err := c.Pool.Query(context.Background(), "select a.user_id::text, a.created_at from credits.accounts as a")
	require.NoError(c.t, err)
	accounts, err := pgx.CollectRows(found, pgx.RowToStructByPos[account])
	require.NoError(c.t, err)
	opened := map[string]*time.Time{}
	for _, a := range accounts {
		opened[a.User] = &a.At
	}
	return opened
}

func (c *crowd) attempt(number int64) *attempt { return c.attempts[number%sessions][number/sessions] }

// requireEachAnswer: what was answered, and neither refused nor rolled back, is there.
func (c *crowd) requireEachAnswer(turns []turn) {
	there := map[*attempt]bool{}
	for _, x := range turns {
		there[c.attempt(x.Attempt)] = true
	}
	for _, each := range c.attempts {
		for _, at := range each {
			require.True(c.t, at.lost || at.discarded || at.a.out.code != "" || there[at], "%s was answered, and is not there", &at.o)
		}
	}
}

// refusals have no turns: each must be right at some point between the last call that was over before it and the first that came after.
type refusals struct {
	byTurn  [][]*refused
	waiting []*refused
}

type refused struct {
	*attempt
	last int // turn
	err  error
}

func (c *crowd) refusals(turns []turn) *refusals {
	n := len(turns)
	ended, began := make([]int64, n), make([]int64, n)
	for i, x := range turns {
		ended[i], began[i] = c.attempt(x.Attempt).end, c.attempt(x.Attempt).start
		if i > 0 {
			ended[i] = max(ended[i], ended[i-1])
		}
	}
	for i := n - 2; i >= 0; i-- {
		began[i] = min(began[i], began[i+1])
	}
	r := &refusals{byTurn: make([][]*refused, n+1)}
	for _, each := range c.attempts {
		for _, at := range each {
			if at.a.out.code == "" || at.lost {
				continue
			}
			first := sort.Search(n, func(i int) bool { return ended[i] >= at.start })
			last := sort.Search(n, func(i int) bool { return began[i] >= at.end })
			r.byTurn[first] = append(r.byTurn[first], &refused{attempt: at, last: max(first, last)})
		}
	}
	return r
}

func (r *refusals) check(c *crowd, p *replayer, at int) {
	r.waiting = append(r.waiting, r.byTurn[at]...)
	r.waiting = slices.DeleteFunc(r.waiting, func(x *refused) bool {
		moments := c.clock[x.from : x.until+1]
		x.err = p.would(&x.o, x.a, moments)
		if x.err != nil && at == x.last {
			require.NoError(c.t, x.err, "refused before turn %d at the latest", at)
		}
		return x.err == nil
	})
}
