package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pgtick/pgtick/runner/jobs"
)

// entry is one schedule of a YAML file.
type entry struct {
	name        string
	renamedFrom string
	arguments   []jobs.Argument
	line        int
	lines       map[string]int // where each key's value stands
}

// lineOf is where a key's value stands, or the entry where it has none.
func (e entry) lineOf(key string) int {
	if line, ok := e.lines[key]; ok {
		return line
	}
	return e.line
}

// mistake is what is wrong at a line of a file.
type mistake struct {
	file string
	line int
	what string
}

func (m mistake) Error() string { return fmt.Sprintf("%s:%d: %s", m.file, m.line, m.what) }

// mistakes are all that is wrong with a file.
type mistakes []mistake

func (m mistakes) Error() string {
	all := make([]error, len(m))
	for i := range m {
		all[i] = m[i]
	}
	return errors.Join(all...).Error()
}

// reader reads a YAML file strictly, and goes on after a mistake to find the others.
type reader struct {
	file  string
	wrong mistakes
	nodes int // read so far, those that aliases repeat included
}

// The most values that a file may have, so that aliases of aliases end.
const mostNodes = 200_000

func (r *reader) complain(line int, format string, args ...any) {
	r.wrong = append(r.wrong, mistake{r.file, line, fmt.Sprintf(format, args...)})
}

// readSchedules reads a file that declares schedules. Its errors are mistakes.
func readSchedules(file, content string) ([]entry, error) {
	r := &reader{file: file}
	entries := r.read(content)
	if len(r.wrong) == 0 {
		return entries, nil
	}
	slices.SortStableFunc(r.wrong, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	return nil, r.wrong
}

func (r *reader) read(content string) []entry {
	decoder := yaml.NewDecoder(strings.NewReader(content))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	switch {
	case errors.Is(err, io.EOF):
		r.complain(1, "the file is empty: it starts with schedules: and lists them below (see: pgtick schedules apply --help)")
		return nil
	case err != nil:
		r.complainOfYAML(content, err)
		return nil
	}
	if err := decoder.Decode(&second); err == nil {
		r.complain(second.Line, "a second document begins: one file, one list of schedules")
	} else if !errors.Is(err, io.EOF) {
		r.complainOfYAML(content, err)
	}
	return r.entries(document.Content[0])
}

var (
	yamlPlace = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)
	unquoted  = regexp.MustCompile(`:\s+([*@].*)$`)
)

// complainOfYAML says what the parser says, but of tabs and of expressions without quotes: its words for those help nobody.
func (r *reader) complainOfYAML(content string, err error) {
	line := 1
	if found := yamlPlace.FindStringSubmatch(err.Error()); found != nil && found[1] != "" {
		line, _ = strconv.Atoi(found[1])
	}
	lines := strings.Split(content, "\n")
	for near := max(line-1, 1); near <= min(line+1, len(lines)); near++ {
		text := lines[near-1]
		if indent := text[:len(text)-len(strings.TrimLeft(text, " \t"))]; strings.Contains(indent, "\t") {
			r.complain(near, "a tab in the indentation: YAML wants spaces")
			return
		}
		if bare := unquoted.FindStringSubmatch(text); bare != nil {
			r.complain(near, "what begins with * or @ needs quotes in YAML: '%s'", bare[1])
			return
		}
	}
	r.complain(line, "%s", yamlPlace.ReplaceAllString(err.Error(), ""))
}

// resolve follows an alias, and counts what is read.
func (r *reader) resolve(node *yaml.Node) *yaml.Node {
	r.nodes++
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

// pair is one key of a mapping with its value.
type pair struct {
	key   *yaml.Node
	value *yaml.Node
}

// pairs are those of a mapping, each key once.
func (r *reader) pairs(node *yaml.Node) []pair {
	var all []pair
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := r.resolve(node.Content[i])
		switch first, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			hint := ""
			if key.ShortTag() == "!!merge" {
				hint = "; a merge (<<) is not known here: write the settings out"
			} else if key.Kind == yaml.ScalarNode {
				hint = fmt.Sprintf(": write %q in quotes", key.Value)
			}
			r.complain(key.Line, "a key is text%s", hint)
			continue
		case twice:
			r.complain(key.Line, "%s is given twice: first in line %d", key.Value, first)
			continue
		}
		seen[key.Value] = key.Line
		all = append(all, pair{key, node.Content[i+1]})
	}
	return all
}

// The only key of a file, and the one of an entry that is no parameter of pgtick.schedule.
const (
	topKey    = "schedules"
	renameKey = "renamed_from"
)

func (r *reader) entries(node *yaml.Node) []entry {
	node = r.resolve(node)
	if node.Kind != yaml.MappingNode {
		r.complain(node.Line, "the file begins with schedules: and lists them below, not with %s", kindOf(node))
		return nil
	}
	var list *yaml.Node
	for _, p := range r.pairs(node) {
		if p.key.Value != topKey {
			r.complain(p.key.Line, "unknown key %s%s", p.key.Value, r.didYouMean(p.key.Value, []string{topKey}))
			continue
		}
		list = r.resolve(p.value)
	}
	switch {
	case list == nil:
		if len(r.wrong) == 0 {
			r.complain(node.Line, "the key schedules is missing")
		}
		return nil
	case list.Kind != yaml.SequenceNode:
		r.complain(list.Line, "schedules is a list, not %s: each schedule begins with a dash, and none at all is written []", kindOf(list))
		return nil
	}
	var all []entry
	for _, item := range list.Content {
		if e, ok := r.entry(r.resolve(item), item.Line); ok {
			all = append(all, e)
		}
	}
	r.refuseDuplicates(all)
	return all
}

func (r *reader) refuseDuplicates(all []entry) {
	seen := map[string]int{}
	for _, e := range all {
		if first, twice := seen[e.name]; twice {
			r.complain(e.lineOf("name"), "name: %q is declared twice: first in line %d", e.name, first)
			continue
		}
		seen[e.name] = e.lineOf("name")
	}
	for _, e := range all {
		if e.renamedFrom == "" {
			continue
		}
		if line, there := seen[e.renamedFrom]; there {
			r.complain(e.lineOf(renameKey), "renamed_from: %q is itself declared in line %d", e.renamedFrom, line)
		}
	}
}

func (r *reader) entry(node *yaml.Node, line int) (entry, bool) {
	e := entry{line: line, lines: map[string]int{}}
	if node.Kind != yaml.MappingNode {
		r.complain(line, "a schedule is a mapping with name, cron and task, not %s", kindOf(node))
		return e, false
	}
	before := len(r.wrong)
	known := map[string]jobs.Parameter{renameKey: {Name: renameKey, Type: "text"}}
	names := []string{renameKey}
	for _, p := range jobs.ScheduleParameters() {
		known[p.Name] = p
		names = append(names, p.Name)
	}
	for _, p := range r.pairs(node) {
		parameter, ok := known[p.key.Value]
		if !ok {
			r.complain(p.key.Line, "unknown key %s%s", p.key.Value, r.didYouMean(p.key.Value, names))
			continue
		}
		e.lines[parameter.Name] = p.value.Line
		e.take(jobs.Argument{Parameter: parameter, Text: r.argument(parameter, p.value)})
	}
	for _, needed := range []string{"name", "cron", "task"} {
		if _, given := e.lines[needed]; !given {
			r.complain(line, "%s is missing", needed)
		}
	}
	return e, len(r.wrong) == before
}

func (e *entry) take(a jobs.Argument) {
	switch {
	case a.Name == renameKey && a.Text != nil:
		e.renamedFrom = *a.Text
	case a.Name == renameKey:
	default:
		if a.Name == "name" && a.Text != nil {
			e.name = *a.Text
		}
		e.arguments = append(e.arguments, a)
	}
}

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// argument is a value as SQL reads it. Numbers, lists and so on are never taken for text, nor text for numbers: what is not written as
// it should be may be meant otherwise.
func (r *reader) argument(p jobs.Parameter, value *yaml.Node) *string {
	line := value.Line
	value = r.resolve(value)
	tag := value.ShortTag()
	if tag == "!!null" {
		if !p.Nullable {
			r.complain(line, "%s has no value: give it one, or leave the key out", p.Name)
		}
		return nil
	}
	wrong := func(what string) *string {
		r.complain(line, "%s is %s, not %s", p.Name, what, kindOf(value))
		return nil
	}
	switch p.Type {
	case "jsonb":
		if value.Kind != yaml.MappingNode {
			return wrong("a mapping")
		}
		return r.jsonText(p.Name, value)
	case "integer":
		if tag != "!!int" {
			return wrong("a whole number")
		}
		var n int64
		if err := value.Decode(&n); err != nil || n < math.MinInt32 || n > math.MaxInt32 {
			r.complain(line, "%s %s is out of range", p.Name, value.Value)
			return nil
		}
		text := strconv.FormatInt(n, 10)
		return &text
	case "timestamptz":
		_, err := time.Parse(time.RFC3339, value.Value)
		if tag != "!!timestamp" && tag != "!!str" || err != nil {
			r.complain(line, `%s %q is no moment: write it with its offset, such as 2026-03-28T02:00:00Z`, p.Name, value.Value)
			return nil
		}
	case "interval":
		if tag != "!!str" {
			return wrong(`a length of time such as "5 minutes"`)
		}
	case "uuid":
		if !uuid.MatchString(value.Value) {
			r.complain(line, "%s %q is no UUID", p.Name, value.Value)
			return nil
		}
	default:
		if tag != "!!str" {
			if value.Kind == yaml.ScalarNode {
				return wrong(fmt.Sprintf("text (write '%s' in quotes)", value.Value))
			}
			return wrong("text")
		}
	}
	return &value.Value
}

// jsonText is a mapping as JSON, its keys in their order and its numbers as they are written.
func (r *reader) jsonText(key string, node *yaml.Node) *string {
	var out bytes.Buffer
	before := len(r.wrong)
	r.writeJSON(&out, key, node)
	if len(r.wrong) > before {
		return nil
	}
	text := out.String()
	return &text
}

func (r *reader) writeJSON(out *bytes.Buffer, key string, node *yaml.Node) {
	line := node.Line
	node = r.resolve(node)
	if r.nodes > mostNodes {
		if r.nodes == mostNodes+1 {
			r.complain(line, "%s: the file has more than %d values, or an alias within itself", key, mostNodes)
			r.nodes++ // say it once
		}
		return
	}
	switch node.Kind {
	case yaml.MappingNode:
		for i, p := range r.pairs(node) {
			out.WriteByte("{,"[min(i, 1)])
			writeString(out, p.key.Value)
			out.WriteByte(':')
			r.writeJSON(out, key, p.value)
		}
		if len(node.Content) == 0 {
			out.WriteByte('{')
		}
		out.WriteByte('}')
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, item := range node.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			r.writeJSON(out, key, item)
		}
		out.WriteByte(']')
	default:
		r.writeScalar(out, key, node, line)
	}
}

func (r *reader) writeScalar(out *bytes.Buffer, key string, node *yaml.Node, line int) {
	switch node.ShortTag() {
	case "!!str", "!!timestamp":
		writeString(out, node.Value)
		return
	case "!!null":
		out.WriteString("null")
		return
	case "!!bool":
		var yes bool
		if node.Decode(&yes) == nil {
			out.WriteString(strconv.FormatBool(yes))
			return
		}
	case "!!int", "!!float":
		if json.Valid([]byte(node.Value)) {
			out.WriteString(node.Value)
			return
		}
		var n any // 0x10, 1_000, .5
		if node.Decode(&n) == nil {
			if number, err := json.Marshal(n); err == nil {
				out.Write(number)
				return
			}
		}
	}
	r.complain(line, "%s: %q is nothing that JSON knows", key, node.Value)
}

func writeString(out *bytes.Buffer, text string) {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // to memory, and text is always JSON
	out.Truncate(out.Len() - 1)
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + node.Value
	case "!!bool":
		return "the truth value " + node.Value
	case "!!timestamp":
		return "the date " + node.Value
	default:
		return fmt.Sprintf("the text %q", node.Value)
	}
}

func (r *reader) didYouMean(word string, known []string) string {
	if near := nearest(strings.TrimPrefix(strings.ToLower(word), "p_"), known); near != "" {
		return ": did you mean " + near + "?"
	}
	slices.Sort(known)
	return "; known are " + strings.Join(known, ", ")
}

// nearest is the known word that is the fewest typing mistakes away, or none where all are far.
func nearest(word string, known []string) (found string) {
	least := max(2, len(word)/3) + 1
	for _, k := range known {
		if d := mistypings(word, k); d < least {
			least, found = d, k
		}
	}
	return found
}

// mistypings counts the letters that must be put in, left out or exchanged to make b of a.
func mistypings(a, b string) int {
	from, to := []rune(a), []rune(b)
	row := make([]int, len(to)+1)
	for i := range row {
		row[i] = i
	}
	for i, letter := range from {
		before := row[0]
		row[0] = i + 1
		for j, other := range to {
			change := before
			if letter != other {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(to)]
}
