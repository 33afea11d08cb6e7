package connections

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// changed is a URL with one part of it put right, or wrong.
func changed(t *testing.T, from string, change func(u *url.URL)) string {
	t.Helper()
	u, err := url.Parse(from)
	require.NoError(t, err)
	change(u)
	return u.String()
}

func TestConnecting_EachFailure_SaysWhatToDo(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	nobody := "nobody_" + db.Name
	do(t, db, "create role "+nobody+" password 'hunter2'")
	t.Cleanup(func() { _, _ = db.Pool.Exec(context.Background(), "drop role "+nobody) })
	right := pgtest.RunnerURL(t, db)
	full := pgtest.StartPgBouncer(t, db, "session", "max_client_conn = 1")
	var held *pgx.Conn
	require.Eventually(t, func() bool { // the one by which the pooler was looked at may still be leaving
		conn, err := pgx.Connect(t.Context(), full)
		held = conn
		return err == nil
	}, within, every)
	t.Cleanup(func() { _ = held.Close(context.Background()) })
	pooled := pgtest.StartPgBouncer(t, db, "session")
	for name, c := range map[string]struct{ url, what, hint string }{
		"wrong password":       {pgtest.URLAs(db, "pgtick_runner", "hunter2"), "28P01", "user or password is wrong; in a URL special characters of the password are written as %XX"},
		"no such database":     {changed(t, right, func(u *url.URL) { u.Path = "/nowhere" }), "3D000", "check the database's name"},
		"nobody listens":       {changed(t, right, func(u *url.URL) { u.Host = "127.0.0.1:1" }), "the database at 127.0.0.1, port 1, can't be reached", "nothing listens there"},
		"may not log in":       {pgtest.URLAs(db, nobody, "hunter2"), "28000", "alter role " + nobody + " login password '…'"},
		"unknown parameter":    {right + "?frobnicate=1", "frobnicate", "take that parameter out of the URL"},
		"no pgtick there":      {pgtest.RunnerURL(t, pgtest.NewEmpty(t)), "run pgtick migrate", ""},
		"pooler without room":  {full, "no more connections allowed (max_client_conn)", "the pooler has no room for another client"},
		"pooler, wrong login":  {changed(t, pooled, func(u *url.URL) { u.User = url.UserPassword("pgtick_runner", "hunter2") }), "can't be reached", ""},
		"pooler, no parameter": {pooled + "?statement_timeout=5", "unsupported startup parameter: statement_timeout", "take that parameter out of the URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, command := range []string{"work", "schedules list", "migrate status", "adopt"} {
				if command == "work" && name == "pooler without room" {
					continue // it waits: TestWork_WithoutRoom below
				}
				if name == "no pgtick there" && (command == "adopt" || command == "migrate status") {
					continue // it is there to find that out
				}
				what, hint := fails(t, c.url, strings.Fields(command)...)
				require.Contains(t, what, c.what, command)
				require.Contains(t, hint, c.hint, command)
				require.NotContains(t, what+hint, "hunter2", command)
			}
		})
	}
}

// What other programs' clients read in a URL is no business of the server's.
func TestConnecting_WithParametersOfOthersClients_Works(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	of := "?pgbouncer=true&connection_limit=1&pool_timeout=5&supa=base-pooler.x&keepalives=1&keepalives_idle=30&pool_max_conns=7&schema=public&uselibpqcompat=true"
	_, talk, code := call(t, db.URL+of, "schedules", "list")
	require.Zero(t, code, talk)
	p := work(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db) + of})
	enqueue(t, db, "test.effect", "{}", 5)
	nothingLost(t, db, 5)
	p.stops()
}

func TestWork_ARightThatIsRevoked_IsNamed_AndTheRunnerGoesOnWhenItIsBack(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	url := pgtest.RunnerURL(t, db)
	do(t, db, "revoke usage on schema pgtick from pgtick_runner")
	what, hint := fails(t, url, "work")
	require.Contains(t, what, "permission denied for schema pgtick (SQLSTATE 42501)")
	require.Contains(t, hint, "delete from pgtick.applied_sql; and then pgtick migrate")
	do(t, db, "grant usage on schema pgtick to pgtick_runner")

	p := work(t, []string{"DATABASE_URL=" + url}, "--poll=100ms")
	p.says("notifications arrive")
	do(t, db, "revoke execute on all functions in schema pgtick from pgtick_runner")
	enqueue(t, db, "test.effect", "{}", 3)
	p.says(`permission denied for function [a-z_]+.*42501|42501.*permission denied for function`)
	p.says("the login lacks a right")
	do(t, db, "delete from pgtick.applied_sql") // as the hint says
	_, talk, code := call(t, db.URL, "migrate")
	require.Zero(t, code, talk)
	nothingLost(t, db, 3)
	p.stops()
}

// special are characters that mean something in URLs, shells, SQL or none of them.
const special = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ äß€🙂"

// Written into a URL as it should be, a password of all of them logs in. Written as it is, one logs in too, or is refused with a sentence;
// neither sentence nor log ever holds it, nor a part of it. (Each character by itself is tested beside the code, in runner/config.)
func TestPasswords_WithSpecialCharacters_LogIn_OrAreRefused_AndNeverShow(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	role := "typist_" + db.Name
	do(t, db, "create role "+role+" login in role pgtick_reader")
	t.Cleanup(func() { _, _ = db.Pool.Exec(context.Background(), "drop role "+role) })
	server, err := url.Parse(db.URL)
	require.NoError(t, err)
	set := func(password string) { do(t, db, fmt.Sprintf("alter role %s password %s", role, quoted(password))) }
	written := func(password string) string {
		return fmt.Sprintf("postgres://%s:%s@%s/%s", role, password, server.Host, db.Name)
	}
	logsIn := func(url string) {
		out, talk, code := call(t, url, "schedules", "list", "--json")
		require.Zero(t, code, talk)
		require.NotContains(t, out+talk, "S3cret")
	}
	set("60471" + special + "S3cret")
	logsIn(pgtest.URLAs(db, role, "60471"+special+"S3cret"))
	harmless := strings.NewReplacer("@", "", "/", "", "%", "", " ", "").Replace(special)
	set("60471" + harmless + "S3cret")
	logsIn(written("60471" + harmless + "S3cret"))

	for _, char := range []string{"@", "/", "%", " ", "%2", "@/", "/@", "%41"} {
		password := "60471" + char + "S3cret" // digits look like a port
		set(password)
		out, talk, code := call(t, written(password), "schedules", "list")
		require.NotZero(t, code, char)
		require.Contains(t, talk, "%", "says how to write it")
		require.NotContains(t, out+talk, "S3cret", char)
		require.NotContains(t, out+talk, "60471", char)
	}
}

func quoted(text string) string {
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}
