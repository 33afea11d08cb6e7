package schedulescli

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const versions = `select count(*) from pgtick.schedule_versions`

func TestExamples_AreWhatMigrateInstalls(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	top, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	for _, name := range []string{"credits.yaml", "credits.sql"} {
		path := filepath.Join(strings.TrimSpace(string(top)), "examples", "schedules", name)
		r := well(t, db, "apply", path, "--dry-run", "--exit-code", "--source", "credits")
		require.Empty(t, r.out, name)
		require.Equal(t, "4 unchanged; nothing to change\n", r.talk, name)
	}
	do(t, db, `select pgtick.unschedule('periodic-credit-allocation')`)
	path := filepath.Join(strings.TrimSpace(string(top)), "examples", "schedules", "credits.yaml")
	require.Equal(t, 1, schedules(t, db, "apply", path, "--dry-run", "--exit-code").code, "the check can fail")
}

const twoYAML = `
schedules:
  - name: report
    cron: 0 * * * *
    task: test.noop
    args: {to: team}
    time_zone: Europe/Berlin
  - name: cleanup
    cron: "*/15 * * * *"
    task: test.noop
`

const twoSQL = `
select pgtick.schedule('report', '0 * * * *', 'test.noop', '{"to": "team"}', p_time_zone => 'Europe/Berlin');
select pgtick.schedule('cleanup', '*/15 * * * *', 'test.noop')`

func TestApply_MakesTheDatabaseAgreeWithTheFile_AndDoesNothingTwice(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"s.yaml": twoYAML, "s.yml": twoYAML, "s.sql": twoSQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := quiet(t)
			path := file(t, name, content)

			dry := well(t, db, "apply", path, "--dry-run")
			require.Empty(t, names(t, db), "a dry run changes nothing")
			require.Contains(t, dry.talk, "2 created; a dry run: nothing is applied\n")

			r := well(t, db, "apply", path)
			require.Equal(t, dry.out, r.out, "what is shown is what happens")
			require.Contains(t, r.talk, "2 created; applied\n")
			require.Regexp(t, `(?m)^\+ cleanup  created$`, r.out)
			require.Regexp(t, `(?m)^    next run +2026-12-01 14:00 Europe/Berlin \(in 1h\)$`, r.out)
			require.Equal(t, []string{"cleanup", "report"}, names(t, db))
			require.Equal(t, []string{"apply", "apply"}, all[string](t, db, `select source from pgtick.schedules`))
			require.Equal(t, "skip 20 00:05:00 team", one[string](t, db, `select concat_ws(' ', on_overlap, max_attempts, timeout, args ->> 'to')
				from pgtick.schedules where name = 'report'`), "what is left out has its default")

			before := one[int](t, db, versions)
			again := well(t, db, "apply", path, "--prune")
			require.Empty(t, again.out)
			require.Contains(t, again.talk, "2 unchanged; nothing to change\n")
			require.Equal(t, before, one[int](t, db, versions))
		})
	}
}

func TestApply_ShowsEachDifference_WithTheSlotsItAddsAndDrops(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"s.yaml": strings.NewReplacer("cron: 0 *", "cron: 0 */2", "to: team", "to: all").Replace(twoYAML),
		"s.sql":  strings.NewReplacer("0 * * * *", "0 */2 * * *", "team", "all").Replace(twoSQL),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := quiet(t)
			well(t, db, "apply", file(t, "first.yaml", twoYAML))
			path := file(t, name, content)
			r := well(t, db, "apply", path, "--dry-run")
			require.Regexp(t, `(?m)^~ report  changed$`, r.out)
			require.Regexp(t, `(?m)^    cron +0 \* \* \* \* → 0 \*/2 \* \* \*$`, r.out)
			require.Regexp(t, `(?m)^    args +\{"to": "team"\} → \{"to": "all"\}$`, r.out)
			require.NotContains(t, r.out, "cleanup")
			require.NotContains(t, r.out, "next run", "14:00 in Berlin is a slot of both")
			require.Regexp(t, `(?m)^    slots +0 added, 360 dropped over the next 30 days$`, r.out)

			rows := objects(t, well(t, db, "apply", path, "--json").out)
			require.Len(t, rows, 2)
			require.Equal(t, "unchanged", rows[0]["change"])
			require.Equal(t, "changed", rows[1]["change"])
			require.Equal(t, map[string]any{"old": "0 * * * *", "new": "0 */2 * * *"}, rows[1]["fields"].(map[string]any)["cron"])
			require.Equal(t, float64(0), rows[1]["slots_added"])
			require.Equal(t, float64(360), rows[1]["slots_dropped"])
			require.Equal(t, "2026-12-01T13:00:00Z", rows[1]["next_at_before"])
			require.Equal(t, rows[1]["next_at_before"], rows[1]["next_at_after"])

			back := well(t, db, "apply", file(t, "first.yaml", twoYAML))
			require.Regexp(t, `(?m)^    slots +360 added, 0 dropped over the next 30 days$`, back.out, "the way back adds what the way there dropped")
		})
	}
}

func TestApply_FromStdin_NeedsAFormat(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	require.Zero(t, call{stdin: twoSQL}.schedules(t, db, "apply", "-", "--format", "sql").code)
	require.Equal(t, []string{"cleanup", "report"}, names(t, db))
	require.Contains(t, call{stdin: twoYAML}.schedules(t, db, "apply", "-", "--format", "yaml").talk, "2 unchanged")
}

func TestApply_WithOneBadSchedule_AppliesNone_AndNamesTheLine(t *testing.T) {
	t.Parallel()
	rows := map[string]struct{ file, content, says string }{
		"cron": {"s.yaml", "schedules:\n- {name: good, cron: '@daily', task: x}\n- name: bad\n  task: x\n  cron: 60 * * * *\n", `s.yaml:5: cron "60 * * * *": minute field`},
		"zone": {"s.yaml", "schedules:\n- {name: good, cron: '@daily', task: x}\n- name: bad\n  task: x\n  cron: '@daily'\n  time_zone: CET\n", "s.yaml:6: "},
		"policy": {"s.yaml", "schedules:\n- {name: good, cron: '@daily', task: x}\n- name: bad\n  task: x\n  on_missed: twice\n  cron: '@daily'\n",
			`s.yaml:5: on_missed "twice" is refused`},
		"length": {"s.yaml", "schedules:\n- {name: good, cron: '@daily', task: x}\n- name: bad\n  task: x\n  cron: '@daily'\n\n  timeout: 5 minuts\n", "s.yaml:7: "},
		"raised": {"s.sql", "select pgtick.schedule('good', '@daily', 'x');\n-- a semicolon; here\n\nselect 1;\n /* and ; /* here */ */ select pgtick.schedule($a$;'$a$,\n'60 * * * *', 'x');\n",
			`s.sql:5: cron "60 * * * *": minute field`},
		"syntax":            {"s.sql", "select pgtick.schedule('good', '@daily', 'é');\nselect 1;\nselekt 2;\n", `s.sql:3: syntax error at or near "selekt"`},
		"unknown function":  {"s.sql", "select pgtick.schedule('good', '@daily', 'é');\nselect\n  pgtick.shedule('x')", "s.sql:3: function pgtick.shedule(unknown) does not exist"},
		"commit":            {"s.sql", "select pgtick.schedule('good', '@daily', 'x');\n\ncommit;\n", "s.sql:3: "},
		"rollback":          {"s.sql", "select pgtick.schedule('good', '@daily', 'x');\nrollback; select pgtick.schedule('good', '@daily', 'x');", "s.sql:2: "},
		"commit in a block": {"s.sql", "select pgtick.schedule('good', '@daily', 'x');\ndo $$ begin commit; end $$;", "s.sql:2: "},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := quiet(t)
			path := file(t, row.file, row.content)
			r := schedules(t, db, "apply", path)
			require.Equal(t, 1, r.code)
			require.True(t, strings.HasPrefix(r.talk, "pgtick: "+filepath.Dir(path)+"/"+row.says), r.talk)
			require.Empty(t, r.out)
			require.Empty(t, names(t, db))
			if !strings.HasPrefix(name, "syntax") && name != "length" {
				require.Contains(t, r.talk, "\n  hint: ")
			}
		})
	}
}

func TestApply_PassesWarningsOn_WithTheirPlace(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	path := file(t, "s.yaml", "schedules:\n- {name: fine, cron: '@daily', task: x}\n- name: odd\n  cron: 0 0 13 * FRI\n  task: x\n")
	r := well(t, db, "apply", path)
	require.Contains(t, r.talk, path+":3: ")
	require.NotContains(t, r.talk, path+":2: ")
}

func TestApply_Prune_RemovesWhatThisSourceDeclaredBefore_AndNothingElse(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"yaml", "sql"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			ours := names(t, db)
			require.NotEmpty(t, ours)
			do(t, db, `select pgtick.schedule('by-hand', '@daily', 'x')`)
			well(t, db, "apply", file(t, "other.yaml", "schedules: [{name: others, cron: '@daily', task: x}]"), "--source", "other")
			well(t, db, "apply", file(t, "s."+kind, map[string]string{"yaml": twoYAML, "sql": twoSQL}[kind]), "--prune")
			less := file(t, "s."+kind, map[string]string{
				"yaml": "schedules: [{name: report, cron: 0 * * * *, task: test.noop}]",
				"sql":  "select pgtick.schedule('report', '0 * * * *', 'test.noop')",
			}[kind])

			r := well(t, db, "apply", less)
			require.Contains(t, r.talk, "though source apply declared it (--prune removes it): cleanup\n")
			require.Contains(t, names(t, db), "cleanup")

			r = well(t, db, "apply", less, "--prune")
			require.Regexp(t, `(?m)^- cleanup  removed$`, r.out)
			require.ElementsMatch(t, append(ours, "by-hand", "others", "report"), names(t, db))
			require.Equal(t, "removed", one[string](t, db, `select what from pgtick.schedule_versions where schedule = 'cleanup' order by version desc limit 1`), "its history stays")
		})
	}
}

func TestApply_Prune_WithAFileThatDeclaresNothing(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	well(t, db, "apply", file(t, "s.yaml", twoYAML))
	r := schedules(t, db, "apply", file(t, "s.sql", "-- all gone by mistake\nselect 1"), "--prune")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "declares no schedule at all: --prune would remove cleanup, report")
	require.Len(t, names(t, db), 2)
	require.Contains(t, well(t, db, "apply", file(t, "s.yaml", "schedules: []"), "--prune").talk, "2 removed; applied", "[] says so in so many words")
	require.Empty(t, names(t, db))
}

func TestApply_RenamedFrom_KeepsTheHistory(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	well(t, db, "apply", file(t, "s.yaml", twoYAML))
	id := one[int64](t, db, `select id from pgtick.schedules where name = 'report'`)
	do(t, db, `select pgtick.run_now('report')`)
	path := file(t, "s.yaml", strings.Replace(twoYAML, "name: report", "renamed_from: report\n    name: letter", 1))
	r := well(t, db, "apply", path, "--prune")
	require.Regexp(t, `(?m)^~ letter  changed, was named report$`, r.out)
	require.Equal(t, []string{"cleanup", "letter"}, names(t, db))
	require.Equal(t, id, one[int64](t, db, `select id from pgtick.schedules where name = 'letter'`))
	require.Equal(t, []string{"run_now"}, all[string](t, db, `select fate from pgtick.slots where schedule = 'letter'`))
	require.Contains(t, well(t, db, "apply", path, "--prune").talk, "2 unchanged; nothing to change")

	do(t, db, `select pgtick.schedule('report', '@daily', 'x')`)
	r = well(t, db, "apply", path)
	require.Contains(t, r.talk, `both "report" and "letter" exist: neither is renamed`)
	require.Equal(t, []string{"cleanup", "letter", "report"}, names(t, db))
}

func TestApply_LeavesAPauseAlone(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	well(t, db, "apply", file(t, "s.yaml", twoYAML))
	do(t, db, `select pgtick.pause_schedule('report', '2026-12-05 00:00+00')`)
	r := well(t, db, "apply", file(t, "s.yaml", twoYAML))
	require.Contains(t, r.talk, "nothing to change")
	well(t, db, "apply", file(t, "s.yaml", strings.Replace(twoYAML, "team", "all", 1)))
	require.Equal(t, "2026-12-05 00:00:00+00 all", one[string](t, db, `select (paused_until at time zone 'UTC')::text || '+00 ' || (args ->> 'to') from pgtick.schedules where name = 'report'`))
}

// A zone that the server has lost can't be counted with; the file that puts it right must work all the same.
func TestApply_RepairsABrokenSchedule(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	well(t, db, "apply", file(t, "s.yaml", twoYAML))
	do(t, db, `update pgtick.schedule_defs set time_zone = 'Nowhere/City' where name = 'report'`)
	pgtest.Advance(t, db, 2*time.Hour)
	do(t, db, `select pgtick.tick()`)
	require.Equal(t, 1, one[int](t, db, `select count(*) from pgtick.schedules where broken_at is not null`))
	r := well(t, db, "apply", file(t, "s.yaml", twoYAML))
	require.Regexp(t, `(?m)^    time_zone +Nowhere/City → Europe/Berlin$`, r.out)
	require.Zero(t, one[int](t, db, `select count(*) from pgtick.schedules where broken_at is not null`))
}

// Files that name the same schedules in another order would lock them crosswise.
func TestApply_ManyAtOnce_AllEndWell(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	var there, back strings.Builder
	const n = 40
	for i := range n {
		fmt.Fprintf(&there, "- {name: s%d, cron: '@daily', task: there}\n", i)
		fmt.Fprintf(&back, "- {name: s%d, cron: '@hourly', task: back}\n", n-1-i)
	}
	files := []string{file(t, "there.yaml", "schedules:\n"+there.String()), file(t, "back.yaml", "schedules:\n"+back.String())}
	well(t, db, "apply", files[0])
	ended := make(chan result)
	for i := range 6 {
		go func() { ended <- call{}.schedules(t, db, "apply", files[i%2]) }()
	}
	for range 6 {
		r := <-ended
		require.Zero(t, r.code, r.talk)
	}
	require.Equal(t, 1, one[int](t, db, `select count(distinct task) from pgtick.schedules`), "one file's, or the other's")
}
