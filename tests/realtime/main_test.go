// Package realtime tests what owners of jobs hear by Supabase's Realtime, against its schema as a project has it (testdata/realtime.sql), and
// what the pages and examples say of Realtime and Edge Functions. Realtime itself, which takes the messages from the table to the browsers,
// cannot run here.
package realtime

import (
	"context"
	_ "embed"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	ann = "6f9619ff-8b86-4d11-b42d-00c04fc964ff"
	bob = "0b0b0b0b-8b86-4d11-b42d-00c04fc964ff"
)

//go:embed testdata/realtime.sql
var realtimeSchema string

// rolesOnly is the beginning of it. Roles belong to the server, and migrate looks again where one has come.
var rolesOnly, _, _ = strings.Cut(realtimeSchema, "create schema realtime;")

// project is a database with pgtick and Realtime's schema, in which nothing happens but what the test does.
func project(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	do(t, db.Pool, realtimeSchema)
	db.Migrate(t)
	db.Quiet(t)
	return db
}

// asker is a pool, a connection or a transaction.
type asker interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func do(t *testing.T, q asker, sql string, args ...any) {
	t.Helper()
	_, err := q.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func one[V any](t *testing.T, q asker, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, q.QueryRow(t.Context(), sql, args...).Scan(&value), sql)
	return value
}

func enqueue(t *testing.T, q asker, owner string) int64 {
	t.Helper()
	return one[int64](t, q, `select pgtick.enqueue('echo', p_owner_id => nullif($1, '')::uuid)`, owner)
}

func claim(t *testing.T, db *pgtest.DB) pgtest.Claimed {
	t.Helper()
	return pgtest.Claim(t, db, "r", time.Hour)
}

func finish(t *testing.T, q asker, c pgtest.Claimed, outcome string) {
	t.Helper()
	require.True(t, one[bool](t, q, `select f.accepted from pgtick.finish($1, array[$2::bigint], array[$3::bigint], array[$4]) as f`, c.RunnerID, c.ID, c.Fence, outcome))
}

// message is what lies in Realtime's table.
type message struct {
	Topic, Event, Extension string
	Private                 bool
	Payload                 json.RawMessage
}

// job is a message's job.
func (m message) job(t *testing.T) (j struct {
	ID       int64
	State    string
	Progress *float64
	Note     *string
}) {
	t.Helper()
	require.Equal(t, "job", m.Event)
	require.NoError(t, json.Unmarshal(m.Payload, &j))
	return j
}

// messages are all that were sent, in their order.
func messages(t *testing.T, db *pgtest.DB) []message {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), `select m.topic, m.event, m.extension, m.private, m.payload::text from realtime.messages as m order by m.inserted_at, m.ctid`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	require.NoError(t, err)
	return all
}

// states are those that the messages tell of, in their order.
func states(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	var all []string
	for _, m := range messages(t, db) {
		all = append(all, m.job(t).State)
	}
	return all
}

// forget takes the messages away.
func forget(t *testing.T, db *pgtest.DB) {
	t.Helper()
	do(t, db.Pool, `truncate realtime.messages`)
}

// as is a transaction of an end user, as PostgREST makes it.
func as(t *testing.T, db *pgtest.DB, role, user string) pgx.Tx {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	do(t, tx, `select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)`, role, `{"sub": "`+user+`", "role": "`+role+`"}`)
	return tx
}
