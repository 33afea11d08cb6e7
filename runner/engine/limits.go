package engine

import (
	"context"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/limit"
)

// limitsEvery is how often the limits are read although nobody has said that they have changed.
const limitsEvery = time.Minute

// mostBack is how many claims are taken at once beyond those that the workers need, to be held back. Should all of them be allowed, they wait in
// the backlog, and what waits too long goes to other runners.
const mostBack = 1000

// limits are the rates of the runner's tasks, and the rules of their transactions. Only the control loop touches it, but for counted.
type limits struct {
	at    time.Time // to read them again
	tasks map[string]taskRates
	said  *bool // what was last recorded: that the runner has no Redis
	back  int   // how many of the last claims went back: so many more are asked for next time, since no worker is needed for them
}

// taskRates are those of one task: of all its jobs together, and of each limit key.
type taskRates struct{ task, key *rate }

// rate is a rule, and when it was set.
type rate struct {
	limit.Rule
	setAt time.Time
}

// declare tells the database, once a registration, what code says of the tasks.
func (c *control) declare(ctx context.Context) error {
	for _, name := range c.e.tasks {
		task, _ := c.e.opt.Registry.Lookup(name)
		if task.Declared == nil {
			continue
		}
		if err := jobs.DeclareTask(ctx, c.conn, name, task.Declared); err != nil {
			return err
		}
	}
	return nil
}

// readLimits reads what is kept of the runner's tasks, and says whether the runner has a Redis.
func (c *control) readLimits(ctx context.Context) error {
	if c.limits.said != nil && *c.limits.said == c.e.opt.Limiter.HasRedis() { // said: without; and it has come, or the other way round
		c.limits.at = time.Time{}
	}
	select {
	case <-c.e.signals.limits: // said before the jobs were that call just now: what they meet shall be the new ones
		c.limits.at = time.Time{}
	default:
	}
	if time.Now().Before(c.limits.at) {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	rules, runners, anyLocal, err := jobs.LimitRules(ctx, c.conn, c.runner)
	if err != nil {
		return err
	}
	counted, err := jobs.CountedTasks(ctx, c.conn, c.runner)
	if err != nil {
		return err
	}
	c.limits.at = time.Now().Add(limitsEvery)
	c.limits.tasks = nil
	for _, r := range rules {
		if c.limits.tasks == nil {
			c.limits.tasks = map[string]taskRates{}
		}
		rates, rule := c.limits.tasks[r.Task], &rate{limit.Rule{Task: r.Task, Rate: r.Rate, Period: r.Period, Burst: r.Burst}, r.SetAt}
		if r.PerKey {
			rates.key = rule
		} else {
			rates.task = rule
		}
		c.limits.tasks[r.Task] = rates
	}
	c.e.setCounted(counted)
	c.e.opt.Limiter.SetShare(runners, anyLocal)
	return c.sayLimits(ctx)
}

// setCounted names the tasks whose transactions count the rows that they change.
func (e *Engine) setCounted(names []string) {
	counted := make(map[string]bool, len(names))
	for _, name := range names {
		counted[name] = true
	}
	e.counted.Store(&counted)
}

func (e *Engine) counts(task string) bool {
	counted := e.counted.Load()
	return counted != nil && (*counted)[task]
}

// sayLimits records it while it matters to others: as long as the runner has rates to keep.
func (c *control) sayLimits(ctx context.Context) error {
	var say *bool
	if len(c.limits.tasks) > 0 {
		local := !c.e.opt.Limiter.HasRedis()
		say = &local
	}
	if said := c.limits.said; say == nil && said == nil || say != nil && said != nil && *say == *said {
		return nil
	}
	if err := jobs.SayLimits(ctx, c.conn, c.runner, say); err != nil {
		return err
	}
	c.limits.said = say
	return nil
}

// A reservation says which of a job's two rates it waits for: the one of its key comes first, and is not asked again.
const (
	waitsForKey  = "k:"
	waitsForTask = "t:"
)

// allowed are the claims that their rates allow now. The others go back until they do; no worker waits for them, and it is no attempt.
func (c *control) allowed(ctx context.Context, claims []jobs.Claim) []jobs.Claim {
	c.limits.back = 0
	if len(c.limits.tasks) == 0 {
		return claims
	}
	back := map[int64]jobs.HeldBack{}
	for _, prefix := range []string{waitsForKey, waitsForTask} {
		c.askLimiter(ctx, claims, prefix, back)
	}
	if len(back) == 0 {
		return claims
	}
	c.limits.back = min(len(back), mostBack)
	list, free := make([]jobs.HeldBack, 0, len(back)), make([]jobs.Claim, 0, len(claims)-len(back))
	for i := range claims {
		if b, late := back[claims[i].ID]; late {
			list = append(list, b)
		} else {
			free = append(free, claims[i])
		}
	}
	c.holdBack(ctx, list)
	return free
}

// askLimiter adds to back the claims that one of their rates does not allow yet.
func (c *control) askLimiter(ctx context.Context, claims []jobs.Claim, prefix string, back map[int64]jobs.HeldBack) {
	var requests []limit.Request
	var of []int
	var setAt []time.Time
	for i := range claims {
		claim := &claims[i]
		rates := c.limits.tasks[claim.Task]
		if _, late := back[claim.ID]; late {
			continue
		}
		waits, token := reservation(claim.Reservation)
		request := limit.Request{JobID: claim.ID}
		switch {
		case prefix == waitsForTask && rates.task != nil:
			request.Rule = rates.task.Rule
			setAt = append(setAt, rates.task.setAt)
		case prefix == waitsForKey && rates.key != nil && claim.LimitKey != "" && waits != waitsForTask:
			request.Rule, request.Key = rates.key.Rule, claim.LimitKey
			setAt = append(setAt, rates.key.setAt)
		default:
			continue
		}
		if waits == prefix {
			request.Reserved = token
		}
		requests, of = append(requests, request), append(of, i)
	}
	for n, d := range c.e.opt.Limiter.Decide(ctx, requests) {
		if claim := &claims[of[n]]; !d.OK {
			back[claim.ID] = jobs.HeldBack{Held: claim.Held, Delay: d.Wait, Reservation: prefix + d.Reserved, SetAt: setAt[n]}
		}
	}
}

func reservation(text string) (waits, token string) {
	if len(text) < len(waitsForKey) {
		return "", ""
	}
	return text[:len(waitsForKey)], text[len(waitsForKey):]
}

// holdBack: what cannot be given back so is found by reconcile, since the runner does not say that it holds it.
func (c *control) holdBack(ctx context.Context, back []jobs.HeldBack) {
	n, err := jobs.HoldBack(ctx, c.conn, c.runner, back)
	if err != nil {
		c.e.log.WithError(err).Warnf("could not hold back %d jobs until their limits allow them", len(back))
	}
	if err != nil || n < len(back) {
		c.claimFailed(err)
	}
	c.e.opt.Observer.HeldBack(n)
}
