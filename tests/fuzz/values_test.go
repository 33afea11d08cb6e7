package fuzz

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// maker makes values by chance. Each is a text that the server reads as one of its type, so that whatever is refused is refused by us.
type maker struct {
	*rand.Rand
	types types
	known map[string][]string // what there is, by the name of a parameter or column, without its p_
}

func newMaker(seed, session uint64, types types, known map[string][]string) *maker {
	return &maker{Rand: rand.New(rand.NewPCG(seed, session)), types: types, known: known}
}

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

func pick[T any](m *maker, from []T) T { return from[m.IntN(len(from))] }

// value is one of a type, or nil for null; likely ones are such as somebody would give.
func (m *maker) value(name string, oid uint32, typmod int32, likely bool) *string {
	if !likely && m.chance(15) {
		return nil
	}
	text := m.text(strings.TrimPrefix(strings.Trim(name, `"`), "p_"), oid, typmod, likely, 0)
	return &text
}

func (m *maker) text(name string, oid uint32, typmod int32, likely bool, depth int) string {
	t := m.types[oid]
	if t == nil {
		return ""
	}
	if t.Category == "A" && t.Element != 0 {
		return m.array(name, t, likely, depth)
	}
	if known := m.known[name]; len(known) > 0 && m.chance(map[bool]int{true: 90, false: 15}[likely]) {
		if found := pick(m, known); fits(t.Name, found) {
			return found
		}
	}
	if t.Kind == "c" {
		return m.row(t, likely, depth)
	}
	if scalar, ok := scalars[t.Name]; ok {
		return scalar(m, likely)
	}
	switch t.Name {
	case "bit", "bit varying":
		return m.bits(t.Name, typmod, likely)
	case "regprocedure":
		return pick(m, []string{"public.twice(integer)", "public.write_note(text,timestamptz)", "public.bad(integer)", "public.tidy()", "pgtick.now()", "pg_catalog.now()", "0", "pg_catalog.sum(integer)",
			"pg_catalog.rank()", "pgtick.check_request()", "pg_catalog.concat(\"any\")", "4294967295"})
	case "tid":
		return pick(m, []string{"(0,1)", "(0,2)", "(1,1)", "(4294967295,65535)", "(0,0)"})
	}
	return m.words(likely)
}

// fits keeps texts away from numbers, where one name stands for both.
func fits(typeName, text string) bool {
	switch typeName {
	case "bigint", "integer", "smallint":
		n, err := strconv.ParseInt(text, 10, 64)
		return err == nil && (typeName == "bigint" || n >= -32768 && n <= 32767)
	case "text", "name", "character varying", "jsonb", "json":
		return typeName == "text" || typeName == "name" || strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[")
	case "uuid":
		return len(text) == 36 && text[8] == '-'
	}
	return false
}

func number(likely []string, odd ...string) func(*maker, bool) string {
	return func(m *maker, isLikely bool) string {
		if isLikely {
			return pick(m, likely)
		}
		return pick(m, append(odd, likely...))
	}
}

var scalars = map[string]func(*maker, bool) string{
	"boolean":          number([]string{"true", "false"}),
	"smallint":         number([]string{"1", "5", "0"}, "-1", "32767", "-32768", "99"),
	"integer":          number([]string{"1", "2", "5", "10", "0"}, "-1", "2147483647", "-2147483648", "1000", "1001", "65536", "31"),
	"bigint":           number([]string{"1", "2", "3", "5", "10", "0"}, "-1", "9223372036854775807", "-9223372036854775808", "2147483648", "9007199254740993", "1000001", "4611686018427387904"),
	"real":             number([]string{"0", "0.5", "1"}, "-1", "NaN", "Infinity", "-Infinity", "1e37", "1e-37", "1.0000001"),
	"double precision": number([]string{"0", "0.5", "1", "60"}, "-1", "NaN", "Infinity", "-Infinity", "1e308", "1e-300"),
	"numeric":          number([]string{"0", "1", "10"}, "NaN", "Infinity", "-Infinity", "-0.000001", "1e1000", "123456789012345678901234567890.5"),
	"oid":              number([]string{"0", "23", "25", "2249"}, "4294967295", "1"),
	"xid8":             number([]string{"3", "1000"}, "0", "18446744073709551615", "1"),
	"xid":              number([]string{"3"}, "0", "4294967295"),
	"date":             number([]string{"2026-11-01", "2027-01-01", "2024-02-29"}, "infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "0001-01-01", "1999-12-31"),
	"timestamp with time zone": number([]string{"2026-11-26 03:00:00+00", "2027-01-01 00:00:00+00", "2024-02-29 12:00:00.5+05:30", "2026-03-29 01:30:00+00"}, "infinity", "-infinity", "4714-11-24 00:00:00+00 BC",
		"294276-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00", "1970-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00", "2200-01-01 00:00:00+00", "1900-01-01 00:00:00+00"),
	"timestamp without time zone": number([]string{"2026-11-26 03:00:00", "2024-02-29 12:00:00.5"}, "infinity", "-infinity", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "1970-01-01 00:00:00"),
	"interval": number([]string{"1 second", "30 seconds", "5 minutes", "1 hour", "1 day", "7 days"}, "0", "-1 second", "-1 month", "1 month -31 days", "178000000 years", "-178000000 years", "2147483647 days",
		"-2147483648 days", "0.000001 seconds", "366 days", "400 days 1 second", "1 year", "2562047788:00:54.775807", "1 day -24:00:00"),
	"uuid": func(m *maker, likely bool) string {
		if likely || m.chance(40) {
			return pick(m, []string{ann, ben})
		}
		return pick(m, []string{"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", fmt.Sprintf("%08x-0000-4000-8000-%012x", m.Uint32(), m.Uint32())})
	},
	"bytea": func(m *maker, _ bool) string {
		return pick(m, []string{`\x`, `\x00`, `\xdeadbeef`, `\x` + strings.Repeat("00ff", 2000)})
	},
	"text":              func(m *maker, likely bool) string { return m.words(likely) },
	"character varying": func(m *maker, likely bool) string { return m.words(likely) },
	"name":              func(m *maker, likely bool) string { return m.words(likely) },
	"\"char\"":          func(m *maker, _ bool) string { return pick(m, []string{"a", "", "f"}) },
	"jsonb":             func(m *maker, likely bool) string { return m.json(likely) },
	"json":              func(m *maker, likely bool) string { return m.json(likely) },
}

// words are texts that have broken something somewhere: of SQL, of format(), of casts, of regular expressions, of JSON, of Unicode. U+0000 is
// none that the server takes.
var words = []string{"", " ", "\t", "x", "null", "NULL", "none", "true", "select", "user", "pg_class", "pg_catalog.pg_class", `"a"."b"`, "public", "{}", "{a,b}", `{"a": 1}`, "[]", "(1,2)", "(,)", "0", "-1", "1e400", "NaN",
	"infinity", "-infinity", "now", "today", "epoch", "2024-02-30", "2024-13-01 25:61", "24:00:00", "1 fortnight", "P1Y", "'; drop schema pgtick cascade; --", `'`, `''`, `"`, `\`, `\\x`, `$1`, "$$", "$tag$", "%", "%s %I %L %n %1$s %99$s", "a%", "--",
	"/*", "*/", ";", "(", ")", "[", "[[:nope:]]", "(?=", "a{99999}", "*", "+", "^$", ".*", "\\1", "\x01", "a\x7fb", "a\nb", "a\rb", "\u0085", "\u00a0", "\u200b", "\u2028", "\u202e", "\ufeff", "\uffff", "é", "e\u0301", "ß", "İ", "ı", "\u212a", "٣", "日本語", "🕰️", "👩‍👩‍👧",
	"http", "sql", "credits.reconcile", "pgtick_runner", "authenticated", "Europe/Berlin", "CET", "UTC+3", "../../../etc/passwd", "posixrules", "Factory", "* * * * *", "@every 1s", "0 0 30 2 *", "99999999999999999999", "0x10", "1_000", "½",
	strings.Repeat("x", 200), strings.Repeat("x", 201), strings.Repeat("é", 200), strings.Repeat("日", 501), strings.Repeat("%s", 200), strings.Repeat("a,", 300), strings.Repeat("(", 500), strings.Repeat("\n", 250)}

func (m *maker) words(likely bool) string {
	switch {
	case likely:
		return pick(m, []string{"fuzz.run", "default", "a", "name", "why not", "key-1"})
	case m.chance(4):
		return m.long()
	case m.chance(15):
		return pick(m, words) + pick(m, words)
	}
	return pick(m, words)
}

// long is a text of up to a megabyte that does not compress, so that no index takes it.
func (m *maker) long() string {
	size := pick(m, []int{1001, 3000, 9000, 70_000, 1_000_000})
	var text strings.Builder
	for text.Len() < size {
		text.WriteString(strconv.FormatUint(m.Uint64(), 36))
	}
	return text.String()
}

var jsons = []string{"{}", "[]", "null", "true", "1", `""`, `"x"`, `{"a": 1}`, `{"": null}`, `{"a": {"b": [1, null, {"c": "\u0001"}]}}`, "1e1000", "-1e-1000", `[1, "2", null, [], {}]`, `{"kind": 1}`, `{"kind": "linear"}`, `{"kind": "list", "delays": [null]}`,
	`{"kind": "linear", "step": "1e400 seconds"}`, `{"kind": "linear", "step": "infinity"}`, `{"kind": "exponential", "first": "now", "factor": 1e300}`, `{"kind": "list", "delays": "1 s"}`, `{"message": null}`, `{"message": {"x": 1}, "stack": []}`, `{"message": "x", "stack": 1e999}`,
	`{"id": 1e5}`, `{"id": "x"}`, `{"owner_id": "x"}`, `{"created_before": "2024-02-30"}`, `{"created_before": "now infinity"}`, `{"created_after": "2024-01-01 00:00 Nowhere/Never"}`, `{"state": "ready"}`, `{"state": null}`, `{"batch": 99999999999999999999}`, `{"task": {"a": 1}}`, `{"error": "%"}`,
	`{"function": "public.twice", "args": {"n": "x"}}`, `{"function": "public.twice", "args": {"n": 1e100}}`, `{"function": "public.twice", "args": []}`, `{"function": null}`, `{"function": "pg_catalog.pg_read_file", "args": {}}`, `{"function": "public.twice", "args": {"n": 1, "m": 2}}`,
	`{"retry_policy": []}`, `{"rate": -1, "period_seconds": 1e300}`, `{"rate": 1, "period_seconds": "x"}`, `{"per_key": 1}`, `{"per_key": {"rate": 1.5, "period_seconds": 60}}`, `{"gates": "x"}`, `{"gates": [1]}`, `{"most_rows": 1e30}`, `{"max_running": null}`, `{"rate": 99999999999999999999, "period_seconds": 1}`,
	`{"traceparent": 1}`, `{"traceparent": ["x"]}`, `{"burst": 0.5, "rate": 1, "period_seconds": 1}`}

func (m *maker) json(likely bool) string {
	switch {
	case likely:
		return pick(m, []string{"{}", `{"n": 1}`, `{"a": "b"}`})
	case m.chance(8):
		deep := pick(m, []int{50, 1000, 2000})
		return strings.Repeat(`{"a":[`, deep) + strings.Repeat("]}", deep)
	case m.chance(6):
		return `{"long": "` + m.long() + `"}`
	case m.chance(10):
		return fmt.Sprintf(`{%q: %s, "b": [%s]}`, pick(m, []string{"a", "kind", "id", "state", "function", "args", "rate", "message", "%s"}), pick(m, jsons), pick(m, jsons))
	}
	return pick(m, jsons)
}

func (m *maker) bits(name string, typmod int32, likely bool) string {
	size := int(typmod)
	if name == "bit varying" || size <= 0 {
		size = pick(m, []int{0, 1, 8, 31, 32, 60, 64})
		if name == "bit" {
			size = max(size, 1)
		}
	}
	zero := !likely && m.chance(30)
	text := make([]byte, size)
	for i := range text {
		text[i] = '0'
		if !zero && m.chance(50) {
			text[i] = '1'
		}
	}
	return string(text)
}

// array is one of any shape: empty, with nulls, of two dimensions, counted from elsewhere, or long.
func (m *maker) array(name string, t *typ, likely bool, depth int) string {
	single := m.singular(name)
	element := func() string {
		if !likely && m.chance(20) {
			return "NULL"
		}
		return quoted(m.text(single, t.Element, -1, likely || m.chance(50), depth+1))
	}
	list := func(n int) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = element()
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	if depth > 2 {
		return "{}"
	}
	if !likely {
		switch m.IntN(12) {
		case 0:
			return "{}"
		case 1:
			return "{" + list(2) + "," + list(2) + "}"
		case 2:
			return "[0:1]=" + list(2)
		case 3:
			if depth == 0 && m.types[t.Element].Kind == "b" {
				one := element()
				return "{" + strings.Repeat(one+",", pick(m, []int{100, 1000, 10_001})/(1+len(one)/100)) + one + "}"
			}
		}
	}
	return list(1 + m.IntN(3)%2)
}

// singular is the name under which one of a list is known.
func (m *maker) singular(name string) string {
	for _, one := range []string{strings.TrimSuffix(name, "s"), strings.TrimSuffix(name, "_ids") + "_id", strings.TrimSuffix(name, "ies") + "y"} {
		if len(m.known[one]) > 0 {
			return one
		}
	}
	if name == "held" || name == "ids" || name == "after" {
		return "job_id"
	}
	return name
}

func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

func (m *maker) row(t *typ, likely bool, depth int) string {
	if depth > 2 {
		return "()"
	}
	fields := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		if m.chance(map[bool]int{true: 10, false: 35}[likely]) {
			continue // null
		}
		fields[i] = quoted(m.text(f.Name, f.Type, f.Typmod, likely || m.chance(60), depth+1))
	}
	return "(" + strings.Join(fields, ",") + ")"
}
