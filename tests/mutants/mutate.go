package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// mutant is one change to what the SQL says.
type mutant struct {
	Where, What string // what names it: it stays the same when the lines around it change
	Kind        string
	SQL         string   `json:"-"` // makes it, in a database that has everything else; empty where only migrate can
	Text        string   `json:"-"` // its file of sql/ as it would be; empty for what is in migrations/
	Calls       []string `json:"-"` // the functions that tests must call to notice it
	Table       string   `json:"-"` // or the table that they must write to
}

func (m mutant) name() string { return m.Where + ": " + m.What }

// file is what of sql/ it changes, or migrations.
func (m mutant) file() string {
	file, _, _ := strings.Cut(m.Where, " ")
	return file
}

// The kinds of mutants.
const (
	term       = "term"       // an operand of and is taken to hold, one of or not to; a condition without these is taken to hold, and not to
	inverse    = "inverse"    // such an operand is turned round
	bound      = "bound"      // a comparison is off by one
	column     = "column"     // rows are compared without one of their columns, a request's digest is taken without one of its fields
	refusal    = "refusal"    // a raise, or a call that raises, is left out
	lock       = "lock"       // a lock is not taken, or is waited for instead of passed over
	trigger    = "trigger"    // a trigger is dropped
	constraint = "constraint" // a constraint or a unique index is dropped, or one of a check's terms holds always
	policy     = "policy"     // a policy lets pass every row, row level security is not switched on, a revoke is left out
)

// function is a function or procedure of sql/, or a trigger.
type function struct {
	file, name  string
	start, end  int    // in the file
	begin, stop int    // of what is mutated, in the statement
	table       string // of a trigger
	params      string
	head, body  string
	isTrigger   bool
	isImmutable bool
}

var (
	definition   = regexp.MustCompile(`(?s)create or replace (?:function|procedure) ((?:pgtick|credits)\.\w+)\((.*?)\nas (\$\$.*?\$\$);`)
	triggerMade  = regexp.MustCompile(`(?s)create or replace trigger (\w+) .*? on (\S+).*?;\n`)
	triggerCalls = regexp.MustCompile(`execute function ((?:pgtick|credits)\.\w+)\(`)
	called       = regexp.MustCompile(`\b((?:pgtick|credits)\.\w+)\(`)
	changes      = regexp.MustCompile(`\b(insert into|update (pgtick|credits|analytics)\.|delete from|for (no key )?update|for (key )?share|nextval|raise exception|execute format)\b|advisory|pg_notify`)
	refuses      = regexp.MustCompile(`\braise exception\b|\b(pgtick|credits)\.(invalid|cron_error)\(`)
)

// functions finds those of one file.
func functions(file, text string) (all []function) {
	for _, at := range definition.FindAllStringSubmatchIndex(text, -1) {
		f := function{file: file, name: text[at[2]:at[3]], start: at[0], end: at[1], begin: at[6] - at[0] + len("$$"), params: text[at[4]:at[5]], body: text[at[6]:at[7]]}
		f.stop = f.end - f.start
		f.head = text[at[0]:at[6]]
		f.isImmutable = strings.Contains(f.head, " immutable ")
		all = append(all, f)
	}
	for _, at := range triggerMade.FindAllStringSubmatchIndex(text, -1) {
		statement := text[at[0]:at[1]]
		f := function{file: file, name: text[at[2]:at[3]], table: text[at[4]:at[5]], start: at[0], end: at[1], isTrigger: true, head: statement, body: statement}
		if when := strings.Index(statement, " when ("); when >= 0 {
			f.begin, f.stop = when, strings.Index(statement, " execute function ")
		}
		all = append(all, f)
	}
	return all
}

// sqlFile is a file of sql/, its name without the ending.
type sqlFile struct{ name, text string }

// mutate makes every mutant of the files, which are in the order in which migrate applies them.
func mutate(files []sqlFile) (all []mutant) {
	var found []function
	for _, f := range files {
		found = append(found, functions(f.name, f.text)...)
	}
	found = withoutOverridden(found)
	changing := thoseThatChange(found)
	seen := map[string]int{}
	for _, f := range files {
		all = append(all, ofPolicies(f)...)
		for _, fn := range found {
			if fn.file == f.name {
				all = append(all, ofFunction(fn, f.text, changing[fn.name], seen)...)
			}
		}
	}
	return slices.DeleteFunc(all, repeats())
}

// repeats says of each mutant whether one before it is the same.
func repeats() func(mutant) bool {
	had := map[string]bool{}
	return func(m mutant) bool {
		key := m.SQL + m.Text
		defer func() { had[key] = true }()
		return had[key]
	}
}

// withoutOverridden leaves out what a later file defines anew.
func withoutOverridden(found []function) []function {
	last := map[string]int{}
	key := func(f function) string {
		params, _, _ := strings.Cut(f.params, ")\n")
		return f.name + "(" + strings.Join(strings.Fields(params), " ")
	}
	for i, f := range found {
		last[key(f)] = i
	}
	var kept []function
	for i, f := range found {
		if f.isTrigger || last[key(f)] == i {
			kept = append(kept, f)
		}
	}
	return kept
}

// thoseThatChange are the functions that change, lock or refuse something, and those that they ask.
func thoseThatChange(found []function) map[string]bool {
	byName := map[string][]function{}
	for _, f := range found {
		byName[f.name] = append(byName[f.name], f)
	}
	changing := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if changing[name] || byName[name] == nil {
			return
		}
		changing[name] = true
		for _, f := range byName[name] {
			for _, c := range called.FindAllStringSubmatch(f.body, -1) {
				visit(c[1])
			}
		}
	}
	for _, f := range found {
		if f.isTrigger || strings.Contains(f.head, " volatile ") && changes.MatchString(f.body) {
			visit(f.name)
		}
	}
	return changing
}

// These files tell people something, and nothing is done by it.
var tells = regexp.MustCompile(`^(1[12]|39|8)`)

// ofFunction mutates all of what changes something. Of what only computes it takes the refusals, and the conditions under which they come: that the
// answers are right is for other tests than these.
func ofFunction(f function, text string, changing bool, seen map[string]int) []mutant {
	statement := text[f.start:f.end]
	s := newSource(f.file+" "+f.name, statement, f.begin, f.stop, seen)
	calls := []string{f.name}
	if f.isTrigger {
		calls = []string{triggerCalls.FindStringSubmatch(statement)[1]}
		s.mutants = append(s.mutants, mutant{Where: s.where, What: "drop the trigger", Kind: trigger, SQL: "drop trigger " + f.name + " on " + f.table})
	}
	switch {
	case changing && !f.isImmutable && !tells.MatchString(f.file):
		s.operands(anywhere)
		s.conditions("where", "on", "if", "elsif", "when", "while")
		s.comparisons()
		s.columns()
	case refuses.MatchString(f.body):
		s.operands(inIf)
		s.conditions("if", "elsif")
		s.comparisons()
	}
	s.refusals()
	s.locks()
	for i := range s.mutants {
		m := &s.mutants[i]
		m.Calls = calls
		if m.Kind == trigger {
			m.Text = text[:f.start] + text[f.end:]
		} else {
			m.Text = text[:f.start] + m.SQL + text[f.end:]
		}
		if strings.Contains(m.SQL, "credits.peek_account") {
			m.SQL, m.Text = peek+m.SQL, text[:f.start]+peek+m.SQL+text[f.end:]
		}
	}
	return s.mutants
}

func anywhere(*source, int) bool { return true }

// inIf says whether a token stands in the condition of an if, as deep as it may be.
func inIf(s *source, at int) bool {
	for i := at; i >= 0; i-- {
		switch s.tokens[i].text {
		case "if", "elsif":
			return true
		case ";", "then":
			return false
		}
	}
	return false
}

// operands of and are taken to be true, those of or false; and each is turned round.
func (s *source) operands(wanted func(*source, int) bool) {
	done := map[[2]int]bool{}
	for i, t := range s.tokens {
		if t.text != "and" && t.text != "or" || s.ofBetween(i) || s.ofHandler(i) || !wanted(s, i) {
			continue
		}
		also, neutral := []string{"or"}, "false"
		if t.text == "and" {
			also, neutral = []string{"and", "or"}, "true"
		}
		for _, span := range [][2]int{{s.edge(i, -1, also...), i - 1}, {i + 1, s.edge(i, 1, also...)}} {
			if done[span] || span[0] > span[1] {
				continue
			}
			done[span] = true
			s.add(term, span[0], span[1], neutral)
			s.add(inverse, span[0], span[1], "not ("+s.slice(span[0], span[1])+")")
		}
	}
}

// conditions without and or or are taken to be true, and false.
func (s *source) conditions(words ...string) {
	for i, t := range s.tokens {
		if !slices.Contains(words, t.text) || !s.asks(i) || i+1 == len(s.tokens) {
			continue
		}
		to := s.edge(i, 1)
		whole := true
		for j := i + 1; j <= to; j++ {
			if s.tokens[j].group == t.group && (s.tokens[j].text == "and" || s.tokens[j].text == "or") && !s.ofBetween(j) {
				whole = false
			}
		}
		if whole {
			s.add(term, i+1, to, "true")
			s.add(term, i+1, to, "false")
		}
	}
}

// asks says whether a condition follows this word here.
func (s *source) asks(at int) bool {
	before := s.word(at - 1)
	switch s.tokens[at].text {
	case "when":
		return slices.Contains([]string{"case", "row", "exit", "continue"}, before) || at == 0 || s.searched(at)
	case "on":
		return s.word(at+1) != "conflict" && before != "distinct"
	case "if":
		return before != "end" && !slices.Contains([]string{"table", "schema", "policy", "index", "role", "function", "trigger"}, before)
	}
	return true
}

func (s *source) comparisons() {
	other := map[string]string{"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
	for i, t := range s.tokens {
		if o := other[t.text]; o != "" {
			left, right := s.edge(i, -1, "and", "or"), s.edge(i, 1, "and", "or")
			s.replace(bound, t.start, t.end, fmt.Sprintf("%s: %s → %s", short(s.slice(left, right)), t.text, o), o)
		}
		if t.text == "between" {
			right := s.edge(i, 1, "or")
			s.replace(bound, s.tokens[i+1].start, s.tokens[i+1].start, fmt.Sprintf("%s: one less", short(s.slice(i-1, right))), "-1 + ")
			for j := i; j <= right; j++ {
				if s.tokens[j].group == t.group && s.tokens[j].text == "and" {
					s.replace(bound, s.tokens[j+1].start, s.tokens[j+1].start, fmt.Sprintf("%s: one more", short(s.slice(i-1, right))), "1 + ")
					break
				}
			}
		}
	}
}

// columns drops one column of both sides of a comparison of rows, and one field of what a request's digest is taken over.
func (s *source) columns() {
	for i, t := range s.tokens {
		if t.text != "(" || t.partner == 0 || s.word(i+1) == ")" {
			continue
		}
		parts := s.parts(i)
		if s.tokens[i+1].text[0] == '\'' && s.word(i-1) == "row" && s.word(i+2) == "::" {
			for _, p := range parts[1:] {
				s.replace(column, s.tokens[p[0]-1].start, s.tokens[p[1]].end, "request without "+short(s.slice(p[0], p[1])), "")
			}
			continue
		}
		j := t.partner + 1
		for slices.Contains([]string{"is", "not", "distinct", "from", "<>", "=", ">", "<", ">=", "<="}, s.word(j)) {
			j++
		}
		if len(parts) < 2 || j == t.partner+1 || s.word(j) != "(" {
			continue
		}
		other := s.parts(j)
		if len(other) != len(parts) {
			continue
		}
		for n := range parts {
			what := fmt.Sprintf("compared without %s", short(s.slice(parts[n][0], parts[n][1])))
			s.replace(column, t.start, s.tokens[s.tokens[j].partner].end, what,
				s.without(parts, n)+s.text[s.tokens[t.partner].end:s.tokens[j].start]+s.without(other, n))
		}
	}
}

func (s *source) without(parts [][2]int, n int) string {
	var kept []string
	for i, p := range parts {
		if i != n {
			kept = append(kept, s.slice(p[0], p[1]))
		}
	}
	return "row(" + strings.Join(kept, ", ") + ")"
}

func (s *source) parts(open int) (parts [][2]int) {
	start := open + 1
	for i := start; i <= s.tokens[open].partner; i++ {
		if i == s.tokens[open].partner || s.tokens[i].text == "," && s.tokens[i].group == s.tokens[open+1].group {
			parts = append(parts, [2]int{start, i - 1})
			start = i + 1
		}
	}
	return parts
}

var (
	refusing = regexp.MustCompile(`^(pgtick|credits)\.(invalid|insufficient|unknown_\w+|check_\w+|refuse_\w+|lock_account|cron_error)$`)
	telling  = []string{"notice", "warning", "log", "info", "debug"} // a raise that refuses nothing
)

func (s *source) refusals() {
	for i, t := range s.tokens {
		if t.text == "raise" && !slices.Contains(telling, s.word(i+1)) || t.text == "perform" && refusing.MatchString(s.word(i+1)) {
			end := i
			for s.tokens[end].text != ";" {
				end++
			}
			s.add(refusal, i, end, "null;")
		}
	}
}

// peek is lock_account without the lock.
const peek = `create or replace function credits.peek_account(p_user_id uuid) returns credits.accounts language plpgsql volatile set search_path = '' as $$
declare
  v_account credits.accounts;
begin
  select * into v_account from credits.accounts as a where a.user_id = p_user_id;
  if not found then
    perform credits.unknown_account(p_user_id);
  end if;
  return v_account;
end $$;
`

func (s *source) locks() {
	for i, t := range s.tokens {
		name := strings.TrimPrefix(t.text, "pg_catalog.")
		switch {
		case t.text == "credits.lock_account":
			s.replace(lock, t.start, t.end, short(s.slice(i, s.edge(i, 1)))+": without the lock", "credits.peek_account")
		case t.text == "skip" && s.word(i+1) == "locked":
			s.add(lock, i, i+1, "")
		case t.text == "for" && slices.Contains([]string{"update", "share", "key", "no"}, s.word(i+1)):
			s.add(lock, i, s.endOfLock(i), "")
		case name == "pg_advisory_xact_lock" && s.word(i-1) == "perform":
			s.add(lock, i-1, s.tokens[i+1].partner+1, "null;")
		case name == "pg_try_advisory_xact_lock":
			s.add(lock, i, s.tokens[i+1].partner, "true")
		}
	}
}

// endOfLock is the last token of for …, as far as it says what is locked, and how.
func (s *source) endOfLock(at int) int {
	for slices.Contains([]string{"update", "share", "key", "no", "of", "skip", "locked", "nowait"}, s.word(at+1)) {
		at++
		if s.tokens[at].text == "of" {
			at++
		}
	}
	return at
}

var (
	policyRows = regexp.MustCompile(`pgtick\.allow_rows\([^;]*?('(?:[^']|'')+')\)[^']*?;`)
	withCheck  = regexp.MustCompile(`with check \((.*)\);`)
	revoked    = regexp.MustCompile(`execute format\('(?:revoke|alter table %s enable row level security).*;`)
)

// ofPolicies mutates what a file of grants says outside of functions.
func ofPolicies(f sqlFile) (all []mutant) {
	if !strings.HasPrefix(f.name, "9") {
		return nil
	}
	seen := map[string]int{}
	for _, p := range []struct {
		what *regexp.Regexp
		by   string
	}{{policyRows, "'true'"}, {withCheck, "true"}, {revoked, "null;"}} {
		for _, at := range p.what.FindAllStringSubmatchIndex(f.text, -1) {
			from, to := at[len(at)-2], at[len(at)-1]
			if was := f.text[from:to]; was != p.by {
				s := &source{where: f.name, text: f.text, seen: seen}
				s.replace(policy, from, to, short(f.text[at[0]:at[1]])+" with "+p.by, p.by)
				m := s.mutants[0]
				m.Text, m.SQL = m.SQL, ""
				all = append(all, m)
			}
		}
	}
	return all
}
