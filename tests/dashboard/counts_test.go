package dashboard_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// runner is the id of a new one.
func runner(t testing.TB, db *pgtest.DB) int64 {
	t.Helper()
	return ask[int64](t, db, `select pgtick.register('counting', '{default}', '{}', '1 hour')`)
}

// Charts are pictures, and the same numbers stand in a table. They are those of all runners, though this dashboard has none beside it, and stay when
// the runners have gone.
func TestCharts_ShowWhatAllRunnersDid_WithTheirNumbersAsATable(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.DB.SetNow(t, time.Date(2026, 11, 26, 10, 31, 20, 0, time.UTC))
	_, body := d.get(t, "/")
	require.Contains(t, words(body), "No attempt has ended in this time.")
	first, second := new(web.Tally), new(web.Tally)
	for range 19 {
		first.Finished("done", 10*time.Millisecond, 200*time.Millisecond)
	}
	second.Finished("error", 10*time.Millisecond, 8*time.Second)
	for _, tally := range []*web.Tally{first, second} {
		require.NoError(t, tally.Tell(t.Context(), d.DB.Pool, runner(t, d.DB)))
	}
	run(t, d.DB, `select pgtick.leave(id) from pgtick.runner_leases`)
	d = openOn(t, d.DB)
	_, body = d.get(t, "/")
	require.Regexp(t, `time done to be tried again failed 2026-11-26 10:31:00 UTC 19 1 0 2026-11-26 10:30:00 UTC 0 0 0`, words(body))
	require.Regexp(t, `10:31:00 UTC (9|10|11) ms (9|10|11) ms 2026`, words(body), "an eighth off at most: how long they waited")
	require.Regexp(t, `10:31:00 UTC (17[6-9]|1[89]\d|2[01]\d|22[0-5]) ms (17[6-9]|1[89]\d|2[01]\d|22[0-5]) ms 2026`, words(body), "and ran, 19 of 20")
	d.DB.Advance(t, 2*time.Hour)
	for address, want := range map[string]string{"/?span=day": "2026-11-26 10:30:00 UTC 19 1 0", "/?span=week": "2026-11-26 10:00:00 UTC 19 1 0"} {
		_, body = d.get(t, address)
		require.Contains(t, words(body), want, address)
	}
	_, body = openOn(t, d.DB).get(t, "/?span=hour")
	require.Contains(t, words(body), "No attempt has ended in this time.")
	status, body := d.get(t, "/?span=year")
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, words(body), "is none of hour, day, week")
	b := d.browse(t)
	b.visit("/?span=week")
	b.until(`document.querySelectorAll('.chart canvas').length === 3`)
	b.axe()
	b.click(`.chips a[href="/?span=day#lately"]`)
	b.until(`location.search === '?span=day' && document.querySelectorAll('.chart canvas').length === 3`)
}

// lossy is a database whose answers are lost, or that is not reached at all.
type lossy struct {
	jobs.DB
	asked, lost, away int
}

// Exec implements jobs.DB.
func (l *lossy) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	l.asked++
	if l.away > 0 {
		l.away--
		return pgconn.CommandTag{}, errors.New("not reached")
	}
	tag, err := l.DB.Exec(ctx, sql, args...)
	if l.lost > 0 {
		l.lost--
		return tag, errors.New("the answer was lost")
	}
	return tag, err
}

const countedDone = `select coalesce(sum(c.done), 0)::bigint from pgtick.attempt_counts as c where c.span = interval '1 minute'`

func TestTally_TellsEachAttemptOnce_WhateverIsLost_AndNothingWhereNothingEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	id, to, tally := runner(t, db), &lossy{DB: db.Pool}, new(web.Tally)
	require.NoError(t, tally.Tell(t.Context(), to, id))
	require.Zero(t, to.asked, "an idle runner asks nothing")
	tally.Finished("done", 0, time.Millisecond)
	require.NoError(t, tally.Tell(t.Context(), to, 0), "not registered yet: it waits")
	require.Zero(t, to.asked)
	to.lost = 2
	require.Error(t, tally.Tell(t.Context(), to, id))
	tally.Finished("done", 0, time.Millisecond) // it ended after the report was made, so it is in the next one
	require.Error(t, tally.Tell(t.Context(), to, id+1), "still in the first one's name")
	require.Equal(t, int64(1), ask[int64](t, db, countedDone))
	to.away = 1
	require.Error(t, tally.Tell(t.Context(), to, id))
	require.NoError(t, tally.Tell(t.Context(), to, id))
	require.Equal(t, int64(2), ask[int64](t, db, countedDone))
	tally.Finished("failed", 0, time.Second)
	run(t, db, `delete from pgtick.runner_leases`)
	require.NoError(t, tally.Tell(t.Context(), to, id), "nobody knows it any more: that does not pass, so it is given up")
	asked := to.asked
	require.NoError(t, tally.Tell(t.Context(), to, runner(t, db)))
	require.Equal(t, asked, to.asked)
}

// All runners add to the same rows.
func TestCounts_OfManyRunnersAtOnce_AreExact(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	var all sync.WaitGroup
	for range 6 {
		id := runner(t, db)
		all.Go(func() {
			tally := new(web.Tally)
			for i := range 10 {
				for range 1 + i {
					tally.Finished("done", time.Duration(i)*time.Millisecond, time.Second)
				}
				for try := 0; tally.Tell(context.Background(), db.Pool, id) != nil && try < 100; try++ {
					continue // it waited for the others for too long
				}
			}
		})
	}
	all.Wait()
	for _, span := range []string{"1 minute", "15 minutes", "2 hours"} {
		require.Equal(t, "330 330 330", ask[string](t, db, `select concat_ws(' ', sum(c.done), sum((select sum(n) from unnest(c.waited) as n)), sum((select sum(n) from unnest(c.ran) as n)))
			from pgtick.attempt_counts as c where c.span = $1::text::interval`, span), span)
	}
}

func TestCounts_OfWrongValues_AreRefused_WithTheField(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := runner(t, db)
	for arguments, field := range map[string]string{
		"0, 1":                         "report",
		"null, 1":                      "report",
		"1, -1":                        "done",
		"1, null":                      "done",
		"1, 1, -1":                     "errors",
		"1, 1, null":                   "errors",
		"1, 1, 0, null":                "failed",
		"1, 1, 0, -1":                  "failed",
		"1, 1, p_ago => null":          "ago",
		"1, 1, p_waited => '{2}'":      "waited",
		"1, 1, p_waited => '{1,null}'": "waited",
		"1, 0, p_ran => '{1,-1}'":      "ran",
		"1, 1, p_ran => '{{1}}'":       "ran",
		"1, 83, p_ran => array_fill(1, array[83])": "ran",
		"1, 1, p_ago => '-1 second'":               "ago",
		"1, 1, p_ago => '61 minutes'":              "ago",
	} {
		_, err := db.Pool.Exec(t.Context(), `select pgtick.count_attempts(`+"$1::bigint, "+arguments+`)`, id)
		pg := new(pgconn.PgError)
		require.ErrorAs(t, err, &pg, arguments)
		require.Equal(t, "TK000", pg.Code, "%s: %s", arguments, pg.Message)
		require.True(t, strings.HasPrefix(pg.Message, field+" "), "%s: %s", arguments, pg.Message)
		require.NotEmpty(t, pg.Hint)
	}
	_, err := db.Pool.Exec(t.Context(), `select pgtick.count_attempts(4711, 1, 1)`)
	require.ErrorContains(t, err, "TK002")
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.attempt_counts`))
	require.True(t, ask[bool](t, db, `select pgtick.count_attempts($1, 2, 1, p_ago => '10 minutes')`, id))
	require.False(t, ask[bool](t, db, `select pgtick.count_attempts($1, 1, 1)`, id), "an older report that comes late")
	require.Equal(t, int64(1), ask[int64](t, db, countedDone+` and c.at between pgtick.now() - interval '11 minutes' and pgtick.now() - interval '10 minutes'`))
}

// Two hours of a large fleet may count more than fits: the reports of the others must go on.
func TestCounts_ThatAreMoreThanANumberHolds_StopThere_AndRefuseNobody(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for range 2 {
		require.True(t, ask[bool](t, db, `select pgtick.count_attempts($1, 1, 2147483647, p_waited => '{2147483647}', p_ran => '{0,2147483647}')`, runner(t, db)))
	}
	require.Equal(t, "4294967294 {2147483647} {0,2147483647}", ask[string](t, db, `select concat_ws(' ', done, waited, ran) from pgtick.attempt_counts where span = '2 hours'`))
}

// What no chart shows goes: the table stays as small as it is.
func TestCounts_ThatNoChartShows_AreDroppedByUpkeep(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := runner(t, db)
	run(t, db, `select pgtick.count_attempts($1, 1, 1)`, id)
	left := func() []string {
		run(t, db, `select pgtick.maintain()`)
		require.Empty(t, ask[string](t, db, `select coalesce(u.problem, '') from pgtick.upkeep as u where u.what = 'maintain'`))
		rows, err := db.Pool.Query(t.Context(), `select c.span::text from pgtick.attempt_counts as c order by c.span`)
		require.NoError(t, err)
		spans, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return spans
	}
	require.Equal(t, []string{"00:01:00", "00:15:00", "02:00:00"}, left())
	db.Advance(t, 4*time.Hour)
	require.Equal(t, []string{"00:15:00", "02:00:00"}, left())
	db.Advance(t, 48*time.Hour)
	require.Equal(t, []string{"02:00:00"}, left())
	db.Advance(t, 15*24*time.Hour)
	require.Empty(t, left())
}
