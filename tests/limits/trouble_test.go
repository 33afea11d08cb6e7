package limits

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// patient waits for Redis longer than a runner does, so that a busy machine is not what is seen.
var patient = limit.Options{Timeout: 10 * time.Second, Handover: time.Millisecond}

// saysOnce: the limiter goes on locally, with one warning that holds these words, however often it looks again.
func (l *limiter) saysOnce(words ...string) {
	l.t.Helper()
	l.awaitLocal(func() { l.ask(quick, "") })
	require.Eventually(l.t, func() bool { return len(l.said(logrus.WarnLevel)) > 0 }, within, every)
	require.Eventually(l.t, func() bool { return l.ask(quick, "").OK }, within, every, "nothing starts locally")
	require.Len(l.t, l.said(logrus.WarnLevel), 1)
	for _, entry := range l.logs.AllEntries() {
		if entry.Level != logrus.WarnLevel {
			continue
		}
		for _, word := range words {
			require.Contains(l.t, entry.Data["error"], word)
		}
	}
}

// backOnce: Redis decides again, and the log has one line more.
func (l *limiter) backOnce() {
	l.t.Helper()
	l.awaitRedis()
	require.Len(l.t, l.said(logrus.WarnLevel), 1)
	require.Len(l.t, l.said(logrus.InfoLevel), 1)
	require.Eventually(l.t, func() bool { return l.ask(quick, "").OK }, within, every)
}

func TestTrouble_OfAServerThatChangesItsMind_IsSaidOnce_AndMendsItself(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks, mends []any
		words         []string
	}{
		"no memory":          {[]any{"config", "set", "maxmemory", "1"}, []any{"config", "set", "maxmemory", "0"}, []string{"OOM", "maxmemory"}},
		"become a replica":   {[]any{"replicaof", "127.0.0.1", "1"}, []any{"replicaof", "no", "one"}, []string{"READONLY", "it is a replica"}},
		"a right taken away": {[]any{"acl", "setuser", "default", "-set"}, []any{"acl", "setuser", "default", "+set"}, []string{"docs/limits.md"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.Redis(t)
			l := newLimiterWith(t, server, patient)
			server.Do(c.breaks...)
			l.saysOnce(c.words...)
			server.Do(c.mends...)
			l.backOnce()
		})
	}
}

// A script of somebody else that does not end: Redis answers BUSY to all but those who want to kill it.
func TestTrouble_WhileAScriptDoesNotEnd_GoesOnLocally_UntilItIsKilled(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisWith(t, pgtest.RedisOptions{Settings: []string{"lua-time-limit 50"}})
	l := newLimiterWith(t, server, patient)
	options, err := redis.ParseURL(server.URL)
	require.NoError(t, err)
	options.MaxRetries, options.ReadTimeout = -1, within
	other := redis.NewClient(options)
	t.Cleanup(func() { _ = other.Close() })
	ended := make(chan error, 1)
	go func() { ended <- other.Eval(context.Background(), "while true do end", nil).Err() }()
	l.saysOnce("BUSY", "script kill")
	require.Equal(t, "OK", server.Do("script", "kill"))
	require.ErrorContains(t, <-ended, "killed")
	l.backOnce()
}

// It was started anew, and takes some seconds to read its data.
func TestTrouble_WhileRedisReadsItsData_GoesOnLocally(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisWith(t, pgtest.RedisOptions{Settings: []string{"appendonly yes", "appendfsync no", "key-load-delay 50"}})
	for part := range 20 {
		server.Do("eval", "for i = 1, 2000 do redis.call('SET', ARGV[1] .. i, i) end return 1", "0", fmt.Sprintf("key %d ", part))
	}
	server.Kill()
	server.Start()
	l := open(t, server, patient)
	require.Eventually(t, func() bool { // on a busy machine the first look may see no more than that there is no answer
		_, _, why := l.Local()
		return strings.Contains(why, "LOADING") && strings.Contains(why, "when it has read its data")
	}, within, every)
	require.Eventually(t, func() bool { return l.ask(quick, "").OK }, within, every)
	l.backOnce()
}

func TestTrouble_OfAnAddressThatIsNotQuiteRight_SaysWhatToWrite(t *testing.T) {
	t.Parallel()
	plain, secured := pgtest.Redis(t), pgtest.RedisWith(t, pgtest.RedisOptions{TLS: true})
	closed, picky := pgtest.RedisWith(t, pgtest.RedisOptions{Password: password}), pgtest.RedisWith(t, pgtest.RedisOptions{TLS: true, ClientCert: true})
	host := func(s *pgtest.RedisServer) string {
		u, err := url.Parse(s.URL)
		require.NoError(t, err)
		return u.Host
	}
	for name, c := range map[string]struct {
		address string
		words   []string
	}{
		"TLS with a server that speaks none": {"rediss://" + host(plain), []string{"no TLS with this server", "write redis://"}},
		"no TLS with a server that wants it": {"redis://" + host(secured), []string{"rediss://"}},
		"no certificate where one is wanted": {"rediss://" + host(picky) + "?ca=" + picky.Folder + "/ca.pem", []string{"?cert=/path/to/cert.pem&key=/path/to/key.pem"}},
		"an authority that nobody knows":     {"rediss://" + host(secured), []string{"certificate", "?ca=/path/to/ca.pem"}},
		"no password":                        {"redis://" + host(closed), []string{"NOAUTH", "redis://user:password@host:6379/0"}},
		"a wrong password":                   {"redis://:wrong@" + host(closed), []string{"WRONGPASS", "REDIS_URL has a wrong user or password"}},
		"an unknown user":                    {"redis://ann:" + url.QueryEscape("a secret") + "@" + host(closed), []string{"WRONGPASS", "REDIS_URL has a wrong user or password"}},
		"a single server as a cluster":       {"redis://" + host(plain) + "?addr=" + host(plain), []string{"cluster support disabled"}},
		"nobody there":                       {"redis://127.0.0.1:1", []string{"connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := open(t, &pgtest.RedisServer{URL: c.address}, patient)
			l.saysOnce(c.words...)
		})
	}
}

// Something answers that is no Redis, or a broken one: with a length that nobody's memory has, it must not take the runner with it.
func TestTrouble_OfAnAnswerThatCannotBe_IsSaidOnce_AndEndsNothing(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"a text": "$500000000000\r\n", "an error": "!9223372036854775807\r\n", "a list": "*500000000000\r\n", "a map": "%500000000000\r\n", "lists in lists": strings.Repeat("*1000000\r\n", 100000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = listener.Close() })
			go answerAll(listener, answer)
			l := open(t, &pgtest.RedisServer{URL: "redis://" + listener.Addr().String()}, patient)
			l.saysOnce("an answer that no Redis would give", "is there something else at this port?")
		})
	}
}

// answerAll gives one answer to whatever is asked.
func answerAll(listener net.Listener, answer string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			for request := make([]byte, 4096); ; {
				if _, err := conn.Read(request); err != nil {
					return
				}
				if _, err := conn.Write([]byte(answer)); err != nil {
					return
				}
			}
		}()
	}
}

// What docs/limits.md grants is enough, and no more than needed: any one of it less is missed.
func TestConnect_AsAUserOfItsOwn_NeedsTheseRightsAlone(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisWith(t, pgtest.RedisOptions{Password: password})
	where, err := url.Parse(server.URL)
	require.NoError(t, err)
	as := func(name string, rights ...string) *limiter {
		all := []any{"acl", "setuser", name, "reset", "on", ">another secret", "~pgtick:*"}
		for _, right := range rights {
			all = append(all, right)
		}
		server.Do(all...)
		where.User = url.UserPassword(name, "another secret")
		return open(t, &pgtest.RedisServer{URL: where.String()}, patient)
	}
	needed := strings.Fields("+evalsha +script|load +get +set +time +client|setname")
	l := as("pgtick", needed...)
	l.awaitRedis()
	require.Equal(t, 3, started(l.batch(hourly, 5)))
	require.Empty(t, l.said(logrus.WarnLevel))
	server.Do("script", "flush")
	for i, right := range needed {
		less := strings.Fields(strings.Replace(strings.Join(needed, " "), right, "", 1))
		short := as("short"+string(rune('a'+i)), less...)
		require.Eventually(t, func() bool { return len(short.said(logrus.WarnLevel)) > 0 }, within, every, "%s was not needed", right)
		_, _, why := short.Local()
		require.Contains(t, why, "docs/limits.md", right)
		short.Close()
		server.Do("script", "flush")
	}
}
