package limits

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tests/pgtest"
)

const password = "a secret: 100%/@?#"

func TestConnect_ByTLS_WithAPassword(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.RedisWith(t, pgtest.RedisOptions{TLS: true, Password: password}))
	require.Equal(t, 3, started(l.batch(hourly, 5)))
}

func TestConnect_ToACertificateOfSomebodyElse_GoesOnLocally_AndSaysWhy(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisWith(t, pgtest.RedisOptions{TLS: true})
	server.Roots = x509.NewCertPool()
	l := open(t, server, limit.Options{})
	require.Eventually(t, func() bool {
		_, _, why := l.Local()
		return len(l.said(logrus.WarnLevel)) == 1 && why != "Redis has not been reached yet"
	}, within, every)
	_, _, why := l.Local()
	require.Contains(t, why, "certificate")
}

func TestConnect_WithAWrongPassword_GoesOnLocally_AndRepeatsNoPassword(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisWith(t, pgtest.RedisOptions{Password: password})
	wrong := *server
	wrong.URL = "redis://:wrong-" + "secret@" + server.URL[len(server.URL)-len("127.0.0.1:00000"):]
	l := open(t, &wrong, limit.Options{Timeout: 10 * time.Second})
	require.Eventually(t, func() bool { return len(l.said(logrus.WarnLevel)) == 1 }, within, every)
	_, _, why := l.Local()
	require.Contains(t, why, "WRONGPASS")
	for _, entry := range l.logs.AllEntries() {
		text, err := entry.String()
		require.NoError(t, err)
		require.NotContains(t, text, "wrong-"+"secret")
	}
}

func TestConnect_ToAnAddressThatIsNone_SaysHowToWriteIt_WithoutThePassword(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ address, says string }{
		"empty":                   {"", "redis://user:password@host:6379/0"},
		"no scheme":               {"hunter2@host:6379", "redis://user:password@host:6379/0"},
		"only host and port":      {"localhost:6379", "redis://user:password@host:6379/0"},
		"http":                    {"http://:hunter2@host:6379", "redis://, rediss:// or unix://"},
		"a slash in the password": {"redis://:hunter2/x@host:6379", "special characters of the password as %XX"},
		"of a socket, so too":     {"unix://u:@/hunter2@/run/redis.sock", "an @ behind the first slash"},
		"a bad port":              {"redis://:hunter2@host:sixthousand", "redis://user:password@host:6379/0"},
		"no host":                 {"redis://:hunter2@", "names no host"},
		"a database by name":      {"redis://:hunter2@host/main", "the database is a number"},
		"an unknown option":       {"redis://:hunter2@host?tls=yes", `"tls" is not an option here`},
		"an option of the pool":   {"redis://:hunter2@host?pool_size=3", `"pool_size" is not an option here`},
		"a broken option":         {"redis://:hunter2@host?addr=%zz", "name=value"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := limit.Connect(c.address)
			var wrong *limit.URLError
			require.ErrorAs(t, err, &wrong)
			require.ErrorContains(t, err, "REDIS_URL")
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestConnect_KnowsSingleServersClustersAndSentinels(t *testing.T) {
	t.Parallel()
	single := connect(t, "rediss://ann:s%20p@host:7000/3").(*redis.Client).Options()
	require.Equal(t, []any{"host:7000", 3, "ann", "s p", "host"}, []any{single.Addr, single.DB, single.Username, single.Password, single.TLSConfig.ServerName})
	require.True(t, single.ContextTimeoutEnabled, "otherwise the 50 ms are none")

	socket := connect(t, "unix:///run/redis/redis.sock?db=2").(*redis.Client).Options()
	require.Equal(t, []any{"unix", "/run/redis/redis.sock", 2}, []any{socket.Network, socket.Addr, socket.DB})

	require.Equal(t, "/run/re@is.sock", connect(t, "unix://ann:p%40@/run/re%40is.sock").(*redis.Client).Options().Addr)

	cluster := connect(t, "redis://:p@one:1?addr=two:2&addr=three:3").(*redis.ClusterClient).Options()
	require.Equal(t, []string{"one:1", "two:2", "three:3"}, cluster.Addrs)
	require.Equal(t, "p", cluster.Password)
	require.IsType(t, &redis.ClusterClient{}, connect(t, "redis://entry:1?addr=entry:1"), "a cluster of which one address is known")

	sentinel := connect(t, "redis://one:26379/1?addr=two:26379&master_name=mymaster&password=p").(*redis.Client).Options()
	require.Equal(t, []any{"FailoverClient", 1, "p"}, []any{sentinel.Addr, sentinel.DB, sentinel.Password})
}

func connect(t *testing.T, address string) redis.UniversalClient {
	t.Helper()
	client, err := limit.Connect(address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}
