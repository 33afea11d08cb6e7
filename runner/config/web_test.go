package config

import (
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func loadWeb(env map[string]string) (Config, error) {
	all := map[string]string{"DATABASE_URL": "postgres://u:p@127.0.0.1/x"}
	maps.Copy(all, env)
	none := func(string) (string, bool) { return "", false }
	return LoadRunner(none, func(name string) (string, bool) { v, ok := all[name]; return v, ok })
}

func TestWeb_WhatWouldOpenMoreThanIsMeant_IsRefused_AndNoSecretRepeated(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("hunter2", 6)
	jwt := map[string]string{"PGTICK_WEB_JWKS_URL": "https://x.supabase.co/jwks.json", "PGTICK_WEB_ISSUER": "https://x.supabase.co/auth/v1", "PGTICK_WEB_AUDIENCE": "authenticated", "PGTICK_WEB_OPERATOR_ROLE": "operator"}
	with := func(changes ...string) map[string]string {
		all := maps.Clone(jwt)
		for i := 0; i < len(changes); i += 2 {
			all[changes[i]] = changes[i+1]
		}
		return all
	}
	for says, env := range map[string]map[string]string{
		"PGTICK_WEB (or --web): \"yes\" is not on or off":           {"PGTICK_WEB": "yes"},
		"has 7 letters, and 32 are the least":                       {"PGTICK_WEB_TOKEN": "hunter2"},
		"holds a blank":                                             {"PGTICK_WEB_READ_TOKEN": long + " " + long},
		"is the same as PGTICK_WEB_TOKEN: who may look could act":   {"PGTICK_WEB_TOKEN": long, "PGTICK_WEB_READ_TOKEN": long},
		"PGTICK_WEB_KEY (or --web-key): has 7 letters":              {"PGTICK_WEB_KEY": "hunter2"},
		"write https://x.example":                                   with("PGTICK_WEB_JWKS_URL", "http://x.example/jwks.json"),
		"is not the URL of a list of keys":                          with("PGTICK_WEB_JWKS_URL", "file:///etc/keys"),
		"the keys are public":                                       with("PGTICK_WEB_JWKS_URL", "https://u:hunter2@x.example/keys"),
		"PGTICK_WEB_ISSUER (or --web-issuer): is not set":           with("PGTICK_WEB_ISSUER", ""),
		"PGTICK_WEB_AUDIENCE (or --web-audience): is not set":       with("PGTICK_WEB_AUDIENCE", ""),
		"no JWT would be let in":                                    with("PGTICK_WEB_OPERATOR_ROLE", ""),
		"is authenticated, the role of every user of the app":       with("PGTICK_WEB_OPERATOR_ROLE", "authenticated"),
		"is anon, the role of every user of the app":                with("PGTICK_WEB_READER_ROLE", "anon"),
		"is not a claim such as role":                               with("PGTICK_WEB_ROLE_CLAIM", "app_metadata..x"),
		"set one of those too, or leave it out":                     {"PGTICK_WEB_READER_ROLE": "reader"},
		"is set, but neither PGTICK_WEB_JWKS_URL":                   {"PGTICK_WEB_ISSUER": "https://x"},
		"\"true\" is not 0 or 1":                                    {"PGTICK_WEB_READERS_SEE_ARGS": "true"},
		"PGTICK_WEB_DATABASE_URL (or --web-database-url): is not a": {"PGTICK_WEB_DATABASE_URL": "4711&hunter2=x#"},
		"goes with APP_WEB, which is not a":                         {"PGTICK_DATABASES": "APP", "APP": "postgres://u:p@127.0.0.1/x", "APP_WEB": "4711&hunter2=x#"},
	} {
		_, err := loadWeb(env)
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "hunter2", says)
	}
	c, err := loadWeb(with("PGTICK_WEB_ROLE_CLAIM", "app_metadata.pgtick", "PGTICK_WEB_READER_ROLE", "authenticated"))
	require.NoError(t, err, "a claim of one's own may hold any word")
	require.True(t, c.Web.JWT())
}

func TestWeb_OfSeveralDatabases_HasALoginForEach(t *testing.T) {
	t.Parallel()
	c, err := loadWeb(map[string]string{"PGTICK_DATABASES": "ONE,TWO", "ONE": "postgres://u:p@127.0.0.1/one", "TWO": "postgres://u:p@127.0.0.1/two", "ONE_WEB": "postgres://look:p@127.0.0.1/one", "TWO_WEB": "postgres://see:p@127.0.0.1/two"})
	require.NoError(t, err)
	require.Equal(t, "look", c.Web.Database.User)
	require.Equal(t, "see", c.More[0].Web.User)
	c, err = loadWeb(nil)
	require.NoError(t, err)
	require.Nil(t, c.Web.Database, "the runner's")
}
