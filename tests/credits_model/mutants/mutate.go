package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// mutant is one change to what the ledger's SQL says.
type mutant struct {
	Where, What string // what names it: it stays the same when the lines around it change
	SQL         string `json:"-"`
}

var statements = regexp.MustCompile(`(?s)create or replace function (credits\.\w+)\(.*?\n\$\$;|create or replace trigger (\w+) .*?;\n`)

// mutate makes every mutant of one file.
func mutate(file, text string) (all []mutant) {
	for _, at := range statements.FindAllStringSubmatchIndex(text, -1) {
		statement := text[at[0]:at[1]]
		if at[4] >= 0 { // a trigger
			name := text[at[4]:at[5]]
			table := regexp.MustCompile(` on (\S+)`).FindStringSubmatch(statement)[1]
			all = append(all, mutant{file + " " + name, "drop the trigger", "drop trigger " + name + " on " + table})
			all = append(all, body(file+" "+name, statement, 0)...)
			continue
		}
		begin := strings.Index(statement, "as $$") + len("as $$")
		all = append(all, body(file+" "+text[at[2]:at[3]], statement, begin)...)
	}
	return all
}

// body changes one thing at a time behind begin.
func body(where, statement string, begin int) []mutant {
	b := &source{where: where, text: statement, tokens: scan(statement, begin), seen: map[string]int{}}
	b.group()
	b.operands()
	b.conditions()
	b.comparisons()
	b.columns()
	b.raises()
	b.locks()
	return b.mutants
}

type token struct {
	text       string
	start, end int
	group      int // the parenthesis or case that it stands in
	partner    int // of an opening one: where it ends
}

type source struct {
	where, text string
	tokens      []token
	mutants     []mutant
	seen        map[string]int
}

var lexeme = regexp.MustCompile(`^(?:--[^\n]*|'(?:[^']|'')*'|[A-Za-z_][A-Za-z_0-9.]*|[0-9]+|:=|=>|<=|>=|<>|!~|::|\|\||.)`)

func scan(text string, begin int) (tokens []token) {
	for at := begin; at < len(text); {
		if strings.ContainsRune(" \t\n", rune(text[at])) {
			at++
			continue
		}
		found := lexeme.FindString(text[at:])
		if !strings.HasPrefix(found, "--") {
			tokens = append(tokens, token{text: found, start: at, end: at + len(found)})
		}
		at += len(found)
	}
	return tokens
}

func (s *source) group() {
	type open struct {
		at, group int
		word      string
	}
	var stack []open
	current, next := 0, 1
	for i := range s.tokens {
		t := &s.tokens[i]
		top := func(word string) bool { return len(stack) > 0 && stack[len(stack)-1].word == word }
		switch {
		case t.text == "(" || t.text == "[" || t.text == "case":
			t.group = current
			stack = append(stack, open{i, current, t.text})
			current = next
			next++
		case t.text == ")" && top("(") || t.text == "]" && top("[") || t.text == "end" && top("case"):
			last := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			current = last.group
			t.group = current
			s.tokens[last.at].partner = i
		default:
			t.group = current
		}
	}
}

var boundaries = strings.Fields(`where on if elsif when then else , ; := return group order limit returning for union left join cross window as begin loop having
	from set select using with values do in_ => into`)

// edge finds where an operand ends, from a token in one direction.
func (s *source) edge(at, step int, also ...string) int {
	group := s.tokens[at].group
	for i := at + step; ; i += step {
		if i < 0 || i >= len(s.tokens) {
			return i - step
		}
		t := s.tokens[i]
		if t.group < group && !s.within(group, i) || t.group == group && (slices.Contains(boundaries, t.text) && !s.distinctFrom(i) || slices.Contains(also, t.text) && !s.ofBetween(i)) {
			return i - step
		}
	}
}

// within says whether the token stands inside of the group, perhaps deeper: groups are numbered as they open.
func (s *source) within(group, at int) bool { return s.tokens[at].group >= group }

func (s *source) distinctFrom(at int) bool {
	return s.tokens[at].text == "from" && at > 0 && s.tokens[at-1].text == "distinct"
}

// ofBetween says whether an and belongs to a between.
func (s *source) ofBetween(at int) bool {
	if s.tokens[at].text != "and" {
		return false
	}
	for i := at - 1; i >= 0; i-- {
		t := s.tokens[i]
		if t.group < s.tokens[at].group || t.group == s.tokens[at].group && (t.text == "and" || t.text == "or" || slices.Contains(boundaries, t.text)) {
			return false
		}
		if t.group == s.tokens[at].group && t.text == "between" {
			return true
		}
	}
	return false
}

func (s *source) slice(from, to int) string { return s.text[s.tokens[from].start:s.tokens[to].end] }

func (s *source) add(from, to int, replacement string) {
	if from > to {
		return
	}
	was := s.slice(from, to)
	s.replace(s.tokens[from].start, s.tokens[to].end, fmt.Sprintf("%s → %s", short(was), short(replacement)), replacement)
}

func (s *source) replace(from, to int, what, replacement string) {
	s.seen[what]++
	if n := s.seen[what]; n > 1 {
		what = fmt.Sprintf("%s (%d)", what, n)
	}
	s.mutants = append(s.mutants, mutant{s.where, what, s.text[:from] + replacement + s.text[to:]})
}

func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len([]rune(text)) > 110 {
		return string([]rune(text)[:60]) + " … " + string([]rune(text)[len([]rune(text))-45:])
	}
	return text
}

// operands of and are taken to be true, those of or false; and each is negated.
func (s *source) operands() {
	done := map[[2]int]bool{}
	for i, t := range s.tokens {
		if t.text != "and" && t.text != "or" || s.ofBetween(i) {
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
			s.add(span[0], span[1], neutral)
			s.add(span[0], span[1], "not ("+s.slice(span[0], span[1])+")")
		}
	}
}

// conditions without and or or are taken to be true, and false.
func (s *source) conditions() {
	for i, t := range s.tokens {
		isWhen := t.text == "when" && i > 0 && (s.tokens[i-1].text == "case" || s.searched(i) || s.tokens[i-1].text == "row")
		if !slices.Contains([]string{"where", "on", "if", "elsif"}, t.text) && !isWhen || i > 0 && s.tokens[i-1].text == "end" || i+1 == len(s.tokens) {
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
			s.add(i+1, to, "true")
			s.add(i+1, to, "false")
		}
	}
}

// searched says whether a when belongs to a case without an expression.
func (s *source) searched(at int) bool {
	for i := at - 1; i >= 0; i-- {
		if s.tokens[i].text == "case" && s.tokens[i+1].group == s.tokens[at].group {
			return s.tokens[i+1].text == "when"
		}
	}
	return false
}

func (s *source) comparisons() {
	other := map[string]string{"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
	for i, t := range s.tokens {
		if o := other[t.text]; o != "" {
			left, right := s.edge(i, -1, "and", "or"), s.edge(i, 1, "and", "or")
			s.replace(t.start, t.end, fmt.Sprintf("%s: %s → %s", short(s.slice(left, right)), t.text, o), o)
		}
		if t.text == "between" {
			right := s.edge(i, 1, "or")
			s.replace(s.tokens[i+1].start, s.tokens[i+1].start, fmt.Sprintf("%s: one less", short(s.slice(i-1, right))), "-1 + ")
			for j := i; j <= right; j++ {
				if s.tokens[j].group == t.group && s.tokens[j].text == "and" {
					s.replace(s.tokens[j+1].start, s.tokens[j+1].start, fmt.Sprintf("%s: one more", short(s.slice(i-1, right))), "1 + ")
					break
				}
			}
		}
	}
}

// columns drops one column of both sides of a comparison of rows, and one field of what a request's digest is taken over.
func (s *source) columns() {
	for i, t := range s.tokens {
		if t.text != "(" || t.partner == 0 {
			continue
		}
		parts := s.parts(i)
		if s.tokens[i+1].text[0] == '\'' && i > 0 && s.tokens[i-1].text == "row" && s.tokens[i+2].text == "::" {
			for _, p := range parts[1:] {
				s.replace(s.tokens[p[0]-1].start, s.tokens[p[1]].end, "request without "+short(s.slice(p[0], p[1])), "")
			}
			continue
		}
		j := t.partner + 1
		for j < len(s.tokens) && slices.Contains([]string{"is", "not", "distinct", "from", "<>", "=", ">"}, s.tokens[j].text) {
			j++
		}
		if len(parts) < 2 || j == t.partner+1 || j >= len(s.tokens) || s.tokens[j].text != "(" {
			continue
		}
		other := s.parts(j)
		if len(other) != len(parts) {
			continue
		}
		for n := range parts {
			what := fmt.Sprintf("compared without %s", short(s.slice(parts[n][0], parts[n][1])))
			s.replace(t.start, s.tokens[s.tokens[j].partner].end, what,
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

var refusing = regexp.MustCompile(`^credits\.(invalid|insufficient|unknown_\w+|check_\w+|lock_account)$`)

// raises are left out.
func (s *source) raises() {
	for i, t := range s.tokens {
		if t.text == "raise" || t.text == "perform" && refusing.MatchString(s.tokens[i+1].text) {
			end := i
			for s.tokens[end].text != ";" {
				end++
			}
			s.add(i, end, "null;")
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

// locks are not taken, or waited for.
func (s *source) locks() {
	for i, t := range s.tokens {
		switch {
		case t.text == "credits.lock_account":
			s.replace(t.start, t.end, short(s.slice(i, s.edge(i, 1)))+": without the lock", "credits.peek_account")
			s.mutants[len(s.mutants)-1].SQL = peek + s.mutants[len(s.mutants)-1].SQL
		case t.text == "skip":
			s.add(i, i+1, "")
		case t.text == "for" && s.tokens[i+1].text == "no":
			end := i + 3
			if s.tokens[end+1].text == "skip" {
				end += 2
			}
			s.add(i, end, "")
		}
	}
}
