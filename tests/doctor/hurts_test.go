package doctor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// earlier is a database with the schema of an earlier release.
func earlier(t *testing.T) *patient {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "install", "testdata", "schema-7.sql"))
	require.NoError(t, err)
	p := &patient{db: pgtest.NewEmpty(t), env: map[string]string{}}
	p.run(t, "", string(text))
	return p
}

// intoTheDefault ends a job whose day has no partition, three hours ago.
func intoTheDefault(t *testing.T, p *patient) {
	t.Helper()
	id := pgtest.AddJob(t, p.db, "echo")
	c := pgtest.Claim(t, p.db, "hand", time.Hour)
	require.Equal(t, id, c.ID)
	do(t, p.db, `do $$ begin execute 'drop table pgtick.history_' || to_char(now() at time zone 'UTC' + interval '7 days', 'YYYYMMDD'); end $$`)
	do(t, p.db, `select pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}')`, c.RunnerID, c.ID, c.Fence)
	do(t, p.db, `update pgtick.history_default set finished_at = finished_at - interval '3 hours'`)
}

// notBuilt leaves an index behind that two rows have kept from being built.
func notBuilt(t *testing.T, p *patient) {
	t.Helper()
	do(t, p.db, `insert into pgtick.audit (at, by_whom, action, subject) values (now(), 'me', 'twice', 'a'), (now(), 'me', 'twice', 'b')`)
	_, err := p.db.Pool.Exec(t.Context(), `create unique index concurrently doctor_try on pgtick.audit (action)`)
	require.Error(t, err)
}

func builtAfterAll(t *testing.T, p *patient) {
	t.Helper()
	do(t, p.db, `delete from pgtick.audit where subject = 'b'`)
	remedy := sick(p.look(t, "indexes"))[0].Remedy
	p.follow(t, remedy, code(remedy)[0])
}

// wrongZones gives this program's machine other data on a zone than the server's.
func wrongZones(t *testing.T, p *patient) {
	t.Helper()
	tokyo, err := os.ReadFile("/usr/share/zoneinfo/Asia/Tokyo")
	if err != nil {
		t.Skip("this machine has no time zone data to take a wrong one from: ", err)
	}
	folder := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "Europe"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "Europe", "Berlin"), tokyo, 0o644))
	p.env["ZONEINFO"] = folder
}

func withZone(t *testing.T) *patient {
	t.Helper()
	p := whole(t, pgtest.New(t))
	do(t, p.db, `select pgtick.schedule('zoned', '0 9 * * *', 'echo', p_time_zone => 'Europe/Berlin')`)
	return p
}

func withRedis(t *testing.T) *patient {
	t.Helper()
	p := whole(t, pgtest.New(t))
	p.redis = pgtest.Redis(t)
	p.env["REDIS_URL"] = p.redis.URL
	return p
}

// deadRows are made with autovacuum off, which might come by, and seen by the statistics at once.
func deadRows(t *testing.T, p *patient) {
	t.Helper()
	do(t, p.db, `alter table pgtick.job_notes set (autovacuum_enabled = false)`)
	p.run(t, "", `insert into pgtick.job_notes (job_id) select g from generate_series(1, 60000) as g; delete from pgtick.job_notes; select pg_stat_force_next_flush()`)
}

// bloated: the one row that is left lies at the end, so that vacuum gives nothing back.
func bloated(t *testing.T, p *patient) {
	t.Helper()
	p.run(t, "", `insert into pgtick.job_notes (job_id, note) select g, repeat('x', 900) from generate_series(1, 70000) as g; delete from pgtick.job_notes where job_id < 70000;
		select pg_stat_force_next_flush()`)
	do(t, p.db, `vacuum (analyze) pgtick.job_notes`)
}

// upgraded puts functions in force while a runner works.
func upgraded(t *testing.T, p *patient) {
	t.Helper()
	do(t, p.db, `select pgtick.register('veteran', '{default}', '{echo}', '1 hour', 'v0')`)
	migrated(t, p)
}

// migrated puts functions and views in force again.
func migrated(t *testing.T, p *patient) {
	t.Helper()
	do(t, p.db, `update pgtick.applied_sql set hash = 'another'`)
	require.True(t, p.db.Migrate(t).SQL)
}

// twiceLost lets two runners die with one job.
func twiceLost(t *testing.T, p *patient) {
	t.Helper()
	pgtest.AddJob(t, p.db, "echo")
	for _, runner := range []string{"first", "second"} {
		pgtest.Claim(t, p.db, runner, time.Second)
		p.db.Advance(t, 2*time.Second)
		pgtest.Expire(t, p.db)
	}
}
