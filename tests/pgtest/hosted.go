package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/stretchr/testify/require"
)

// World is what a hosted project grants to the roles of its API by itself.
type World string

// Projects of both kinds exist: in older ones each new table, function and sequence of schema public is open to anon, authenticated and
// service_role; newer ones leave that to their owners.
const (
	Open   World = "open"
	Closed World = "closed"
)

// hostedPassword is that of all logins of a hosted server. It listens on this machine alone, and is gone with the test.
const hostedPassword = "hosted-by-tests"

var hosted = &lazily{start: func() (*server, error) {
	return startHosted(localpg.Options{Temp: fastFolder(), Settings: testSettings()})
}}

// Hosted returns a database without pgtick that is like a Supabase project's: its roles and their memberships, the schemas auth and
// extensions, and postgres, who owns the database and is no superuser. DB.URL is that login; AdminURL is the provider's. What it has
// not: pg_cron (HostedWithCron has), supautils (which lets postgres create the extensions on a list), and the services around it.
func Hosted(t testing.TB, world World) *DB {
	t.Helper()
	s := hostedServer(t, world)
	return s.hostedDatabase(t, hostedTemplate(world))
}

func hostedServer(t testing.TB, world World) *server {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") != "" {
		t.Skip("needs a server of its own, since its roles belong to the whole server, and TEST_DATABASE_URL is set")
	}
	s := hosted.get(t)
	makeHosted(t, s, world)
	return s
}

// HostedMigrated is Hosted with pgtick in it, as "pgtick migrate" installs it.
func HostedMigrated(t testing.TB, world World) *DB {
	t.Helper()
	s := hostedServer(t, world)
	migrated := hostedTemplate(world) + "_migrated"
	hostedTemplates[world].migrated.Do(func() {
		s.exec(t, "create database "+migrated+" template "+hostedTemplate(world)+" strategy file_copy")
		s.exec(t, "alter database "+migrated+" owner to postgres")
		cfg, err := pgx.ParseConfig(s.asPostgresURL(migrated))
		require.NoError(t, err)
		_, err = migrations.Up(context.Background(), cfg, migrations.Options{})
		require.NoError(t, err)
	})
	return s.hostedDatabase(t, migrated)
}

var hostedTemplates = map[World]*struct{ empty, migrated sync.Once }{Open: {}, Closed: {}}

func hostedTemplate(world World) string { return "hosted_" + string(world) }

func makeHosted(t testing.TB, s *server, world World) {
	t.Helper()
	hostedTemplates[world].empty.Do(func() {
		s.exec(t, "create database "+hostedTemplate(world)+" template template0")
		require.NoError(t, s.furnish(hostedTemplate(world), world))
	})
}

// HostedWithCron is a project with pg_cron, in its database postgres, on a server of its own. The extension belongs to the provider;
// postgres may call its functions. The test is skipped where pg_cron is not installed.
func HostedWithCron(t testing.TB, world World) *DB {
	t.Helper()
	needCron(t)
	s, err := startHosted(forTests(localpg.Options{Cron: true}))
	require.NoError(t, err)
	t.Cleanup(s.stop)
	s.exec(t, "alter database postgres owner to postgres")
	require.NoError(t, s.furnish("postgres", world))
	s.exec(t, hostedCron)
	return s.asPostgres(t, "postgres")
}

// AdminURL is how the provider of a hosted database connects: a superuser. Of any other database it is DB.URL.
func (db *DB) AdminURL() string { return db.server.urlOf(db.Name) }

func (s *server) hostedDatabase(t testing.TB, template string) *DB {
	t.Helper()
	db := s.create(t, template)
	t.Cleanup(func() { s.exec(t, "drop database if exists "+db.Name+" with (force)") })
	s.exec(t, "alter database "+db.Name+" owner to postgres")
	return s.asPostgres(t, db.Name)
}

func (s *server) asPostgres(t testing.TB, name string) *DB {
	t.Helper()
	db := &DB{Name: name, URL: s.asPostgresURL(name), server: s}
	db.open(t)
	return db
}

func (s *server) asPostgresURL(name string) string {
	return URLAs(&DB{URL: s.urlOf(name)}, "postgres", hostedPassword)
}

// startHosted hands the server's first superuser to the provider, so that postgres can be the project's own.
func startHosted(opt localpg.Options) (*server, error) {
	own, err := StartBare(opt)
	if err != nil {
		return nil, err
	}
	s := &server{url: own.URL("postgres"), stop: func() { _ = own.Close() }}
	password := " password '" + hostedPassword + "'"
	err = s.tryExec(context.Background(), "create role supabase_admin superuser createdb createrole replication bypassrls login"+password)
	if err == nil {
		var admin *url.URL
		if admin, err = url.Parse(s.url); err == nil {
			admin.User = url.UserPassword("supabase_admin", hostedPassword)
			s.url = admin.String()
			err = s.tryExec(context.Background(), strings.ReplaceAll(hostedRoles, "{password}", password))
		}
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("make a hosted server: %w", err)
	}
	return s, nil
}

// furnish puts in what a project's database has from the beginning.
func (s *server) furnish(database string, world World) error {
	conn, err := pgx.Connect(context.Background(), s.urlOf(database))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	text := hostedSchemas
	if world == Open {
		text += hostedOpen
	}
	_, err = conn.PgConn().Exec(context.Background(), text).ReadAll()
	return err
}

const hostedRoles = `
alter role postgres rename to supabase_first;
create role postgres nosuperuser createdb createrole replication bypassrls login{password};
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator noinherit login{password};
create role supabase_auth_admin noinherit createrole login{password};
create role supabase_storage_admin noinherit createrole login{password};
create role dashboard_user nologin createdb createrole replication;
grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
alter role postgres set search_path = "$user", public, extensions;
alter role postgres set statement_timeout = '2min';
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
`

const hostedSchemas = `
create schema auth authorization supabase_auth_admin;
create schema extensions authorization postgres;
grant usage on schema auth, extensions, public to postgres, anon, authenticated, service_role;
create table auth.users (id uuid primary key, email text unique, raw_user_meta_data jsonb);
alter table auth.users enable row level security;
create function auth.uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid
$$;
create function auth.role() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''), (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'))::text
$$;
create function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim', true), ''), nullif(current_setting('request.jwt.claims', true), ''))::jsonb
$$;
alter table auth.users owner to supabase_auth_admin;
alter function auth.uid() owner to supabase_auth_admin;
alter function auth.role() owner to supabase_auth_admin;
alter function auth.jwt() owner to supabase_auth_admin;
`

const hostedOpen = `
alter default privileges for role postgres in schema public grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on sequences to postgres, anon, authenticated, service_role;
`

// As the provider's script does after "create extension pg_cron". The extension brings the policy by which everybody sees their own
// jobs alone.
const hostedCron = `
create extension pg_cron with schema pg_catalog;
grant usage on schema cron to postgres with grant option;
grant execute on all functions in schema cron to postgres with grant option;
grant all on all tables in schema cron to postgres with grant option;
revoke all on table cron.job from postgres;
grant select on table cron.job to postgres with grant option;
`
