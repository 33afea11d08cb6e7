package config

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseDatabase_WhatIsNotMeantSo_IsRefused_AndNeverRepeated(t *testing.T) {
	t.Parallel()
	for value, says := range map[string]string{
		"postgres://u:4711/hunter2@db.example.org/app":    "/ as %2F",
		"postgres://u:4711@hunter2@db.example.org/app":    "write @ as %40",
		"postgres://u:hun@ter/hunter2@db.example.org/app": "write @ as %40",
		"postgres://u:hun/hunter2@db.example.org/app":     "/ as %2F",
		"postgres://u:4711@3?hunter2@db.example.org/app":  "? as %3F",
		"postgres://u:4711/hunter2?@db.example.org/app":   "? as %3F",
		"postgres://u:4711/?hunter2@db.example.org/app":   "? as %3F",
		"postgres://u:x@hunter2?a=b@db.example.org/app":   "? as %3F",
		"4711&hunter2=x#": "is not a PostgreSQL URL",
		"postgres://u:hunter2%zz@db.example.org/app":                           "special characters of the password as %XX",
		"postgres://u:4711 hunter2@db.example.org/app":                         "write it as %20",
		"postgres://u: hunter2@db.example.org/app":                             "write it as %20",
		"postgres://u:hunter2@db.example.org:port/app":                         "is not a PostgreSQL URL",
		"postgres://postgres:[YOUR-PASSWORD]@db.abc.supabase.co:5432/postgres": "put the database's password in its place",
		"https://abc.supabase.co?key=hunter2":                                  "is not a PostgreSQL URL",
		"postgresql+asyncpg://u:hunter2@db.example.org/app":                    "is not a PostgreSQL URL",
		"postgres://u:hunter2@db.example.org/app?sslmode=verify":               "has an sslmode that does not exist",
		"postgres://u:hunter2@db.example.org/app?sslrootcert=/nowhere/x.crt":   "names the file /nowhere/x.crt, which can't be read",
	} {
		_, err := parseDatabase(value)
		require.ErrorContains(t, err, says, value)
		require.NotContains(t, err.Error(), "hunter2")
		require.NotContains(t, err.Error(), "4711")
	}
}

func TestParseDatabase_WhatIsMeantSo_IsRead(t *testing.T) {
	t.Parallel()
	for value, password := range map[string]string{
		"postgres://u:p#?[]:&=+$ss@db.example.org/app?sslmode=require":                 "p#?[]:&=+$ss",
		"postgres://u:p%40%2F%3F%23%25%3A%5B@db.example.org/app":                       "p@/?#%:[",
		" postgres://u:secret@db.example.org/app\n":                                    "secret",
		"postgres://db.example.org:5432/app?user=u&password=p%40ss":                    "p@ss",
		"postgres://db.example.org/app?user=u&password=p@ss":                           "p@ss",
		"host=db.example.org user=u dbname=app password='p @#/?'":                      "p @#/?",
		"postgres://u:secret@db.example.org/app?application_name=me@work&pgbouncer=no": "secret",
	} {
		cfg, err := parseDatabase(value)
		require.NoError(t, err, value)
		require.Equal(t, "db.example.org", cfg.Host, value)
		require.Equal(t, "app", cfg.Database, value)
		require.Equal(t, "u", cfg.User, value)
		require.Equal(t, password, cfg.Password, value)
	}
}

func TestParseDatabase_ParametersOfOtherClients_AreLeftOut(t *testing.T) {
	t.Parallel()
	cfg, err := parseDatabase("postgres://u:secret@db.example.org/app?pgbouncer=true&connection_limit=1&pool_max_conns=3&keepalives_idle=9&statement_timeout=5s&frobnicate=1")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"application_name": "pgtick", "statement_timeout": "5s", "frobnicate": "1"}, cfg.RuntimeParams)
}

func TestParseDatabase_EachCharacterOfAPassword_WrittenAsItShould_IsRead(t *testing.T) {
	t.Parallel()
	for char := rune(1); char < 0x500; char++ {
		password := "4711" + string(char) + "x" + string(char)
		u := url.URL{Scheme: "postgres", User: url.UserPassword("u", password), Host: "db.example.org", Path: "/app"}
		cfg, err := parseDatabase(u.String())
		require.NoError(t, err, "%q", char)
		require.Equal(t, password, cfg.Password)
		require.Equal(t, "db.example.org", cfg.Host)
	}
}
