package realtime

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestJobsWithoutOwner_CallNoFunctionOfRealtime(t *testing.T) {
	t.Parallel()
	db := project(t)
	calls := func(owner string) int {
		t.Helper()
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(context.Background()) }()
		do(t, tx, `set local track_functions = 'all'`)
		enqueue(t, tx, owner)
		do(t, tx, `select pgtick.enqueue_many('echo', array_agg('{}'::jsonb), p_owner_id => nullif($1, '')::uuid) from generate_series(1, 9)`, owner)
		runner := one[int64](t, tx, `select pgtick.register('r', '{default}', '{echo}')`)
		do(t, tx, `create temp table held on commit drop as select * from pgtick.claim($1, '{default}', '{echo}', 10)`, runner)
		do(t, tx, `select pgtick.progress(h.id, h.fence, 0.5) from held as h`)
		do(t, tx, `select pgtick.finish($1, array_agg(h.id), array_agg(h.fence), array_agg(case when h.id % 2 = 0 then 'done' else 'error' end)) from held as h`, runner)
		return one[int](t, tx, `select coalesce(sum(f.calls), 0)::int from pg_stat_xact_user_functions as f
			where f.funcname ~ '^(announce|realtime|next_message|tell_owner|job_message)' or f.schemaname = 'realtime'`)
	}
	require.Zero(t, calls(""))
	require.Greater(t, calls(ann), 10)
}

// What a job costs in processor time of the server's process, so that other load on the machine matters little. It judges nothing: PGTICK_PROOF=full
// prints the figures of docs/realtime.md.
func TestCost_OfAJob_WithAndWithoutRealtime(t *testing.T) {
	if os.Getenv("PGTICK_PROOF") != "full" {
		t.Skip("a measurement: PGTICK_PROOF=full go test -v -run Cost ./tests/realtime/")
	}
	const rounds, jobs = 9, 5000
	db := project(t)
	conn, err := pgx.ConnectConfig(t.Context(), db.Config(t))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	const drop = `drop trigger if exists announce_added on pgtick.live_jobs; drop trigger if exists announce_moved on pgtick.live_jobs; drop trigger if exists announce_ended on pgtick.history`
	kinds := []struct{ name, setUp, owner string }{
		{"no owner, no Realtime", drop, "null"},
		{"no owner, Realtime", `select pgtick.place_realtime()`, "null"},
		{"an owner, no Realtime", drop, "gen_random_uuid()"},
		{"an owner, Realtime", `select pgtick.place_realtime()`, "gen_random_uuid()"},
	}
	steps := []struct{ name, sql string }{
		{"enqueue", `do $$ begin for i in 1 .. %[1]d loop perform pgtick.enqueue('echo', p_owner_id => %[2]s); commit; end loop; end $$`},
		{"claim, 100 at a time", `do $$ declare r constant bigint := pgtick.register('r', '{default}', '{echo}', '1 hour'); begin
			commit; for i in 1 .. %[1]d / 100 loop perform pgtick.claim(r, '{default}', '{echo}', 100); commit; end loop; end $$`},
		{"finish, 100 at a time", `do $$ declare last bigint := 0; ids bigint[]; fences bigint[]; r bigint; begin for i in 1 .. %[1]d / 100 loop
			select array_agg(j.id), array_agg(j.fence), max(j.id), max(j.runner_id) into ids, fences, last, r
			from (select * from pgtick.live_jobs as l where l.id > last and l.runner_id is not null order by l.id limit 100) as j;
			perform pgtick.finish(r, ids, fences, array_fill('done'::text, array[100])); commit; end loop; end $$`},
	}
	took := map[string][]float64{}
	for round := range rounds {
		for i := range kinds {
			kind := kinds[(i+round)%len(kinds)]
			do(t, conn, `truncate pgtick.live_jobs, pgtick.history, pgtick.job_notes, realtime.messages`)
			do(t, conn, kind.setUp)
			for _, step := range steps {
				before := processorTime(t, conn)
				do(t, conn, fmt.Sprintf(step.sql, jobs, kind.owner))
				name := step.name + ", " + kind.name
				took[name] = append(took[name], float64(processorTime(t, conn)-before)/1000/jobs)
			}
			require.Equal(t, jobs, one[int](t, conn, `select count(*) from pgtick.history where state = 'done'`))
		}
	}
	for _, step := range steps {
		for _, kind := range kinds {
			all := took[step.name+", "+kind.name]
			slices.Sort(all)
			t.Logf("%-22s %-22s %6.1f µs a job (%.1f to %.1f, %d rounds)", step.name, kind.name, all[len(all)/2], all[0], all[len(all)-1], len(all))
		}
	}
}

// processorTime is what the server's process of a connection has used, in nanoseconds.
func processorTime(t *testing.T, conn *pgx.Conn) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", conn.PgConn().PID()))
	if err != nil {
		t.Skip(err)
	}
	n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
	require.NoError(t, err)
	return n
}
