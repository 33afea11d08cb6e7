// Package creditssync tests how entries of the ledger reach the targets of the sync: real databases, a REST endpoint before a real table,
// and the built runner, which is killed.
package creditssync

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/credits"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// binary is pgtick as "make build" makes it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-creditssync-")
	if err != nil {
		panic(err)
	}
	if binary, err = programs.Build(dir, programs.Pgtick); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(dir)
}

func do(t testing.TB, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(context.Background(), sql, args...)
	require.NoError(t, err, sql)
}

func one[V any](t testing.TB, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(context.Background(), sql, args...).Scan(&value), sql)
	return value
}

func all[V any](t testing.TB, db *pgtest.DB, sql string, args ...any) []V {
	t.Helper()
	rows, err := db.Pool.Query(context.Background(), sql, args...)
	require.NoError(t, err, sql)
	values, err := pgx.CollectRows(rows, pgx.RowTo[V])
	require.NoError(t, err, sql)
	return values
}

// ledger is a database with so many users, of whom each has four completed entries: 100 added, 7 taken, 10 held and 4 of them captured;
// and one that is pending.
func ledger(t testing.TB, users int) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	do(t, db, `do $$ declare u uuid; i int; begin
		for i in 1 .. `+fmt.Sprint(users)+` loop
			u := ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid;
			perform credits.open_account(u);
			perform credits.grant(u, 100, 'g', 'never handed over');
			perform credits.charge(u, 7, 'c', case when i % 2 = 0 then '/v1/"chat"' end);
			perform credits.capture(credits.hold(u, 10, '1 hour', 'h'), 4);
			perform credits.submit(u, 'addition', 5, 'p');
		end loop;
	end $$`)
	return db
}

const (
	completed = `select count(*) from credits.transactions where status = 'COMPLETED'`
	unsynced  = `select count(*) from credits.transactions where status = 'COMPLETED' and not synced_to_supabase`
	setAside  = `select count(*) from credits.sync_refusals where retried_at is null`
)

// usage is a target's table, as the page of the docs makes it, in a database of its own.
func usage(t testing.TB) *pgtest.DB {
	t.Helper()
	db := pgtest.NewEmpty(t)
	do(t, db, tableOfDocs(t))
	return db
}

func tableOfDocs(t testing.TB) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "credits-sync.md"))
	require.NoError(t, err)
	_, after, found := strings.Cut(string(page), "```sql\ncreate schema")
	require.True(t, found)
	sql, _, found := strings.Cut(after, "```")
	require.True(t, found)
	return "create schema" + sql
}

// requireSame says that the target has what the ledger has marked, each once and with the same values, and that all is marked but for
// those of these ids.
func requireSame(t testing.TB, l, target *pgtest.DB, but ...int64) {
	t.Helper()
	const values = `format('%s %s %s %s %s %s %s %s %s %s', `
	ours := all[string](t, l, `select `+values+`t.id, t.user_id, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, t.period,
		extract(epoch from t.created_at), extract(epoch from t.final_at)) from credits.transactions as t where t.synced_to_supabase order by t.id`)
	theirs := all[string](t, target, `select `+values+`u.transaction_id, u.user_id, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint, u.period,
		extract(epoch from u.created_at), extract(epoch from u.completed_at)) from analytics.credit_usage as u order by u.transaction_id`)
	require.Equal(t, ours, theirs)
	left := all[int64](t, l, `select id from credits.transactions where status = 'COMPLETED' and not synced_to_supabase order by id`)
	if len(but) == 0 {
		require.Empty(t, left)
		return
	}
	require.Equal(t, but, left)
}

// host runs an attempt of the sync in this process, on a test's database. What the sync has no use for is not there.
type host struct {
	tasks.Host
	db *pgtest.DB
	// atCommit is asked before each commit; an error is what the engine says when the claim is gone.
	atCommit   func(n int) error
	commits    int
	checkpoint json.RawMessage
	note       string
}

func (h *host) InTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, h.db.Pool, func(tx pgx.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		if h.commits++; h.atCommit != nil {
			return h.atCommit(h.commits)
		}
		return nil
	})
}

func (h *host) Progress(_ context.Context, _ float64, note string) error {
	h.note = note
	return nil
}

func (h *host) Checkpoint(_ context.Context, state json.RawMessage) error {
	h.checkpoint = state
	return nil
}

// counts is the result of a run.
type counts struct {
	Synced   int64 `json:"synced"`
	Refused  int64 `json:"refused"`
	Added    int64 `json:"credits_added"`
	Deducted int64 `json:"credits_deducted"`
}

func (h *host) sync(t testing.TB, target credits.Target) (c counts, err error) {
	t.Helper()
	registry := tasks.NewRegistry()
	credits.RegisterTo(registry, target)
	task, _ := registry.Lookup(credits.Sync)
	log := logrus.New()
	log.SetOutput(io.Discard)
	handle := tasks.NewHandle(h)
	err = task.Run(context.Background(), tasks.Call{
		Info: tasks.Info{ID: 1, Task: credits.Sync, Checkpoint: h.checkpoint}, Args: json.RawMessage(`{"chunk_size": 8}`), Log: logrus.NewEntry(log), Handle: handle,
	})
	if handle.Result() != nil {
		require.NoError(t, json.Unmarshal(handle.Result(), &c))
	}
	return c, err
}

// run is a sync that must do well.
func run(t testing.TB, l *pgtest.DB, target credits.Target) counts {
	t.Helper()
	c, err := (&host{db: l}).sync(t, target)
	require.NoError(t, err)
	return c
}

// fault is a sync that must fail for good by the target's fault, and leave everything as it was.
func fault(t testing.TB, l *pgtest.DB, target credits.Target) string {
	t.Helper()
	before := one[int64](t, l, unsynced)
	_, err := (&host{db: l}).sync(t, target)
	var permanent *tasks.PermanentError
	require.ErrorAs(t, err, &permanent)
	require.Equal(t, before, one[int64](t, l, unsynced))
	require.Zero(t, one[int64](t, l, setAside))
	return err.Error()
}

// target is one of those outside of the ledger's database, and the database behind it.
type target struct {
	credits.Target
	db *pgtest.DB
}

// each runs a test for both kinds.
func each(t *testing.T, f func(t *testing.T, to target)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db := usage(t)
		f(t, target{credits.Postgres(db.Config(t)), db})
	})
	t.Run("rest", func(t *testing.T) {
		t.Parallel()
		db := usage(t)
		f(t, target{newREST(t, db).target(t), db})
	})
}
