package schedulescli

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const reports = `select pgtick.schedule('daily-report', '0 9 * * MON-FRI', 'test.noop', '{"to": "team"}', p_time_zone => 'Europe/Berlin')`

func TestList_TellsWhenEachRunsNext_ByTheClocksOfItsZone(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, reports)
	do(t, db, `select pgtick.schedule('ticker', '@every 90s', 'test.noop')`)
	do(t, db, `select pgtick.schedule('over', '0 13 * * *', 'test.noop', p_ends_at => '2026-12-01 13:00:00.000001+00')`)
	pgtest.SetNow(t, db, noon.Add(61*time.Minute))
	do(t, db, `select pgtick.tick()`)
	do(t, db, `select pgtick.pause_schedule('ticker', pgtick.now() + interval '1 hour')`)

	r := well(t, db, "list")
	lines := strings.Split(r.out, "\n")
	require.Regexp(t, `^NAME +CRON +NEXT RUN +LAST SLOT +OK +TAKES +STATE$`, lines[0])
	require.Regexp(t, `^daily-report +0 9 \* \* MON-FRI  Europe/Berlin  \S.*  2026-12-02 09:00  in 18h 59m +- +- +\S+ +active$`, lines[1])
	require.Regexp(t, `^over +0 13 \* \* \*  UTC .* - +1m ago  enqueued, ready +- +\S+ +ended$`, lines[2])
	require.Regexp(t, `^ticker +@every 90s  UTC .* 2026-12-01 13:01:30  in 30s .* paused  until 2026-12-01 14:01 UTC$`, lines[3])
	require.Contains(t, lines[1], one[string](t, db, `select pgtick.describe('0 9 * * MON-FRI')`))
	require.Empty(t, r.talk)
	require.NotContains(t, r.out, "\x1b", "no colours in a pipe")
}

func TestList_AsJSON_HasTheColumnsOfTheView(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, reports)
	r := well(t, db, "list", "--json")
	require.Equal(t, all[string](t, db, `select attname::text from pg_attribute where attrelid = 'pgtick.schedules'::regclass and attnum > 0 order by attnum`), keys(t, r.out))
	row := objects(t, r.out)[0]
	require.Equal(t, "2026-12-02T08:00:00+00:00", row["next_at"])
	require.Equal(t, "00:05:00", row["timeout"])
	require.Equal(t, map[string]any{"to": "team"}, row["args"])
}

func TestList_FitsTheTerminal_AndLeavesNothingOut(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	long := "a-name-without-a-blank-that-is-much-longer-than-its-column-could-be"
	wide := "夜間の集計レポートを作成して全員に送信する"
	for _, name := range []string{long, wide} {
		do(t, db, `select pgtick.schedule($1, '0 9 * * MON-FRI', 'test.noop', p_time_zone => 'America/Argentina/ComodRivadavia')`, name)
	}
	for _, width := range []string{"80", "120"} {
		r := call{env: []string{"COLUMNS=" + width}}.schedules(t, db, "list")
		require.Zero(t, r.code, r.talk)
		fits(t, map[string]int{"80": 80, "120": 120}[width], r.out)
		firstColumn := ""
		for line := range strings.Lines(r.out) {
			piece, _, _ := strings.Cut(strings.TrimRight(line, "\n"), "  ")
			firstColumn += piece
		}
		require.Contains(t, firstColumn, long)
		require.Contains(t, firstColumn, wide)
	}
	require.Contains(t, well(t, db, "list").out, long+"  ", "in a pipe nothing is wrapped")
}

// One schedule that is beyond help must not hide the others.
func TestList_WithAZoneThatTheServerHasLost_ShowsItInUTC(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, reports)
	do(t, db, `update pgtick.schedule_defs set time_zone = 'Nowhere/City'`)
	require.Contains(t, well(t, db, "list").out, "2026-12-02 08:00 UTC")
}

func TestShow_TellsAllOfOneSchedule(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, `select pgtick.schedule('report', '0 0 13 * FRI', 'test.noop')`)
	do(t, db, `select pgtick.schedule('report', '0 * 13 * FRI', 'test.noop', p_priority => 2)`)
	do(t, db, `select pgtick.run_now('report')`)
	do(t, db, `select pgtick.pause_schedule('report')`)

	r := well(t, db, "show", "report")
	require.Regexp(t, `(?m)^SCHEDULE +report$`, r.out)
	require.Regexp(t, `(?m)^priority +2$`, r.out)
	require.Regexp(t, `(?m)^next_at +2026-12-04 00:00 UTC \(in 2d 12h\)$`, r.out)
	require.NotRegexp(t, `(?m)^owner_id`, r.out, "null says nothing")
	require.Regexp(t, `(?m)^2026-12-01 12:00:\S* +run_now +\S+ +1 +asked for by postgres$|^2026-12-01 12:00 +run_now +\S+ +1 +asked for by postgres$`, r.out)
	require.Regexp(t, `(?m)^3 +paused +2026-12-01 12:00 +postgres +paused_at - → 2026-12-01 12:00 UTC`, r.out)
	require.Regexp(t, `(?m)^2 +changed +2026-12-01 12:00 +postgres +cron 0 0 13 \* FRI → 0 \* 13 \* FRI  priority 5 → 2`, r.out)
	require.Regexp(t, `(?s)\nWHY IT DOES NOT RUN .*paused`, r.out)
	warnings := all[string](t, db, `select warning from pgtick.lint_schedules('report')`)
	require.NotEmpty(t, warnings, "both day fields are set")
	for _, warning := range warnings {
		require.Contains(t, r.out, warning)
	}
	require.NotContains(t, well(t, db, "show", "report", "--slots", "0", "--versions", "1").out, "run_now  ")

	row := objects(t, well(t, db, "show", "report", "--json", "--versions", "2").out)[0]
	require.Equal(t, "report", row["name"])
	require.Len(t, row["versions"], 2)
	require.Equal(t, "run_now", row["slots"].([]any)[0].(map[string]any)["fate"])
	require.NotEmpty(t, row["why"])
	require.Len(t, row["warnings"], len(warnings))
}

// What somebody wrote into args must not move the cursor on an operator's terminal.
func TestShow_PrintsNothingThatTerminalsObey(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, `select pgtick.schedule('x', '@daily', 'test.noop', jsonb_build_object('a', U&'\009b31m \202E evil'))`)
	out := well(t, db, "show", "x").out
	require.Contains(t, out, "evil")
	require.NotContains(t, out, "\u009b")
	require.NotContains(t, out, "\u202e")
}

func TestUnknownSchedule_IsAnsweredWithTheNearest_AndExit1(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, reports)
	for _, args := range [][]string{{"show"}, {"lint"}, {"pause"}, {"resume"}, {"run"}, {"run", "--wait"}} {
		r := schedules(t, db, append(args, "daily-reprot")...)
		require.Equal(t, 1, r.code, args)
		require.Equal(t, "pgtick: no schedule is named \"daily-reprot\" (TK006)\n  hint: Did you mean \"daily-report\"?\n", r.talk, args)
		require.Empty(t, r.out)
	}
}

func TestUsage_IsRefusedWithExit2_InOneLine(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	rows := map[string]struct {
		args []string
		says string
	}{
		"mistyped command":       {[]string{"lst"}, "did you mean"},
		"mistyped command names": {[]string{"forcast"}, "did you mean forecast?"},
		"no name":                {[]string{"pause"}, "pgtick schedules pause --help"},
		"two names":              {[]string{"run", "a", "b"}, "pgtick schedules run --help"},
		"unknown flag":           {[]string{"list", "--colour"}, "unknown flag: --colour"},
		"slots":                  {[]string{"show", "a", "--slots", "-1"}, "--slots"},
		"until":                  {[]string{"pause", "a", "--until", "soon"}, `--until "soon" is no time`},
		"until in the past":      {[]string{"forecast", "--until", "2026-12-01"}, "is not later than now"},
		"from":                   {[]string{"preview", "@daily", "--from", "2026-02-30"}, `--from "2026-02-30" is no time`},
		"no such kind of file":   {[]string{"apply", "schedules.toml"}, "ends neither in .yaml, .yml nor .sql"},
		"stdin without format":   {[]string{"apply", "-"}, "give --format"},
		"format":                 {[]string{"apply", "-", "--format", "toml"}, `"toml" is neither yaml nor sql`},
		"exit code":              {[]string{"apply", "x.sql", "--exit-code"}, "goes with --dry-run"},
		"source of migrate":      {[]string{"apply", "x.sql", "--source", "migrate"}, "choose another name"},
		"empty source":           {[]string{"apply", "x.sql", "--source", ""}, "--source is empty"},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := schedules(t, db, row.args...)
			require.Equal(t, 2, r.code, r.talk)
			require.Contains(t, r.talk, row.says)
			require.Equal(t, 1, strings.Count(r.talk, "\n"), r.talk)
			require.Empty(t, r.out)
		})
	}
	require.Equal(t, 2, call{env: []string{"DATABASE_URL="}}.schedules(t, db, "list").code)
}

func TestHelp_OfEachCommand_HasAnExample(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	for _, verb := range []string{"list", "show", "lint", "preview", "forecast", "apply", "pause", "resume", "run"} {
		require.Contains(t, well(t, db, verb, "--help").out, "Examples:\n  pgtick schedules "+verb)
	}
}

func TestPreview_OverASpringNight_ShowsBothClocks(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	args := []string{"preview", "30 2 * * *", "--time-zone", "Europe/Berlin", "--from", "2027-03-27", "-n", "3"}
	r := well(t, db, args...)
	require.Contains(t, r.out, one[string](t, db, `select pgtick.describe('30 2 * * *')`)+"\n")
	for _, line := range []string{`^Europe/Berlin +UTC +IN$`, `^Sat 2027-03-27 02:30 +2027-03-27 01:30 +in 115d$`, `^Sun 2027-03-28 03:00 +2027-03-28 01:00 `, `^Mon 2027-03-29 02:30 +2027-03-29 00:30 `} {
		require.Regexp(t, "(?m)"+line, r.out)
	}
	require.Contains(t, r.talk, "warning: ", "the zone skips this time once a year")
	rows := objects(t, well(t, db, append(args, "--json")...).out)
	require.Len(t, rows, 3)
	require.Equal(t, "2027-03-28T01:00:00Z", rows[1]["slot"])
	require.Equal(t, "Sun 2027-03-28 03:00:00", rows[1]["local"])
}

func TestPreview_OfNonsense_SaysWhatIsMeant_WithExit1(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	r := schedules(t, db, "preview", "60 * * * *")
	require.Equal(t, 1, r.code)
	require.Regexp(t, `^pgtick: cron "60 \* \* \* \*": minute field "60" .*\(TK012\)\n  detail: Minutes go from 0 to 59\.\n  hint: .*minute 0\.\n$`, r.talk)
	require.Empty(t, r.out)
	r = schedules(t, db, "preview", "@daily", "--time-zone", "CET")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "TK018")
}

func TestLint_PrintsWarningsAsTheDatabaseDoes(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, reports)
	r := well(t, db, "lint")
	require.Empty(t, r.out)
	require.Equal(t, "no warnings\n", r.talk)
	do(t, db, `select pgtick.schedule('odd', '0 0 13 * FRI', 'test.noop')`)
	want := all[string](t, db, `select warning from pgtick.lint_schedules()`)
	require.NotEmpty(t, want)
	for _, args := range [][]string{{"lint"}, {"lint", "odd"}} {
		require.Contains(t, well(t, db, args...).out, want[0])
		require.Equal(t, want[0], objects(t, well(t, db, append(args, "--json")...).out)[0]["warning"])
	}
	require.Empty(t, well(t, db, "lint", "daily-report").out)
}
