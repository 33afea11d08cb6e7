package schedulescli

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestYAML_Mistakes_AreNamedWithTheirLine_AndNothingIsApplied(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	const good = "schedules:\n- name: a\n  cron: '@daily'\n  task: x\n"
	rows := map[string]struct{ content, says string }{
		"empty":                {"", "1: the file is empty"},
		"comments alone":       {"# nothing\n", "1: the file is empty"},
		"a list":               {"- name: a\n", "1: the file begins with schedules:"},
		"mistyped top":         {"shedules: []\n", "1: unknown key shedules: did you mean schedules?"},
		"unknown top":          {good + "defaults: {}\n", "5: unknown key defaults"},
		"no list":              {"schedules:\n  name: a\n", "2: schedules is a list, not a mapping"},
		"nothing":              {"schedules:\n", "1: schedules is a list, not nothing"},
		"unknown key":          {good + "  timezone: UTC\n", "5: unknown key timezone: did you mean time_zone?"},
		"with its prefix":      {good + "  p_args: {}\n", "5: unknown key p_args: did you mean args?"},
		"like none":            {good + "  colour: red\n", "5: unknown key colour; known are args, catch_up_limit,"},
		"key twice":            {good + "  cron: '@hourly'\n", "5: cron is given twice: first in line 3"},
		"name twice":           {good + "- {task: x, cron: '@daily', name: a}\n", `5: name: "a" is declared twice: first in line 2`},
		"renamed from another": {good + "- {name: b, cron: '@daily', task: x, renamed_from: a}\n", `5: renamed_from: "a" is itself declared in line 2`},
		"no cron":              {"schedules:\n- name: a\n  task: x\n", "2: cron is missing"},
		"entry is text":        {"schedules:\n- a\n", `2: a schedule is a mapping with name, cron and task, not the text "a"`},
		"tab":                  {"schedules:\n- name: a\n\tcron: x\n", "3: a tab in the indentation"},
		"star without quotes":  {"schedules:\n- name: a\n  cron: */5 * * * *\n  task: x\n", "3: what begins with * or @ needs quotes in YAML: '*/5 * * * *'"},
		"at without quotes":    {"schedules:\n- name: a\n  cron: @daily\n  task: x\n", "3: what begins with * or @ needs quotes in YAML: '@daily'"},
		"number for text":      {"schedules:\n- name: 2024\n  cron: '@daily'\n  task: x\n", "2: name is text (write '2024' in quotes), not the number 2024"},
		"truth for text":       {good + "  queue: true\n", "5: queue is text (write 'true' in quotes), not the truth value true"},
		"list for text":        {good + "  queue: [a]\n", "5: queue is text, not a list"},
		"text for number":      {good + "  priority: high\n", `5: priority is a whole number, not the text "high"`},
		"fraction for number":  {good + "  priority: 1.5\n", "5: priority is a whole number, not the number 1.5"},
		"number out of range":  {good + "  max_attempts: 99999999999\n", "5: max_attempts 99999999999 is out of range"},
		"number for length":    {good + "  timeout: 300\n", `5: timeout is a length of time such as "5 minutes", not the number 300`},
		"day for moment":       {good + "  starts_at: 2026-01-01\n", `5: starts_at "2026-01-01" is no moment`},
		"no UUID":              {good + "  owner_id: me\n", `5: owner_id "me" is no UUID`},
		"text for args":        {good + "  args: '{}'\n", `5: args is a mapping, not the text "{}"`},
		"number as key":        {good + "  args:\n    1: a\n", `6: a key is text: write "1" in quotes`},
		"not a number":         {good + "  args:\n    a: .nan\n", `6: args: ".nan" is nothing that JSON knows`},
		"no value":             {good + "  queue:\n", "5: queue has no value"},
		"merge":                {"schedules:\n- &a {name: a, cron: '@daily', task: x}\n- <<: *a\n  name: b\n", "3: a key is text; a merge (<<) is not known here"},
		"endless alias":        {good + "  args: {a: &a [*a]}\n", "5: args: the file has more than 200000 values"},
		"second document":      {good + "---\n" + good, "5: a second document begins"},
		"not closed":           {"schedules:\n- name: 'a\n", "found unexpected end of stream"},
	}
	t.Run("rows", func(t *testing.T) { // ends when all of them have
		for name, row := range rows {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				path := file(t, "s.yaml", row.content)
				r := schedules(t, db, "apply", path, "--prune")
				require.Equal(t, 1, r.code, r.talk)
				where := path + ":"
				if row.says[0] < '0' || row.says[0] > '9' {
					require.Contains(t, r.talk, where)
					where = ""
				}
				require.Contains(t, r.talk, where+row.says)
				require.Empty(t, r.out)
			})
		}
	})
	require.Empty(t, names(t, db))
}

func TestYAML_SeveralMistakes_AreAllTold_InTheirOrder(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	path := file(t, "s.yaml", "foo: 1\nschedules:\n- name: a\n  crom: x\n  args: 5\n  task: x\n")
	r := schedules(t, db, "apply", path)
	require.Equal(t, 1, r.code)
	lines := strings.Split(strings.TrimSpace(r.talk), "\n")
	require.Len(t, lines, 5, r.talk)
	for i, place := range []string{":1: unknown key foo", ":3: cron is missing", ":4: unknown key crom", ":5: args is a mapping"} {
		require.Contains(t, lines[i], path+place)
	}
	require.Equal(t, "pgtick: "+path+" has 4 mistakes: nothing is applied", lines[4])
}

// Whatever pgtick.schedule takes can stand in a file; a parameter that is new there fails here.
func TestYAML_KnowsEveryParameterOfTheFunction(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	values := map[string]string{
		"name": "all", "cron": "30 2 * * *", "task": "x", "args": "{a: 1}", "time_zone": "Europe/Berlin", "queue": "q", "priority": "3", "max_attempts": "4",
		"timeout": "7 minutes", "on_missed": "all", "catch_up_limit": "8", "catch_up_window": "9 days", "on_overlap": "allow", "on_gap": "skip", "on_fold": "both",
		"jitter": "10 seconds", "starts_at": "2026-12-02T00:00:00+01:00", "ends_at": "2027-12-02T00:00:00Z", "must_finish_within": "11 minutes",
		"owner_id": "6f9619ff-8b86-4d11-b42d-00c04fc964ff",
	}
	parameters := all[string](t, db, `select substr(unnest(proargnames), 3) from pg_proc where oid = 'pgtick.schedule'::regproc`)
	content := "schedules:\n-\n"
	for _, name := range parameters {
		require.Contains(t, values, name, "pgtick.schedule has a new parameter")
		content += "  " + name + ": " + values[name] + "\n"
	}
	well(t, db, "apply", file(t, "s.yaml", content))
	row := objects(t, well(t, db, "list", "--json").out)[0]
	for name, want := range map[string]any{
		"priority": float64(3), "timeout": "00:07:00", "on_missed": "all", "catch_up_window": "9 days", "on_gap": "skip", "on_fold": "both", "jitter": "00:00:10",
		"starts_at": "2026-12-01T23:00:00+00:00", "ends_at": "2027-12-02T00:00:00+00:00", "must_finish_within": "00:11:00", "owner_id": values["owner_id"],
		"queue": "q", "max_attempts": float64(4), "catch_up_limit": float64(8), "on_overlap": "allow", "time_zone": "Europe/Berlin", "cron": "30 2 * * *",
	} {
		require.Equal(t, want, row[name], name)
	}

	// What may be null may be written so; the same as leaving it out.
	nulls := "schedules:\n- {name: all, cron: 30 2 * * *, task: x"
	for _, name := range []string{"catch_up_window", "on_overlap", "starts_at", "ends_at", "must_finish_within", "owner_id"} {
		require.True(t, slices.Contains(parameters, name))
		nulls += ", " + name + ": null"
	}
	well(t, db, "apply", file(t, "s.yaml", nulls+"}\n"))
	require.Equal(t, 6, one[int](t, db, `select num_nulls(catch_up_window, starts_at, ends_at, must_finish_within, owner_id) + (on_overlap = 'skip')::int from pgtick.schedules`))
}

func TestYAML_Args_ArriveAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	well(t, db, "apply", file(t, "s.yaml", `
schedules:
- name: a
  cron: '@daily'
  task: x
  args:
    price: 0.10
    big: 123456789012345678901234567890
    day: 2026-01-01
    hex: 0x1F
    yes: yes
    really: true
    none: null
    text: "<a & b>  'quoted' \"twice\" \u00e9"
    list: [1, [], {}, {b: &b {c: d}}, *b]
    block: |
      two
      lines
`))
	require.Equal(t, `{"big": 123456789012345678901234567890, "day": "2026-01-01", "hex": 31, "yes": "yes", "list": [1, [], {}, {"b": {"c": "d"}}, {"c": "d"}], `+
		`"none": null, "text": "<a & b>  'quoted' \"twice\" é", "block": "two\nlines\n", "price": 0.10, "really": true}`,
		one[string](t, db, `select args::text from pgtick.schedules`))
}
