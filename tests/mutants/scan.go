package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// token is a word of SQL. Those of one parenthesis or case have the same group; groups are numbered as they open.
type token struct {
	text       string
	start, end int
	group      int
	partner    int // of an opening one: where it ends
}

// source is a statement, of which mutants are made.
type source struct {
	where, text string
	tokens      []token
	mutants     []mutant
	seen        map[string]int
}

var lexeme = regexp.MustCompile(`(?s)^(?:--[^\n]*|[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"[^"]*"|[A-Za-z_][A-Za-z_0-9.]*|[0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?|:=|=>|->>|->|#>>|@>|<@|<=|>=|<>|!~|::|\|\||.)`)

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

func newSource(where, statement string, begin, end int, seen map[string]int) *source {
	s := &source{where: where, text: statement, tokens: scan(statement[:end], begin), seen: seen}
	s.group()
	return s
}

var closes = map[string]string{")": "(", "]": "[", "end": "case"}

func (s *source) group() {
	type open struct{ at, group int }
	var stack []open
	current, next := 0, 1
	for i := range s.tokens {
		t := &s.tokens[i]
		t.group = current
		last := len(stack) - 1
		switch {
		case t.text == "(" || t.text == "[" || t.text == "case":
			stack = append(stack, open{i, current})
			current = next
			next++
		case last >= 0 && closes[t.text] == s.tokens[stack[last].at].text:
			current = stack[last].group
			t.group = current
			s.tokens[stack[last].at].partner = i
			stack = stack[:last]
		}
	}
}

var boundaries = strings.Fields(`where on if elsif when while then else , ; := => return group order limit offset returning for union left join cross window as begin loop having
	from set select using with values into do exit continue $`)

// edge finds where an operand ends, from a token in one direction.
func (s *source) edge(at, step int, also ...string) int {
	group := s.tokens[at].group
	for i := at + step; ; i += step {
		if i < 0 || i >= len(s.tokens) {
			return i - step
		}
		t := s.tokens[i]
		if t.group < group || t.group == group && (slices.Contains(boundaries, t.text) && !s.distinctFrom(i) && !s.isLeft(i) || slices.Contains(also, t.text) && !s.ofBetween(i)) {
			return i - step
		}
	}
}

func (s *source) distinctFrom(at int) bool {
	return s.tokens[at].text == "from" && at > 0 && s.tokens[at-1].text == "distinct"
}

// isLeft says whether it is the function, not the join.
func (s *source) isLeft(at int) bool { return s.tokens[at].text == "left" && s.word(at+1) == "(" }

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

// ofHandler says whether an or stands between the names of errors, behind exception when.
func (s *source) ofHandler(at int) bool {
	for i := at; i > 0; i-- {
		switch s.tokens[i].text {
		case "when":
			return s.tokens[i-1].text == "exception"
		case ";", "then":
			return false
		}
	}
	return false
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

func (s *source) slice(from, to int) string { return s.text[s.tokens[from].start:s.tokens[to].end] }

func (s *source) word(at int) string {
	if at < 0 || at >= len(s.tokens) {
		return ""
	}
	return s.tokens[at].text
}

// add replaces the tokens from one to another.
func (s *source) add(kind string, from, to int, replacement string) {
	if from <= to && to < len(s.tokens) {
		was := s.slice(from, to)
		s.replace(kind, s.tokens[from].start, s.tokens[to].end, fmt.Sprintf("%s → %s", short(was), short(replacement)), replacement)
	}
}

func (s *source) replace(kind string, from, to int, what, replacement string) {
	text := s.text[:from] + replacement + s.text[to:]
	if text == s.text {
		return
	}
	what = strings.TrimSpace(what)
	s.seen[s.where+what]++
	if n := s.seen[s.where+what]; n > 1 {
		what = fmt.Sprintf("%s (%d)", what, n)
	}
	s.mutants = append(s.mutants, mutant{Where: s.where, What: what, Kind: kind, SQL: text})
}

func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len([]rune(text)) > 110 {
		return string([]rune(text)[:60]) + " … " + string([]rune(text)[len([]rune(text))-45:])
	}
	return text
}
