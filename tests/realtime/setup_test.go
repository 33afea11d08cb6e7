package realtime

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/tests/pgtest"
)

const triggers = `select count(*) from pg_trigger as t where t.tgname like 'announce%' and t.tgparentid = 0`

func TestRealtime_ThatIsNotThere_ChangesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	require.Zero(t, one[int](t, db.Pool, triggers))
	require.Empty(t, life(t, db))
	require.Regexp(t, `^off: there is no realtime\.send that \w+ may call$`, one[string](t, db.Pool, `select pgtick.realtime_state()`))
}

func TestRealtime_ThatComesLater_IsFoundByMigrate_AndMissedWhenItGoes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	do(t, db.Pool, rolesOnly)
	db.Migrate(t)
	require.True(t, db.Migrate(t).Empty())

	do(t, db.Pool, realtimeSchema)
	const others = `create function public.mine() returns trigger language plpgsql as $$ begin return null; end $$;
		create table public.mine (); create trigger announce_added after insert on public.mine for each row execute function public.mine();
		create trigger mine after insert on pgtick.live_jobs for each row execute function public.mine()`
	do(t, db.Pool, others)
	require.Equal(t, "off: run pgtick migrate, realtime.send came after it", one[string](t, db.Pool, `select pgtick.realtime_state()`), "of the user's own triggers, whatever their names and tables, it is none")
	do(t, db.Pool, `drop function public.mine() cascade`)
	life(t, db)
	require.True(t, db.Migrate(t).SQL)
	require.True(t, db.Migrate(t).Empty())
	forget(t, db)
	life(t, db)
	require.Len(t, messages(t, db), 4)

	do(t, db.Pool, `drop schema realtime cascade`)
	life(t, db)
	require.True(t, db.Migrate(t).SQL)
	require.Zero(t, one[int](t, db.Pool, triggers))
	life(t, db)
}

// As on a hosted project: the owner is no superuser, and realtime belongs to another role.
func TestRealtime_ThatTheOwnerMayNotCall_IsLeftAlone_UntilItMay(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	do(t, db.Pool, realtimeSchema)
	do(t, db.Pool, `revoke execute on function realtime.send(jsonb, text, text, boolean) from public`)
	owner := "owner_" + db.Name
	do(t, db.Pool, `create role `+owner+` login createrole bypassrls password 'secret'`)
	t.Cleanup(func() {
		_, err := db.Pool.Exec(context.Background(), `alter database `+db.Name+` owner to current_user; drop owned by `+owner+` cascade; drop role `+owner)
		require.NoError(t, err)
	})
	do(t, db.Pool, `alter database `+db.Name+` owner to `+owner)
	cfg := db.Config(t)
	cfg.User, cfg.Password = owner, "secret"
	migrate := func() {
		t.Helper()
		_, err := migrations.Up(t.Context(), cfg, migrations.Options{})
		require.NoError(t, err)
	}
	lacks := func(says string) {
		t.Helper()
		migrate()
		require.Equal(t, says, one[string](t, db.Pool, `select pgtick.realtime_state()`))
		life(t, db)
		require.Empty(t, messages(t, db))
	}
	nothing := "off: there is no realtime.send that " + owner + " may call"
	lacks(nothing) // not even the schema
	do(t, db.Pool, `grant usage on schema realtime to `+owner)
	lacks(nothing)
	do(t, db.Pool, `grant execute on function realtime.send(jsonb, text, text, boolean) to `+owner)
	require.Equal(t, "off: run pgtick migrate, realtime.send came after it", one[string](t, db.Pool, `select pgtick.realtime_state()`))
	lacks("off: " + owner + " may not insert into realtime.messages")
	do(t, db.Pool, `grant insert on realtime.messages to `+owner)
	life(t, db)
	require.Len(t, messages(t, db), 4)

	forget(t, db)
	do(t, db.Pool, `alter role `+owner+` nobypassrls`)
	lacks("on, where a policy of realtime.messages lets " + owner + " insert")
	do(t, db.Pool, `create policy pgtick on realtime.messages for insert to `+owner+` with check (true)`)
	life(t, db)
	require.Len(t, messages(t, db), 4)
}

// A day's partition of the history is made, filled and attached long after the triggers.
func TestRealtime_TellsOfEnds_InPartitionsThatCameLater(t *testing.T) {
	t.Parallel()
	db := project(t)
	do(t, db.Pool, `select pgtick.set_retention('echo', 'done', '20 days')`)
	enqueue(t, db.Pool, ann)
	finish(t, db.Pool, claim(t, db), "done")
	require.Equal(t, "pgtick.history_default", one[string](t, db.Pool, `select tableoid::regclass::text from pgtick.history`))
	require.Equal(t, []string{"ready", "running", "done"}, states(t, db))
	do(t, db.Pool, `select pgtick.maintain()`)
	require.NotEqual(t, "pgtick.history_default", one[string](t, db.Pool, `select tableoid::regclass::text from pgtick.history`))
	require.Len(t, messages(t, db), 3, "what moves has not ended again")
	enqueue(t, db.Pool, ann)
	finish(t, db.Pool, claim(t, db), "done")
	require.Equal(t, []string{"ready", "running", "done", "ready", "running", "done"}, states(t, db))
}

// shown is the block of a page that holds some text, for what a page shows but cannot run where there is no Realtime.
func shown(t *testing.T, page, holds string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", page))
	require.NoError(t, err)
	for i, block := range strings.Split(string(text), "```") {
		if _, code, _ := strings.Cut(block, "\n"); i%2 == 1 && strings.Contains(code, holds) {
			return code
		}
	}
	require.Fail(t, page+" has no block with "+holds)
	return ""
}

// joins says whether Realtime lets this user read, or write, a topic.
func joins(t *testing.T, db *pgtest.DB, role, user, topic string) (reads, writes bool) {
	t.Helper()
	reads, err := mayRead(t.Context(), db, claims{Role: role, Sub: user}, topic)
	require.NoError(t, err)
	tx := as(t, db, role, user)
	defer func() { _ = tx.Rollback(context.Background()) }()
	do(t, tx, `select set_config('realtime.topic', $1, true)`, topic)
	_, err = tx.Exec(t.Context(), `insert into realtime.messages (topic, extension) values ($1, 'broadcast')`, topic)
	var refused *pgconn.PgError
	if err != nil {
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "42501", refused.Code)
	}
	return reads, err == nil
}

func TestPolicy_OfThePage_LetsTheOwnerListen_AndNobodyElse(t *testing.T) {
	t.Parallel()
	db := project(t)
	reads, writes := joins(t, db, "authenticated", ann, "pgtick:"+ann)
	require.False(t, reads || writes, "before there is a policy")
	do(t, db.Pool, shown(t, "docs/realtime.md", "create policy"))
	for _, row := range []struct {
		role, user, topic string
		reads             bool
	}{
		{"authenticated", ann, "pgtick:" + ann, true},
		{"authenticated", bob, "pgtick:" + ann, false},
		{"authenticated", ann, "pgtick:" + bob, false},
		{"authenticated", ann, "pgtick:", false},
		{"authenticated", ann, "room:1", false},
		{"anon", ann, "pgtick:" + ann, false},
	} {
		reads, writes := joins(t, db, row.role, row.user, row.topic)
		require.Equal(t, row.reads, reads, "%+v", row)
		require.False(t, writes, "%+v", row)
	}

	// What lies in the table can be read by its owner alone, too.
	enqueue(t, db.Pool, ann)
	for user, want := range map[string]int{ann: 1, bob: 0} {
		tx := as(t, db, "authenticated", user)
		do(t, tx, `select set_config('realtime.topic', $1, true)`, "pgtick:"+user)
		require.Equal(t, want, one[int](t, tx, `select count(*) from realtime.messages`))
	}
}
