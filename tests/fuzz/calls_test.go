package fuzz

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// isPublic: its arguments come from people and programs outside, who read of it in the docs, so that each refusal is to be in our words. Of the others
// some may be called by everybody too, but only because those that call them work with the caller's rights; they take what their callers have checked.
func (f *function) isPublic() bool { return (len(f.Callers) > 0 || f.ByOwner) && f.Told }

// judge says what is wrong with the answer to a call.
func (f *function) judge(c circumstances, refusal *pgconn.PgError) string {
	mayCall := c.role == owner || slices.Contains(f.Callers, c.role)
	if refusal == nil {
		if !mayCall && !f.Strict { // with a null for it, a strict one is not called at all
			return "a role without the right may call it"
		}
		return ""
	}
	if wrong := always(refusal); wrong != "" && (f.isPublic() || wrong != noHint && !strings.HasPrefix(wrong, "a message of")) { // inner ones say what they are told to
		return wrong
	}
	switch {
	case !mayCall:
		if refusal.Code != "42501" {
			return "refused, but not for the missing right"
		}
	case f.Trigger && refusal.Code == "0A000", f.Kind == "p" && refusal.Code == "2D000": // only triggers call it; it commits, and a transaction is open
	case strings.HasPrefix(refusal.Code, "TK") || fine[refusal.Code] != "":
	case f.isPublic():
		return "not in our words"
	}
	return ""
}

// call writes one, with values that are likely but for some.
func (s *session) call(f *function) *statement {
	call := &statement{}
	odd := map[int]bool{}
	if len(f.Params) > 0 && s.m.chance(90) {
		for range 1 + s.m.IntN(3) {
			odd[s.m.IntN(len(f.Params))] = true
		}
	}
	all := s.m.chance(10)
	var given []string
	for i, p := range f.Params {
		if p.Optional && !odd[i] && !all && s.m.chance(70) {
			continue
		}
		place := call.add(s.m.value(p.Name, p.Type, -1, !odd[i] && !all), s.m.types[p.Type].Name)
		if p.Name == "" {
			given = append(given, place)
		} else {
			given = append(given, fmt.Sprintf("%q => %s", p.Name, place))
		}
	}
	verb := "select * from "
	switch {
	case f.Kind == "p":
		verb = "call "
	case f.Trigger:
		verb = "select "
	}
	call.sql = verb + f.Name + "(" + strings.Join(given, ", ") + ")"
	return call
}

// findings are the faults of a run, each once.
type findings struct {
	mu    sync.Mutex
	found map[string]string
	codes map[string]int
}

var digits = regexp.MustCompile(`"[^"]*"|[0-9]+`)

func (f *findings) note(of, what, where string, refusal *pgconn.PgError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	code := "none"
	if refusal != nil {
		code = refusal.Code
	}
	f.codes[code]++
	if what == "" {
		return
	}
	key, told := of+": "+what, where
	if refusal != nil {
		key += ": " + refusal.Code + " " + digits.ReplaceAllString(strings.ToValidUTF8(refusal.Message[:min(len(refusal.Message), 120)], ""), "…")
		told = fmt.Sprintf("%s %s\n  detail: %.300s\n  hint: %.200s\n  where: %.600s\n  %s", refusal.Code, refusal.Message[:min(len(refusal.Message), 500)], refusal.Detail, refusal.Hint, refusal.Where, where)
	}
	if _, there := f.found[key]; !there {
		f.found[key] = told
	}
}

// require that there are none.
func (f *findings) require(t *testing.T, calls int) {
	t.Helper()
	t.Logf("%d calls: %v", calls, f.codes)
	for _, key := range slices.Sorted(maps.Keys(f.found)) {
		t.Errorf("%s\n  %s", key, f.found[key])
	}
}

func newFindings() *findings { return &findings{found: map[string]string{}, codes: map[string]int{}} }

// prepare reads what there is to call, and what a call may name.
func prepare(t *testing.T) (types, map[string][]string) {
	t.Helper()
	conn := connect(t)
	known := map[string][]string{}
	for name, query := range names {
		known[name] = all[string](t, conn, query)
		require.NotEmpty(t, known[name], name)
	}
	maps.Copy(known, usual)
	text, err := os.ReadFile("../../docs/errors.md")
	require.NoError(t, err)
	for _, found := range regexp.MustCompile(`(?m)^\| (TK\d{3}) \|`).FindAllStringSubmatch(string(text), -1) {
		knownCodes[found[1]] = true
	}
	return readTypes(t, conn), known
}

// pages are those of docs/ but for the list of all rights, in which every function stands.
func pages(t *testing.T) (text string) {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, file := range append(files, "../../README.md") {
		if filepath.Base(file) != "rights.md" {
			page, err := os.ReadFile(file)
			require.NoError(t, err)
			text += string(page)
		}
	}
	return text
}

// names are what there is, by parameter.
var names = map[string]string{
	"name":           "select s.name from pgtick.schedule_defs as s order by 1",
	"job_id":         "select i.id::text from (select j.id from pgtick.live_jobs as j union select h.id from pgtick.history as h) as i order by i.id",
	"fence":          "select distinct j.fence::text from pgtick.live_jobs as j where j.fence is not null order by 1",
	"runner_id":      "select r.id::text from pgtick.runner_leases as r order by 1",
	"batch_id":       "select b.id::text from pgtick.batch_defs as b order by 1",
	"hold_id":        "select h.id::text from credits.holds as h order by 1",
	"transaction_id": "select t.id::text from credits.transactions as t order by t.id",
	"schedule_id":    "select s.id::text from pgtick.schedule_defs as s order by s.id",
}

// usual are values by parameter that lead further.
var usual = map[string][]string{
	"cron": {"*/15 * * * *", "0 9 * * MON-FRI", "@hourly", "@every 90s", "0 0 1,L * *", "30 2 29 2 *"}, "time_zone": {"UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"},
	"task": {"fuzz.run", "fuzz.report", "fuzz.gated", "fuzz.limited", "fuzz.seq", "fuzz.wish", "http", "sql"}, "queue": {"default", "mail", "paused"},
	"state": {"done", "failed", "cancelled", "ready", "running"}, "outcome": {"done", "failed", "error", "snoozed", "released", "cancelled", "any"}, "after_outcome": {"done", "any"},
	"on_missed": {"skip", "once", "all"}, "on_overlap": {"skip", "allow", "cancel", "wait"}, "on_gap": {"run", "skip"}, "on_fold": {"first", "last", "both"}, "on_conflict": {"ignore", "replace_args", "move_run_at"},
	"sequence_failure": {"stop", "skip"}, "sequence_key": {"s1", "s2"}, "key": {"s1", "k1", "key"}, "limit_key": {"k1", "k2"}, "unique_key": {"key", "other"}, "unique_state": {"ready", "running", "done", "failed"},
	"tier": {"standard", "premium"}, "endpoint": {"/fuzz", "/fuzz/off"}, "idempotency_key": {"g1", "h1", "c1", "new"}, "type": {"addition", "deduction", "refund"}, "operation": {"charge", "hold", "capture", "release"}, "gate": {"no_notes"},
	"address": {"here/project", "there/project"}, "as_role": {"service_role", "pgtick_runner", "anon"}, "function": {"public.twice", "public.write_note"}, "policy": {`{"kind": "linear", "step": "30 seconds"}`, `{"kind": "list", "delays": ["1 s"]}`},
	"retry_policy": {`{"kind": "exponential", "first": "1 s", "factor": 3}`}, "filter": {`{"task": "fuzz.run"}`, `{"state": "failed"}`, `{"queue": "default", "created_after": "2020-01-01"}`, `{"schedule": "nightly"}`},
	"defaults": {`{"rate": 5, "period_seconds": 60}`, `{"max_running": 3, "per_key": {"max_running": 1}}`, `{"gates": ["no_notes"], "most_rows": 5}`}, "trace_context": {`{"traceparent": "00-0-0-01"}`}, "code": {"TK000", "TK011"},
	"lease": {"30 seconds", "1 hour"}, "poll": {"5 seconds"}, "n": {"1", "5", "100"}, "query": {"select * from public.notes", "select 1 where false"}, "purpose": {"charge"},
	"privilege": {"select"}, "object": {"pgtick.jobs"}, "table": {"pgtick.settings"}, "role": {"anon", "service_role"}, "what": {"maintain", "rescue"}, "kind": {"batch", "sequence"},
}

// TestFunctions_RefuseInOurWords: in make test some calls of each function, in a full run as many as there is time for.
func TestFunctions_RefuseInOurWords_AndNeverBreak(t *testing.T) {
	seed := chosenSeed(t)
	types, known := prepare(t)
	conn := connect(t)
	functions := readFunctions(t, conn)
	told := pages(t)
	for i := range functions {
		functions[i].Told = strings.Contains(told, functions[i].Name+"(") || strings.Contains(told, functions[i].Name+"`")
	}
	found, sessions, until := newFindings(), 1, time.Time{}
	if isFull() {
		sessions, until = 2, time.Now().Add(howLong(t)*4/5)
	}
	var together sync.WaitGroup
	made := make([]int, sessions)
	for i := range sessions {
		one := &session{t: t, m: newMaker(seed, uint64(i), types, known), conn: connect(t), seed: seed}
		together.Go(func() { one.round(functions, found, until); made[i] = one.calls })
	}
	together.Wait()
	found.require(t, slices.Max(made))
	unharmed(t)
}

// round calls every function: public ones as each role that may, and all now and then as a role that may not.
func (s *session) round(functions []function, found *findings, until time.Time) {
	for first := true; first || time.Now().Before(until); first = false {
		for i := range functions {
			f := &functions[i]
			for _, role := range s.callers(f) {
				c, call := s.circumstances(role), s.call(f)
				refusal := s.run(c, call)
				found.note(f.Name, f.judge(c, refusal), s.again()+"\n  "+c.String()+call.String(), refusal)
			}
		}
	}
}

func (s *session) callers(f *function) (callers []string) {
	if f.isPublic() {
		for range 4 {
			callers = append(callers, owner)
		}
		for _, role := range f.Callers {
			callers = append(callers, role, role)
		}
	} else {
		callers = append(callers, owner)
	}
	return append(callers, pick(s.m, roles))
}
