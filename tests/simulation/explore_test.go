package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// run is what can be repeated: a beginning, and moves in an order.
type run struct {
	name    string
	setup   string // SQL; runners are registered first, in the order of their names
	clients []string
	jobs    []int64 // that the setup has made
	holds   []int64
	held    map[int]claim // that clients have from the setup
	allow   []string      // SQLSTATEs that are no finding here, besides pgtick's own refusals
	moves   []move
}

// finding is a run at whose end something was wrong.
type finding struct {
	run   run
	mode  mode
	wrong []string
	trace []line
}

func (f *finding) String() string {
	text := fmt.Sprintf("%s (%s)\n", f.run.name, f.mode)
	for i, wrong := range f.wrong {
		if i == 5 {
			text += fmt.Sprintf("  … and %d more\n", len(f.wrong)-i)
			break
		}
		text += "  wrong: " + wrong + "\n"
	}
	text += "after\n  " + strings.Join(strings.Split(strings.TrimSpace(f.run.setup), "\n"), "\n  ") + "\nthese statements, in this order:\n"
	for _, l := range f.trace {
		text += "  " + l.String() + "\n"
	}
	return text
}

// refusals are answers of pgtick that are right in some state of affairs. 25P02 comes after one of them in the same transaction; 55P03 is how
// reconcile and leave say "call again".
var refusals = []string{"", "25P02", "55P03", "TK001", "TK002", "TK003", "TK004", "TK005", "TK006", "TK008", "TK021", "TK101", "TK103", "TK104", "TK105"}

func (w *world) start(r *run) error {
	if err := w.reset(r.setup, r.clients); err != nil {
		return err
	}
	w.jobs, w.holds = slices.Clone(r.jobs), slices.Clone(r.holds)
	for i, h := range r.held {
		w.clients[i].held = []claim{h}
	}
	return nil
}

// end rolls back what is open, and lets the judge look.
func (w *world) end(r *run, done []move) (*finding, error) {
	var wrong []string
	for busy := true; busy; {
		busy = false
		moved := false
		for i, c := range w.clients[:len(r.clients)] {
			if c.conn == nil {
				continue
			}
			if c.busy {
				busy = true
			} else if c.conn.TxStatus() != 'I' {
				moved = true
				if err := w.step(move{who: i, kind: "rollback"}); err != nil {
					return nil, err
				}
			}
		}
		if busy && !moved {
			return nil, fmt.Errorf("%s: a client waits, and nobody holds anything", r.name)
		}
	}
	for _, l := range w.trace {
		if !slices.Contains(refusals, l.code) && !slices.Contains(r.allow, l.code) {
			wrong = append(wrong, fmt.Sprintf("%s was answered %s by %s", l.sql, l.code, l.said))
		}
	}
	found, err := w.judge(allTasks)
	if code := codeOf(err); code != "" && code != "lost" && !strings.HasPrefix(code, "42") { // pgtick raised it, when nobody else was about
		found, err = append(found, err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	if wrong = append(wrong, found...); len(wrong) == 0 {
		return nil, nil
	}
	f := &finding{run: *r, mode: w.mode, wrong: wrong, trace: slices.Clone(w.trace)}
	f.run.moves = slices.Clone(done)
	return f, nil
}

// replay does a run's moves in their order.
func (w *world) replay(r *run) (*finding, error) {
	if err := w.start(r); err != nil {
		return nil, err
	}
	for _, m := range r.moves {
		if err := w.step(m); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", r.name, m, err)
		}
	}
	return w.end(r, r.moves)
}

// shorten leaves out moves as long as something is still wrong: halves, quarters, …, single ones.
func (w *world) shorten(f *finding) (*finding, error) {
	for size := max(len(f.run.moves)/2, 1); ; size = max(size/2, 1) {
		shorter := false
		for at := 0; at < len(f.run.moves); {
			r := f.run
			r.moves = slices.Delete(slices.Clone(f.run.moves), at, min(at+size, len(f.run.moves)))
			less, err := w.replay(&r)
			if err != nil {
				return f, err
			}
			if less == nil {
				at += size
				continue
			}
			f, shorter = less, true
		}
		if size == 1 && !shorter {
			return f, nil
		}
	}
}

// scope is a set of small programs that are run in all orders.
type scope struct {
	run
	programs [][]move // of each client
}

// independent says that it makes no difference which of two moves next to each other comes first, while nobody waits for a lock: a commit does not look at the
// clock, and what two commits make visible nobody sees in between. Of such orders one is run: commits before a move of the clock, and in the order of the clients.
func independent(first, second move) bool {
	if second.kind != "commit" {
		return false
	}
	return first.kind == "clock" || first.kind == "commit" && second.who < first.who
}

// play does one order of the scope's moves; choose picks from the clients that can make a step. An order that another one stands for is given up.
func (w *world) play(s *scope, choose func(enabled []int) int) (f *finding, complete bool, err error) {
	if err := w.start(&s.run); err != nil {
		return nil, false, err
	}
	next := make([]int, len(s.programs))
	var done []move
	calm := false // nobody waited before the last move, nor after it
	for {
		var enabled []int
		left, busy := false, false
		for i, program := range s.programs {
			busy = busy || w.clients[i].busy
			if next[i] == len(program) || w.clients[i].busy {
				continue
			}
			left = true
			m := program[next[i]]
			m.who = i
			if calm && !busy && done[len(done)-1].who != i && independent(done[len(done)-1], m) {
				continue
			}
			enabled = append(enabled, i)
		}
		if !left {
			break
		}
		if len(enabled) == 0 {
			w.stats.pruned++
			return nil, false, w.abandon(&s.run)
		}
		who := choose(enabled)
		m := s.programs[who][next[who]]
		m.who = who
		next[who]++
		if err := w.step(m); err != nil {
			return nil, false, fmt.Errorf("%s: %s: %w", s.name, m, err)
		}
		done = append(done, m)
		calm = !busy && !slices.ContainsFunc(w.clients, func(c *client) bool { return c.busy })
	}
	f, err = w.end(&s.run, done)
	return f, true, err
}

// abandon ends a run without judging it.
func (w *world) abandon(r *run) error {
	for i, c := range w.clients[:len(r.clients)] {
		if c.conn != nil && !c.busy && c.conn.TxStatus() != 'I' {
			if err := w.step(move{who: i, kind: "rollback"}); err != nil {
				return err
			}
		}
	}
	return nil
}

// exhaust runs the scope's orders one after the other, up to most of them, until something is wrong. It returns how many there were.
func (w *world) exhaust(s *scope, most int) (orders int, f *finding, err error) {
	var path, widths []int
	for most <= 0 || orders < most {
		depth := 0
		found, complete, err := w.play(s, func(enabled []int) int {
			switch {
			case depth == len(path):
				path, widths = append(path, 0), append(widths, len(enabled))
			case widths[depth] != len(enabled): // the same steps, and another client waits than before
				w.stats.strayed++
				widths[depth] = len(enabled)
				path[depth] = min(path[depth], len(enabled)-1)
			}
			depth++
			return enabled[path[depth-1]]
		})
		if err != nil {
			return orders, nil, err
		}
		if complete {
			orders++
		}
		if found != nil {
			return orders, found, nil
		}
		path, widths = path[:depth], widths[:depth]
		for len(path) > 0 && path[len(path)-1]+1 >= widths[len(path)-1] {
			path, widths = path[:len(path)-1], widths[:len(path)-1]
		}
		if len(path) == 0 {
			break
		}
		path[len(path)-1]++
	}
	return orders, nil, nil
}

// sample runs so many random orders, each of which begins with these clients. In some the clients take turns often, in others hardly.
func (w *world) sample(s *scope, orders int, random *rand.Rand, begin ...int) (int, *finding, error) {
	for n := range orders {
		stay, before, step := []float64{0, 0.5, 0.8}[random.IntN(3)], -1, 0
		f, _, err := w.play(s, func(enabled []int) int {
			who := enabled[random.IntN(len(enabled))]
			if slices.Contains(enabled, before) && random.Float64() < stay {
				who = before
			}
			if step < len(begin) && slices.Contains(enabled, begin[step]) {
				who = begin[step]
			}
			before, step = who, step+1
			return who
		})
		if f != nil || err != nil {
			return n + 1, f, err
		}
	}
	return orders, nil, nil
}
