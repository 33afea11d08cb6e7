package simulation

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// move is one step of a client, told so that it makes sense in whatever state it finds things: n picks, by its remainder, among what there is. Where there is
// nothing to pick it does nothing. So moves can be left out, and what is left is still a run.
type move struct {
	who  int
	kind string // "begin …" in a new transaction, "… lost": the answer never comes
	n    int
	s    string
}

func (m move) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d:%s %d %s", m.who, m.kind, m.n, m.s))
}

// allTasks are those that a runner of the simulator serves.
var allTasks = []string{"echo", "limited", "callback", "keyed"}

const (
	user  = "00000000-0000-4000-8000-000000000001"
	other = "00000000-0000-4000-8000-000000000002"
)

// kinds say what to send. An empty call is no step.
var kinds = map[string]func(w *world, c *client, m move) call{
	"claim": func(_ *world, c *client, m move) call {
		if c.runner == 0 {
			return call{}
		}
		return call{sql: fmt.Sprintf("select id, fence from pgtick.claim(%d, '{default}', '{%s}', %d)", c.runner, strings.Join(allTasks, ","), max(m.n, 1)), heard: c.claimed}
	},
	"finish": func(w *world, c *client, m move) call {
		if len(c.held) == 0 || c.runner == 0 {
			return call{}
		}
		h := c.held[m.n%len(c.held)]
		w.sent = append(w.sent, h)
		outcome, at, _ := strings.Cut(m.s, " ")
		sql := fmt.Sprintf("select job_id, accepted from pgtick.finish(%d, '{%d}', '{%d}', '{%s}'", c.runner, h.job, h.fence, outcome)
		if at != "" {
			sql += fmt.Sprintf(", p_retry_at => array[pgtick.now() + interval '%s']", at)
		}
		sql += ")"
		if strings.HasSuffix(m.kind, " lost") {
			c.unanswered, c.heldAgain = append(c.unanswered, sql), append(c.heldAgain, h)
			c.drop(h)
			return call{sql: sql}
		}
		return call{sql: sql, heard: func(a answer) { c.reported(h, a) }}
	},
	"again": func(_ *world, c *client, _ move) call {
		if len(c.unanswered) == 0 {
			return call{}
		}
		sql, h := c.unanswered[0], c.heldAgain[0]
		return call{sql: sql, heard: func(a answer) {
			if a.err == nil && len(a.rows) == 1 && a.rows[0][1] != "" {
				c.unanswered, c.heldAgain = c.unanswered[1:], c.heldAgain[1:]
			}
			c.reported(h, a)
		}}
	},
	"fit": func(w *world, c *client, m move) call {
		if len(c.held) == 0 {
			return call{}
		}
		h := c.held[m.n%len(c.held)]
		w.sent = append(w.sent, h)
		return call{sql: fmt.Sprintf("insert into sim.effects values (%d, %d); select pgtick.finish_in_transaction(%d, %d)", h.job, h.fence, h.job, h.fence), heard: func(answer) { c.drop(h) }}
	},
	"check": func(_ *world, c *client, m move) call {
		if len(c.held) == 0 {
			return call{}
		}
		h := c.held[m.n%len(c.held)]
		return call{sql: fmt.Sprintf("select pgtick.check_claim(%d, %d)", h.job, h.fence), heard: func(a answer) {
			if a.err == nil && c.conn.TxStatus() == 'T' {
				c.checked = append(c.checked, h)
			}
		}}
	},
	"heartbeat": func(_ *world, c *client, _ move) call {
		if c.runner == 0 {
			return call{}
		}
		jobs, fences := c.holding()
		return call{sql: fmt.Sprintf("select job_id, fence, reason from pgtick.heartbeat(%d, '{%s}', '{%s}')", c.runner, jobs, fences), heard: func(a answer) {
			for _, row := range a.rows {
				if row[2] == "fenced" {
					c.drop(claim{toInt(row[0]), toInt(row[1])})
				}
			}
		}}
	},
	"reconcile": func(_ *world, c *client, _ move) call {
		if c.runner == 0 {
			return call{}
		}
		jobs, fences := c.holding()
		return call{sql: fmt.Sprintf("select pgtick.reconcile(%d, '{%s}', '{%s}')", c.runner, jobs, fences)}
	},
	"leave": func(_ *world, c *client, _ move) call {
		if c.runner == 0 {
			return call{}
		}
		runner := c.runner
		return call{sql: fmt.Sprintf("select pgtick.leave(%d)", runner), heard: func(a answer) {
			if a.err == nil {
				c.memory = memory{told: c.told}
			}
		}}
	},
	"register": func(_ *world, c *client, _ move) call {
		if c.runner != 0 {
			return call{}
		}
		return call{sql: fmt.Sprintf("select pgtick.register('%s', '{default}', '{%s}')", c.name, strings.Join(allTasks, ",")), heard: func(a answer) {
			if a.err == nil {
				c.runner = toInt(a.rows[0][0])
			}
		}}
	},
	"rescue": func(_ *world, c *client, _ move) call { return call{sql: "select pgtick.rescue()", heard: c.rescued} },
	"sweep": func(_ *world, c *client, _ move) call {
		return call{sql: "delete from pgtick.upkeep where what = 'ties'; select pgtick.rescue()", heard: c.rescued}
	},
	"tick":   func(*world, *client, move) call { return call{sql: "select pgtick.tick()"} },
	"cancel": func(w *world, _ *client, m move) call { return w.ofJob("select pgtick.cancel(%d)", m.n) },
	"retry":  func(w *world, _ *client, m move) call { return w.ofJob("select pgtick.retry(%d)", m.n) },
	"enqueue": func(w *world, _ *client, m move) call {
		args, ok := w.fill(m)
		if !ok {
			return call{}
		}
		return call{sql: "select pgtick.enqueue(" + args + ")", heard: w.newJobs}
	},
	"tell": func(w *world, c *client, m move) call { // an enqueue that may find a job that waits already
		w.keys++
		number := int64(w.keys)
		return call{sql: fmt.Sprintf("with e as (select pgtick.enqueue(%s) as id) insert into sim.log (job, what, fence) select e.id, 'told', %d from e returning job", m.s, number), heard: func(a answer) {
			if a.err == nil && c.conn.TxStatus() == 'T' {
				c.telling = claim{toInt(a.rows[0][0]), number}
			}
			w.newJobs(a)
		}}
	},
	"batch": func(w *world, _ *client, m move) call {
		return call{sql: fmt.Sprintf("with b as materialized (select pgtick.create_batch('callback', p_outcome => '%s') as id) select pgtick.enqueue_many('echo', array_fill('{}'::jsonb, array[%d]), p_batch_id => b.id) from b", m.s, max(m.n, 1)), heard: w.newJobs}
	},
	"sql": func(_ *world, _ *client, m move) call { return call{sql: m.s} },
	"commit": func(_ *world, c *client, _ move) call {
		if c.conn.TxStatus() == 'I' {
			return call{}
		}
		sql := ""
		if c.conn.TxStatus() == 'T' { // what the client relies on at this moment
			for _, h := range c.checked {
				sql += fmt.Sprintf("insert into sim.log (job, what, fence) values (%d, 'checked', %d); ", h.job, h.fence)
			}
			if c.telling.job != 0 {
				sql += fmt.Sprintf("insert into sim.log (job, what, fence) values (%d, 'telling', %d); ", c.telling.job, c.telling.fence)
			}
		}
		c.checked, c.telling = nil, claim{}
		return call{sql: sql + "commit"}
	},
	"rollback": func(_ *world, c *client, _ move) call {
		if c.conn.TxStatus() == 'I' {
			return call{}
		}
		return call{sql: "rollback", heard: func(answer) { c.rolledBack() }}
	},
	"grant":  func(w *world, _ *client, m move) call { return w.ledger("grant('%s', %d, '%s')", user, m) },
	"charge": func(w *world, _ *client, m move) call { return w.ledger("charge('%s', %d, '%s')", user, m) },
	"cleanup": func(*world, *client, move) call {
		return call{sql: "select released from credits.cleanup_chunk(null, null, 100)"}
	},
	"allocate": func(*world, *client, move) call {
		return call{sql: "select allocated from credits.allocate_chunk(null, null, 100)"}
	},
	"transfer": func(w *world, _ *client, m move) call {
		w.keys++
		from, to := user, other
		if m.n%2 == 1 {
			from, to = other, user
		}
		return call{sql: fmt.Sprintf("select credits.transfer('%s', '%s', %d, 'move %d')", from, to, m.n/2+1, w.keys)}
	},
	"hold": func(w *world, _ *client, m move) call {
		w.keys++
		return call{sql: fmt.Sprintf("select credits.hold('%s', %d, '%s', 'hold %d')", user, max(m.n, 1), m.s, w.keys), heard: func(a answer) {
			if a.err == nil {
				w.holds = append(w.holds, toInt(a.rows[0][0]))
			}
		}}
	},
	"capture": func(w *world, _ *client, m move) call { return w.ofHold("capture(%d"+m.s+")", m.n) },
	"release": func(w *world, _ *client, m move) call { return w.ofHold("release(%d)", m.n) },
	"extend":  func(w *world, _ *client, m move) call { return w.ofHold("extend(%d, '"+m.s+"')", m.n) },
}

// step does one move, and returns when everybody is idle or waits. A client that waits for a lock makes no step.
func (w *world) step(m move) error {
	c := w.clients[m.who]
	w.stats.steps++
	switch m.kind {
	case "clock":
		w.trace = append(w.trace, line{who: "time", sql: "select sim.move('" + m.s + "')"})
		if _, err := w.control.Exec(context.Background(), "select sim.move($1::text::interval)", m.s); err != nil {
			return fmt.Errorf("move the clock: %w", err)
		}
		return nil
	case "cut", "crash":
		w.trace = append(w.trace, line{who: c.name, sql: "\\! the connection is closed" + map[bool]string{true: ", and the program is gone", false: ""}[m.kind == "crash"]})
		if err := c.cut(); err != nil {
			return err
		}
		if m.kind == "crash" {
			c.memory = memory{}
		}
		return w.settle()
	}
	if c.busy {
		return nil
	}
	kind, inTransaction := strings.CutPrefix(m.kind, "begin ")
	kind, lost := strings.CutSuffix(kind, " lost")
	call := kinds[kind](w, c, m)
	if call.sql == "" {
		return nil
	}
	call.lost = lost
	if inTransaction && c.conn.TxStatus() == 'I' {
		call.sql = "begin; " + call.sql
	}
	w.trace = append(w.trace, line{who: c.name, sql: call.sql + ";"})
	c.line = len(w.trace) - 1
	c.send(call)
	return w.settle()
}

func (c *client) claimed(a answer) {
	for _, row := range a.rows {
		c.held = append(c.held, claim{toInt(row[0]), toInt(row[1])})
	}
}

// reported: an answer of null means to ask again, so the claim is kept.
func (c *client) reported(h claim, a answer) {
	if a.err != nil || len(a.rows) != 1 || a.rows[0][1] == "" {
		return
	}
	c.told = append(c.told, report{c.runner, h.job, h.fence, a.rows[0][1] == "t"})
	c.drop(h)
}

// drop forgets a claim, also as one that was checked: its end may be in the same transaction.
func (c *client) drop(h claim) {
	is := func(x claim) bool { return x == h }
	c.held, c.checked = slices.DeleteFunc(slices.Clone(c.held), is), slices.DeleteFunc(slices.Clone(c.checked), is)
}

// rescued: what this transaction has checked keeps others from rescuing it, but not the transaction itself. A rescue that gave nothing back changes nothing.
func (c *client) rescued(a answer) {
	if a.err == nil && a.rows[0][0] != "0" {
		c.checked = nil
	}
}

// holding are all claims that the client knows of: those not yet reported, or without an answer.
func (c *client) holding() (jobs, fences string) {
	var j, f []string
	for _, h := range append(append([]claim{}, c.held...), c.heldAgain...) {
		j, f = append(j, strconv.FormatInt(h.job, 10)), append(f, strconv.FormatInt(h.fence, 10))
	}
	return strings.Join(j, ","), strings.Join(f, ",")
}

func (w *world) newJobs(a answer) {
	for _, row := range a.rows {
		if id := toInt(row[0]); id > 0 {
			w.jobs = append(w.jobs, id)
		}
	}
}

func (w *world) ofJob(sql string, n int) call {
	if len(w.jobs) == 0 {
		return call{}
	}
	return call{sql: fmt.Sprintf(sql, w.jobs[n%len(w.jobs)])}
}

func (w *world) ofHold(sql string, n int) call {
	if len(w.holds) == 0 {
		return call{}
	}
	return call{sql: "select credits." + fmt.Sprintf(sql, w.holds[n%len(w.holds)])}
}

// fill puts ids in the place of {job} and {job2}.
func (w *world) fill(m move) (string, bool) {
	if !strings.Contains(m.s, "{job") {
		return m.s, true
	}
	if len(w.jobs) == 0 {
		return "", false
	}
	pick := func(n int) string { return strconv.FormatInt(w.jobs[n%len(w.jobs)], 10) }
	return strings.NewReplacer("{job}", pick(m.n), "{job2}", pick(m.n/7)).Replace(m.s), true
}

// ledger is a call under a key: the one that is given, or a new one.
func (w *world) ledger(sql, user string, m move) call {
	key := m.s
	if key == "" {
		w.keys++
		key = fmt.Sprintf("request %d", w.keys)
	}
	return call{sql: "select credits." + fmt.Sprintf(sql, user, max(m.n, 1), key)}
}

func toInt(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}
