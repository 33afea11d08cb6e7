package config

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
)

// planted stands in each password of these tests, whatever is put around it.
const planted = "hunter2"

// FuzzDatabaseURL pastes a password as it is, with all its special characters, into a URL, and adds something to its end. Either it is read as the
// password, or it is refused; in neither case is it shown, as part of an error or as something that is no secret: a host, a user, a database.
func FuzzDatabaseURL(f *testing.F) {
	for _, seed := range [][3]string{{"", "", ""}, {"a@", "", ""}, {"a/", "", ""}, {"47/", "?", ""}, {"47?", "", ""}, {"47/", "?a=b", ""}, {"#", "", "?sslmode=require"}, {"%", "zz", ""}, {" ", "", ""}, {"'", "\\", "?application_name=me@work"},
		{"47", "=", "?user=x"}, {"", "/x?y", "?sslmode=no"}, {"\x00", "\n", ""}, {"[", "]", ""}, {"47,", ":1", ""}, {"é", "%40", "&a"}, {"47/", "?user=", ""}, {"47/", "?dbname=", ""}, {"@", "?A=", ""}} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, before, after, end string) {
		if namesFile(before+after+end) || strings.Contains(before+after, "=") && strings.Contains(before+after, "?") {
			return // files of that name would be read, and named; and a password with ?user= in it makes another URL that is right
		}
		for _, scheme := range []string{"postgres://u:", "postgresql://u:", "postgres://:"} {
			value := scheme + before + planted + after + "@db.example.org/app" + end
			cfg, err := parseDatabase(value)
			if err != nil {
				require.NotContains(t, err.Error(), planted, value)
				continue
			}
			requireHidden(t, cfg, value)
		}
	})
}

// namesFile: what is no URL to us may name a file to pgx.
func namesFile(text string) bool {
	text, _ = unescaped(text)
	for _, name := range []string{"sslrootcert", "sslcert", "sslkey", "passfile", "servicefile", "service", "sslinline", "sslsni"} {
		if strings.Contains(text, name) {
			return true
		}
	}
	return false
}

func unescaped(text string) (string, bool) {
	decoded, err := url.QueryUnescape(text)
	return decoded + text, err == nil
}

// requireHidden: what people and logs are shown of a database holds nothing of its password.
func requireHidden(t *testing.T, cfg *pgx.ConnConfig, value string) {
	t.Helper()
	for what, shown := range map[string]string{"host": cfg.Host, "database": cfg.Database, "user": cfg.User, "address": migrations.Address(cfg)} {
		require.NotContains(t, shown, planted, "%s of %q", what, value)
	}
	for name, parameter := range cfg.RuntimeParams {
		require.NotContains(t, name+"="+parameter, planted, "a parameter of %q", value)
	}
	for _, other := range cfg.Fallbacks {
		require.NotContains(t, other.Host, planted, value)
	}
}

// FuzzSettings gives each setting any text: none makes the program stop short, an error names the setting, and one that may hold a password repeats
// nothing of it.
func FuzzSettings(f *testing.F) {
	for _, seed := range []string{"", "1", "-1", "10001", "30s", "1h0.5s", "9223372036854775807", "0x10", "on", "off", "default,mail", ",", "127.0.0.1:8640", ":0", "[::1", "debug", "trace", "json", "local", "https://abc.supabase.co", "http://" + planted + "@x",
		"https://x?apikey=" + planted, "redis://:" + planted + "@h:6379/0", "redis://u:47/" + planted + "@h:6379/0", "redis://u:47?" + planted + "@h:6379/0", "redis://h:6379/" + planted, "u:" + planted + "@h/db", "postgres://u:" + planted, "ftp://" + planted, "*", "10.0.0.0/8,*", "\xff", "a\x00b", "１", "1e9s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if namesFile(value) {
			return
		}
		for _, setting := range Table() {
			if setting.Flag == "http-ca" { // names a file, and says so
				continue
			}
			given := map[string]string{setting.Env: value}
			switch setting.Flag {
			case "listen-database-url":
				given["DATABASE_URL"] = "postgres://u@db.example.org/app"
			case "sync-key":
				given["PGTICK_SYNC_TARGET"] = "https://abc.supabase.co"
			}
			env := func(name string) (string, bool) { text, there := given[name]; return text, there }
			none := func(string) (string, bool) { return "", false }
			if setting.read == nil {
				_, err := readDatabases(value, env)
				requireSilent(t, setting, value, err)
				continue
			}
			_, err := Load(none, env, setting.Flag, dependsOn[setting.Flag])
			wrong := new(Error)
			if err == nil {
				continue
			}
			require.True(t, errors.As(err, &wrong), "%s: %v", setting.Env, err)
			require.Contains(t, err.Error(), wrong.Setting.Env)
			requireSilent(t, setting, value, err)
		}
	})
}

var dependsOn = map[string]string{"listen-database-url": "database-url", "sync-key": "sync-target"}

// mayHoldSecrets are the settings whose values nothing repeats.
var mayHoldSecrets = []string{"database-url", "listen-database-url", "database", "redis-url", "sync-target", "sync-key", "web-database-url", "web-token", "web-read-token", "web-key", "web-jwt-secret"}

func requireSilent(t *testing.T, setting Setting, value string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(value, planted) || setting.Flag == "database" && isName(value) {
		return
	}
	for _, flag := range mayHoldSecrets {
		if flag == setting.Flag {
			require.NotContains(t, err.Error(), planted, "%s: %q", setting.Env, value)
		}
	}
}

// isName: what stands before it are names of variables, and so may be what is planted.
func isName(value string) bool {
	before, after, _ := strings.Cut(value, planted)
	end := strings.IndexAny(after, ",\n")
	return !strings.ContainsAny(before+after[:max(end, 0)], "=:/@?") && (end >= 0 || !strings.ContainsAny(after, "=:/@?"))
}
