package limits

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestConnect_ByTLS_WithFilesThatTheURLNames(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisWith(t, pgtest.RedisOptions{TLS: true, ClientCert: true, Password: password})
	files := url.Values{"ca": {server.Folder + "/ca.pem"}, "cert": {server.Folder + "/cert.pem"}, "key": {server.Folder + "/key.pem"}}
	l := newLimiter(t, &pgtest.RedisServer{URL: server.URL + "?" + files.Encode()})
	require.Equal(t, 3, started(l.batch(hourly, 5)))
}

func TestConnect_WithAFileThatIsNone_NamesItAndTheOption(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "broken.pem")
	require.NoError(t, os.WriteFile(broken, []byte("no PEM"), 0o600))
	for address, says := range map[string]string{
		"rediss://:hunter2@host?ca=/nowhere.pem":                 "ca: open /nowhere.pem: no such file",
		"rediss://:hunter2@host?ca=" + broken:                    broken + " holds no certificate in PEM",
		"rediss://:hunter2@host?ca=":                             "ca is empty",
		"rediss://:hunter2@host?cert=" + broken:                  "cert and key, which go together",
		"rediss://:hunter2@host?cert=/nowhere.pem&key=" + broken: "cert and key, which go together: open /nowhere.pem",
		"redis://:hunter2@host?ca=" + broken:                     "ca is for TLS, and goes with rediss:// alone",
		"rediss://host?ca=/x@hunter2":                            "write it as %40",
	} {
		_, err := limit.Connect(address)
		require.ErrorAs(t, err, new(*limit.URLError), address)
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// A server by TLS that is frozen, and no connection to it yet: whoever asks has to wait for no handshake.
func TestDecide_ByTLS_WaitsForNoHandshake(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	l := open(t, &pgtest.RedisServer{URL: "rediss://" + listener.Addr().String()}, limit.Options{Timeout: time.Millisecond})
	answered := make(chan struct{})
	go func() { defer close(answered); l.batch(hourly, 3) }()
	select {
	case <-answered:
		require.Empty(t, l.said(logrus.WarnLevel), "the handshake has not ended before the answer")
	case <-time.After(within):
		require.Fail(t, "no answer")
	}
}

func addressOf(t *testing.T, s *pgtest.RedisServer) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	return u.Host
}

// info waits until INFO of a server holds a line.
func info(t *testing.T, s *pgtest.RedisServer, line string) {
	t.Helper()
	require.Eventually(t, func() bool {
		text, _ := s.Do("info").(string)
		return strings.Contains(text, "\n"+line)
	}, within, every, line)
}

// A master, its replica and a sentinel. The master is killed; the sentinel makes the replica the new one, and the limiter finds it, with all that the old
// one had told it.
func TestSentinel_WhenTheMasterIsKilled_GoesOnWithTheNewOne(t *testing.T) {
	t.Parallel()
	master := pgtest.RedisWith(t, pgtest.RedisOptions{Password: "sesame", Settings: []string{"repl-diskless-sync yes", "repl-diskless-sync-delay 0"}})
	host, port, err := net.SplitHostPort(addressOf(t, master))
	require.NoError(t, err)
	replica := pgtest.RedisWith(t, pgtest.RedisOptions{Password: "sesame", Settings: []string{"replicaof " + host + " " + port, "masterauth sesame"}})
	info(t, replica, "master_link_status:up")
	sentinel := pgtest.RedisWith(t, pgtest.RedisOptions{Sentinel: true, Settings: []string{
		"sentinel monitor pgtick " + host + " " + port + " 1", "sentinel auth-pass pgtick sesame",
		"sentinel down-after-milliseconds pgtick 1000", "sentinel failover-timeout pgtick 2000",
	}})
	info(t, sentinel, "master0:name=pgtick,status=ok,address="+host+":"+port+",slaves=1")

	l := newLimiterWith(t, &pgtest.RedisServer{URL: "redis://" + addressOf(t, sentinel) +
		"?master_name=pgtick&username=default&password=sesame"}, patient)
	require.Equal(t, 3, started(l.batch(hourly, 3)))
	require.EqualValues(t, 1, master.Do("wait", "1", within.Milliseconds()))
	master.Kill()
	l.awaitLocal(func() { l.ask(quick, "") })
	l.backOnce()
	info(t, replica, "role:master")
	require.Zero(t, started(l.batch(hourly, 3)), "the new master knows of the burst")
}

// cluster is three masters, each with a third of the slots, and a replica of the first one.
type cluster struct {
	masters []*pgtest.RedisServer
	replica *pgtest.RedisServer
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	node := func() *pgtest.RedisServer {
		return pgtest.RedisWith(t, pgtest.RedisOptions{Cluster: true, Settings: []string{"cluster-node-timeout 1500", "repl-diskless-sync yes", "repl-diskless-sync-delay 0"}})
	}
	c := &cluster{masters: []*pgtest.RedisServer{node(), node(), node()}, replica: node()}
	host, port, err := net.SplitHostPort(addressOf(t, c.masters[0]))
	require.NoError(t, err)
	for i, s := range []*pgtest.RedisServer{c.masters[1], c.masters[2], c.replica} {
		s.Do("cluster", "set-config-epoch", i+2)
		s.Do("cluster", "meet", host, port)
	}
	for i, s := range c.masters {
		all := []any{"cluster", "addslots"}
		for slot := i; slot < 16384; slot += 3 {
			all = append(all, slot)
		}
		s.Do(all...)
	}
	for _, s := range append(c.masters, c.replica) {
		c.says(t, s, "cluster_state:ok", "cluster_known_nodes:4")
	}
	c.replica.Do("cluster", "replicate", c.masters[0].Do("cluster", "myid"))
	info(t, c.replica, "master_link_status:up")
	return c
}

// says waits until CLUSTER INFO of a server holds these lines.
func (c *cluster) says(t *testing.T, s *pgtest.RedisServer, lines ...string) {
	t.Helper()
	for _, line := range lines {
		require.Eventually(t, func() bool {
			text, _ := s.Do("cluster", "info").(string)
			return strings.Contains("\n"+text, "\n"+line)
		}, within, every, line)
	}
}

// In a cluster each limit lies where its key's slot is. A master is killed, and stays dead; its replica takes its place, and the limiter finds it.
func TestCluster_WhenAMasterIsKilled_GoesOnWithItsReplica(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	l := newLimiterWith(t, &pgtest.RedisServer{URL: "redis://" + addressOf(t, c.masters[1]) + "?addr=" + addressOf(t, c.masters[2])}, patient)
	requests := make([]limit.Request, 0, 300)
	for i := range 100 {
		for range 3 {
			requests = append(requests, limit.Request{Rule: limit.Rule{Task: "t", Rate: 1, Period: time.Hour, Burst: 2}, Key: fmt.Sprintf("{%d} of ü", i)})
		}
	}
	require.Equal(t, 200, started(l.Decide(t.Context(), requests)))
	for _, s := range c.masters {
		require.NotZero(t, s.Do("dbsize"), "each has some of the limits")
	}
	require.Empty(t, l.said(logrus.WarnLevel))
	t.Run("named by one address alone, it says how to name it", func(t *testing.T) {
		one := open(t, c.masters[0], patient)
		require.Eventually(t, func() bool {
			one.Decide(t.Context(), requests[:150]) // some of them are another's
			return len(one.said(logrus.WarnLevel)) > 0
		}, within, every)
		_, _, why := one.Local()
		require.Contains(t, why, "?addr=")
	})
	require.EqualValues(t, 1, c.masters[0].Do("wait", "1", within.Milliseconds()))

	c.masters[0].Kill()
	l.awaitLocal(func() { l.Decide(t.Context(), requests[:30]) })
	info(t, c.replica, "role:master")
	for _, s := range append(c.masters[1:], c.replica) {
		c.says(t, s, "cluster_state:ok")
	}
	l.backOnce()
	require.Zero(t, started(l.Decide(t.Context(), requests)), "all that was used up still is")
	require.True(t, l.HasRedis())
}
