package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgtick/pgtick/runner/jobs"
)

// Rules say which values of jobs nobody sees in the dashboard, and whether readers see any. The zero value hides what readers may not see.
type Rules struct {
	Hide        []Hidden
	ReadersSee  bool // readers see arguments, results, notes and errors, but for what is hidden
	HideDefault bool // also what DefaultHidden names
}

// Hidden are the values under a key, at whatever depth, of a task's jobs. Both are patterns with *; case does not matter.
type Hidden struct{ Task, Key string }

// DefaultHidden are keys of all tasks that are hidden unless the settings say otherwise.
func DefaultHidden() []string {
	return []string{"*password*", "*passwd*", "*secret*", "*token*", "authorization", "*api_key*", "*apikey*", "*api-key*", "*private_key*", "cookie", "set-cookie", "*credential*"}
}

// ParseHidden reads rules such as "mail.send:address, *:iban, credits.*:*". The word none alone takes the default list away.
func ParseHidden(text string) (hide []Hidden, withDefault bool, err error) {
	withDefault = true
	for rule := range strings.SplitSeq(text, ",") {
		switch rule = strings.TrimSpace(rule); rule {
		case "":
			continue
		case "none":
			withDefault = false
			continue
		}
		at := strings.LastIndex(rule, ":")
		if at < 1 || at == len(rule)-1 {
			return nil, false, fmt.Errorf("%q is not a task and a key, such as mail.send:address or *:iban", rule)
		}
		h := Hidden{Task: strings.ToLower(strings.TrimSpace(rule[:at])), Key: strings.ToLower(strings.TrimSpace(rule[at+1:]))}
		if _, err := path.Match(h.Task+h.Key, ""); err != nil {
			return nil, false, fmt.Errorf("%q has a bracket that is not closed: write * for any letters", rule)
		}
		hide = append(hide, h)
	}
	return hide, withDefault, nil
}

// hiddenValue stands where a value is not shown.
const hiddenValue = "hidden"

// matches: a task may have a slash in its name, which path.Match would stop at.
func matches(pattern, name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "/", "\x00")
	ok, _ := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), name)
	return ok
}

func (r Rules) hides(task, key string) bool {
	return r.HideDefault && slices.ContainsFunc(DefaultHidden(), func(pattern string) bool { return matches(pattern, key) }) ||
		slices.ContainsFunc(r.Hide, func(h Hidden) bool { return matches(h.Task, task) && matches(h.Key, key) })
}

func (r Rules) sees(who person) bool { return who.Operator || r.ReadersSee }

// shownJSON is a value as somebody may see it.
type shownJSON struct {
	Name   string // what it is: args, result, …
	Tree   *node  // nil: there is none, or it is kept from who asks
	Kept   bool   // from who asks
	Hidden int    // how many values in it are
	Size   int    // of the text
	Text   string // indented, with what is hidden left out
}

func (r Rules) show(who person, task, name string, value []byte) shownJSON {
	s := shownJSON{Name: name, Size: len(value)}
	if len(value) == 0 || string(value) == "null" {
		return s
	}
	if s.Kept = !r.sees(who); s.Kept {
		return s
	}
	m := &mask{rules: r, task: task}
	s.Tree = m.tree(name, value)
	s.Hidden = m.count
	s.Text = s.Tree.text(0)
	return s
}

// showText is for texts that a task made, such as the note of its progress.
func (r Rules) showText(who person, task, name, text string) string {
	if text == "" || r.sees(who) && !r.hides(task, name) {
		return text
	}
	return hiddenValue
}

// shownError is an error as somebody may see it.
type shownError struct {
	Message string
	Stack   string
	Kept    bool
	Rest    shownJSON // its other fields
}

// showError: an error often repeats what it was given, so it is kept from those who see no arguments.
func (r Rules) showError(who person, task string, value []byte) (s shownError) {
	if len(value) == 0 || string(value) == "null" {
		return s
	}
	if s.Kept = !r.sees(who); s.Kept {
		return s
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(value, &fields) != nil {
		s.Message = wordsOr(value)
		return s
	}
	s.Message, s.Stack = r.field(task, "message", fields), r.field(task, "stack", fields)
	delete(fields, "message")
	delete(fields, "stack")
	if rest, err := json.Marshal(fields); err == nil && len(fields) > 0 {
		s.Rest = r.show(who, task, "error", rest)
	}
	return s
}

func (r Rules) field(task, name string, fields map[string]json.RawMessage) string {
	if len(fields[name]) > 0 && r.hides(task, name) {
		return hiddenValue
	}
	return wordsOr(fields[name])
}

// wordsOr is a JSON string without its quotes, or else the JSON.
func wordsOr(value []byte) (words string) {
	if len(value) == 0 || json.Unmarshal(value, &words) == nil {
		return words
	}
	return string(value)
}

// node is a part of a JSON value, for the template that shows it.
type node struct {
	Key    string
	Keyed  bool
	Value  string // of what has no parts; as JSON
	Kind   string // object, array, string, number, true, false, null, hidden, more
	Parts  []*node
	Length string // "3 keys"
}

// What is deeper, or comes later, is shown as text.
const (
	mostDepth = 24
	mostNodes = 3000
)

// mask makes the tree of a value, without what is hidden.
type mask struct {
	rules Rules
	task  string
	count int // hidden values
	nodes int
	raw   strings.Builder // the text as PostgreSQL writes it, without them
}

func (m *mask) tree(key string, value []byte) *node {
	if m.rules.hides(m.task, key) || m.rules.hides(m.task, "*") {
		m.count++
		return &node{Kind: "hidden"}
	}
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	return m.next(decoder, 0)
}

// next reads token by token, so that keys keep their order and a deep value needs no deep stack of the decoder's own.
func (m *mask) next(d *json.Decoder, depth int) *node {
	token, err := d.Token()
	if err != nil {
		return &node{Kind: "more", Value: err.Error()}
	}
	m.nodes++
	switch t := token.(type) {
	case json.Delim:
		return m.parts(d, t, depth)
	case string:
		text := quoted(t)
		m.raw.WriteString(text)
		return &node{Kind: "string", Value: visibleText(text)}
	case json.Number:
		m.raw.WriteString(t.String())
		return &node{Kind: "number", Value: t.String()}
	case bool:
		text := strconv.FormatBool(t)
		m.raw.WriteString(text)
		return &node{Kind: text, Value: text}
	}
	m.raw.WriteString("null")
	return &node{Kind: "null", Value: "null"}
}

func (m *mask) parts(d *json.Decoder, open json.Delim, depth int) *node {
	n := &node{Kind: map[json.Delim]string{'{': "object", '[': "array"}[open]}
	m.raw.WriteString(open.String())
	count := 0
	for ; d.More(); count++ {
		key := ""
		if count > 0 {
			m.raw.WriteString(", ")
		}
		if open == '{' {
			token, _ := d.Token()
			key, _ = token.(string)
			m.raw.WriteString(quoted(key) + ": ")
		}
		switch {
		case open == '{' && m.rules.hides(m.task, key):
			m.count++
			skip(d)
			n.Parts = append(n.Parts, &node{Kind: "hidden", Key: key, Keyed: true})
		case depth >= mostDepth || m.nodes >= mostNodes:
			skip(d)
			if len(n.Parts) == 0 || n.Parts[len(n.Parts)-1].Kind != "more" {
				n.Parts = append(n.Parts, &node{Kind: "more", Value: "too much to show"})
			}
		default:
			part := m.next(d, depth+1)
			part.Key, part.Keyed = key, open == '{'
			n.Parts = append(n.Parts, part)
		}
	}
	m.raw.WriteString(map[json.Delim]string{'{': "}", '[': "]"}[open])
	_, _ = d.Token()
	n.Length = counted(count, map[json.Delim]string{'{': "key", '[': "item"}[open])
	return n
}

// skip passes over one value.
func skip(d *json.Decoder) {
	for depth := 0; ; {
		token, err := d.Token()
		if err != nil {
			return
		}
		if delim, is := token.(json.Delim); is {
			if delim == '{' || delim == '[' {
				depth++
			} else {
				depth--
			}
		}
		if depth == 0 {
			return
		}
	}
}

func quoted(text string) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text)
	return strings.TrimSuffix(out.String(), "\n")
}

// text is the value as JSON, indented.
func (n *node) text(depth int) string {
	var b strings.Builder
	n.write(&b, depth)
	return b.String()
}

func (n *node) write(b *strings.Builder, depth int) {
	switch n.Kind {
	case "hidden":
		b.WriteString(`"` + hiddenValue + `"`)
		return
	case "object", "array":
	default:
		b.WriteString(n.Value)
		return
	}
	brackets := map[string]string{"object": "{}", "array": "[]"}[n.Kind]
	b.WriteByte(brackets[0])
	indent := strings.Repeat("  ", depth+1)
	for i, part := range n.Parts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n" + indent)
		if part.Keyed && part.Kind != "more" {
			b.WriteString(visibleText(quoted(part.Key)) + ": ")
		}
		part.write(b, depth+1)
	}
	if len(n.Parts) > 0 {
		b.WriteString("\n" + indent[2:])
	}
	b.WriteByte(brackets[1])
}

// found tells whether a text that was searched for stands in what this person may see of a job, and not only in what is hidden.
func (r Rules) found(who person, search string, j jobs.JobView) bool {
	if !r.sees(who) {
		return false
	}
	seen := []string{r.showText(who, j.Task, "note", j.Note), r.showText(who, j.Task, "unique_key", j.UniqueKey)}
	for name, value := range map[string][]byte{"args": j.Args, "result": j.Result, "error": j.LastError} {
		if len(value) > 0 {
			m := &mask{rules: r, task: j.Task}
			m.tree(name, value)
			seen = append(seen, m.raw.String())
		}
	}
	return slices.ContainsFunc(seen, func(text string) bool { return strings.Contains(strings.ToLower(text), strings.ToLower(search)) })
}
