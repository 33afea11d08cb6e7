package schedulescli

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// strip is what a chart draws for a schedule.
func strip(t *testing.T, out, name string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` +(\S+)$`).FindStringSubmatch(out)
	require.NotNil(t, found, "%s in\n%s", name, out)
	return found[1]
}

func TestForecast_MarksEverySlot_AndNamesTheBusiestMinute(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, `select pgtick.schedule('hourly', '0 * * * *', 'test.noop')`)
	do(t, db, `select pgtick.schedule('minutely', '* * * * *', 'test.noop')`)
	do(t, db, `select pgtick.schedule('evening', '0 20 * * *', 'test.noop')`)
	do(t, db, `select pgtick.schedule('held', '0 18 * * *', 'test.noop')`)
	do(t, db, `select pgtick.pause_schedule('held')`)
	do(t, db, `select pgtick.schedule('far', '0 0 25 12 *', 'test.noop')`)

	out := well(t, db, "forecast").out
	fits(t, 100, out)
	require.Contains(t, out, "from 2026-12-01 12:00 to 2026-12-02 12:00 UTC")
	hourly := strip(t, out, "hourly")
	require.Equal(t, 24, strings.Count(hourly, "|"), hourly)
	require.Equal(t, strings.Repeat("#", len([]rune(hourly))), strip(t, out, "minutely"))
	evening := []rune(strip(t, out, "evening"))
	require.Equal(t, 1, strings.Count(string(evening), "|"))
	require.Equal(t, len(evening)*8/24, strings.IndexRune(strings.ReplaceAll(string(evening), "·", "."), '|'), "8 of 24 hours from now")
	require.Equal(t, "p", strings.Trim(strip(t, out, "held"), "·"))
	require.NotContains(t, out, "\nfar ")
	require.Contains(t, out, "busiest minute 2026-12-01 20:00 UTC: 3 jobs start")
	require.Regexp(t, `(?m)^load .*█`, out)
	require.Regexp(t, `(?m)^ +.*15:00 .*21:00 .*12-02 .*09:00$`, out)

	rows := objects(t, well(t, db, "forecast", "--until", "90m", "--json").out)
	require.Len(t, rows, 91, "90 of every minute, one of the hour")
	require.Equal(t, "2026-12-01T12:01:00+00:00", rows[0]["slot"])
	require.Equal(t, all[string](t, db, `select unnest(proargnames[2:]) from pg_proc where oid = 'pgtick.forecast'::regproc`),
		keys(t, strings.SplitN(well(t, db, "forecast", "--until", "2m", "--json").out, "\n", 2)[0]))
	fits(t, 60, call{env: []string{"COLUMNS=60"}}.schedules(t, db, "forecast", "--until", "30d").out)
}

func TestForecast_TellsOverlapsAndSkippedSlotsApart_WithoutColours(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, `select pgtick.schedule('skips', '0 * * * *', 'long.one', p_timeout => '3 hours')`)
	do(t, db, `select pgtick.schedule('beside', '0 * * * *', 'long.two', p_timeout => '3 hours', p_on_overlap => 'allow')`)
	for range 5 { // each run takes 90 minutes
		for _, name := range []string{"skips", "beside"} {
			do(t, db, `select pgtick.run_now($1)`, name)
		}
		one, two := pgtest.Claim(t, db, "a", time.Hour, "long.one"), pgtest.Claim(t, db, "b", time.Hour, "long.two")
		for range 2 {
			pgtest.Advance(t, db, 45*time.Minute)
			do(t, db, `select pgtick.heartbeat(r) from unnest($1::bigint[]) as r`, []int64{one.RunnerID, two.RunnerID})
		}
		for _, c := range []pgtest.Claimed{one, two} {
			do(t, db, `select pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}')`, c.RunnerID, c.ID, c.Fence)
		}
	}
	do(t, db, `call pgtick.run_ticks()`)
	do(t, db, `select pgtick.cancel(id) from pgtick.jobs where state = 'ready'`)
	out := well(t, db, "forecast", "--until", "12h").out
	skips, beside := strip(t, out, "skips"), strip(t, out, "beside")
	require.Equal(t, 6, strings.Count(skips, "x"), out)
	require.Equal(t, 6, strings.Count(skips, "|"), out)
	require.GreaterOrEqual(t, strings.Count(beside, "!"), 11, out)
	require.NotContains(t, beside, "x")
	require.Contains(t, out, "! overlaps an earlier run")
	require.Contains(t, out, "x skipped: an earlier run is still live")
}

func TestForecast_WithoutAnySlot_SaysSo(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	r := well(t, db, "forecast", "--until", "1h")
	require.Empty(t, r.out)
	require.Equal(t, "no schedule has a slot until 2026-12-01 13:00 UTC\n", r.talk)
	require.Empty(t, well(t, db, "list").out)
}
