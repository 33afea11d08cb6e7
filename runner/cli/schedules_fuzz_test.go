package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzSchedulesFile reads any file as one that declares schedules: it ends, what is wrong is said with a line of the file, and what is right
// is what the database can read.
func FuzzSchedulesFile(f *testing.F) {
	const one = "schedules:\n  - name: a\n    cron: '0 3 * * *'\n    task: t\n"
	for _, seed := range []string{"", "#", "---", "schedules:", "schedules: []", one, one + "    args: {a: 1, b: [x, 0x10, .5, ~, 2026-01-01, 1_000]}\n", one + "    args: &a {x: *a}\n", one + "    args: &a [*a, *a]\n", one + "    args: {<<: {a: 1}}\n",
		one + "    priority: 99999999999999999999\n", one + "    priority: 1.5\n    timeout: 5\n", one + "    owner_id: x\n    starts_at: 2026-01-01\n", one + "    args: {a: .inf, b: .nan, c: !!binary aGk=}\n", one + "    naem: x\n", one + one, "schedules:\n\t- name: a",
		"schedules:\n  - cron: * * * * *", "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nschedules: *c", "schedules: {a: b}", "- a", "schedules:\n - - a", "? [a]\n: b", "schedules: !!str []", one + "    args: {\"\\u0000\": \"\\ud800\"}\n", "%YAML 9.9\n---\n" + one, "\xff\xfe", one + "...\n---\n" + one,
		one + "    renamed_from: a\n", one + "    args: {1: 2, null: 3, true: 4}\n", "&a : *a", one + "    args: {a: \"" + strings.Repeat("x", 70000) + "\"}\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		entries, err := readSchedules("schedules.yaml", content)
		var wrong mistakes
		if err != nil {
			require.True(t, errors.As(err, &wrong), "%v", err)
			require.Nil(t, entries)
			for _, m := range wrong {
				require.Positive(t, m.line, m.what)
				require.LessOrEqual(t, m.line, strings.Count(content, "\n")+strings.Count(content, "\r")+2, m.what)
				require.NotEmpty(t, m.what)
			}
			return
		}
		for _, e := range entries {
			require.Positive(t, e.line)
			for _, a := range e.arguments {
				if a.Text == nil {
					continue
				}
				require.True(t, utf8.ValidString(*a.Text), a.Name)
				if a.Type == "jsonb" {
					require.True(t, json.Valid([]byte(*a.Text)), "%s", *a.Text)
				}
			}
		}
	})
}
