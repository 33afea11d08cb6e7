package limit

import (
	"context"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
)

// planted stands in each password, whatever is put around it.
const planted = "hunter2"

// FuzzRedisURL pastes a password as it is, with all its special characters, into a URL: no error repeats it, and what is read takes it for nothing else.
func FuzzRedisURL(f *testing.F) {
	for _, seed := range [][3]string{{"", "", ""}, {"47?", "", ""}, {"47/", "", ""}, {"47/", "?", ""}, {"47?", "=x", ""}, {"a@", "", ""}, {"@/", "", ""}, {"#", "", ""}, {"@", "#", ""}, {"%", "zz", ""}, {"", "", "?db=x"}, {"", "", "?protocol=9"}, {"", "", "?nope=1"}, {"", "", "?addr=b:1&addr=c:2"}, {"", "", "?master_name=m"}, {" ", "\x00", ""}, {"47?db=", "", ""}, {"47?client_name=", "", ""}} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, before, after, end string) {
		if strings.Contains(before+after, "=") && strings.Contains(before+after, "?") {
			return // a password with ?client_name= in it makes another URL that is right
		}
		for _, scheme := range []string{"redis://:", "rediss://u:", "unix://u:", "redis:", "http://u:"} {
			address := scheme + before + planted + after + "@redis.example.org:6379/0" + end
			o, _, err := parse(address)
			if err != nil {
				require.ErrorAs(t, err, new(*URLError))
				require.NotContains(t, err.Error(), planted, address)
				continue
			}
			for _, shown := range append(o.Addrs, o.MasterName, o.ClientName) {
				require.NotContains(t, shown, planted, address)
			}
		}
	})
}

// FuzzReply reads what no script of ours says. It is refused, or is a time to wait within reason and a token that can be kept.
func FuzzReply(f *testing.F) {
	for _, n := range []int64{0, 1, -1, 1_000_000, 1 << 53, math.MaxInt64, math.MinInt64, math.MaxInt64 - 998} {
		f.Add(n, "", 0)
		f.Add(n, "1764124800000000-a1b2c3:1764124801000000", 2)
		f.Add(n, "x\x00:1", 2)
		f.Add(n, strings.Repeat("9", 5000)+":1", 3)
	}
	f.Fuzz(func(t *testing.T, n int64, token string, shape int) {
		var reply any = n
		switch shape % 5 {
		case 1:
			reply = token
		case 2:
			reply = []any{n, token}
		case 3:
			reply = []any{token, n}
		case 4:
			reply = []any{n, token, n}
		}
		got, err := read(reply)
		if err != nil {
			require.Less(t, len(err.Error()), 600)
			return
		}
		require.GreaterOrEqual(t, got.wait, int64(0))
		require.GreaterOrEqual(t, got.delay(), time.Duration(0))
		require.LessOrEqual(t, got.delay(), 290*365*24*time.Hour)
		require.NotContains(t, got.token, "\x00")
		require.LessOrEqual(t, len(got.token), 200)
		generation, at := parseToken(got.token)
		require.Equal(t, generation == "", at == "")
	})
}

// FuzzToken brings a token along that no Redis has given, as a job may whose row somebody has changed.
func FuzzToken(f *testing.F) {
	for _, token := range []string{"", ":", "a:", ":1", "a:1", "a:-1", "a:1:2", "a:9007199254740992", "\x00:0", "a b:1"} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		generation, at := parseToken(token)
		require.True(t, generation == "" && at == "" || strings.HasPrefix(token, generation+":"))
		require.LessOrEqual(t, len(at), 16)
	})
}

// FuzzRedisWire has a Redis answer with any bytes. No decision fails for it, nor waits for longer than it may.
func FuzzRedisWire(f *testing.F) {
	for _, seed := range []string{"", ":0\r\n", ":-9\r\n", "*2\r\n:5\r\n$3\r\na:1\r\n", "-NOSCRIPT x\r\n", "-ERR x\r\n", "$-1\r\n", "*-1\r\n", "$99999999\r\nx", "*99999999\r\n", "%1\r\n+a\r\n+b\r\n", "+OK\r\n:0\r\n:0\r\n", "_\r\n", ",nan\r\n", "(9999999999999999999999\r\n", ">2\r\n+x\r\n+y\r\n:0\r\n",
		"#t\r\n", "=5\r\ntxt:a\r\n", "|1\r\n+a\r\n+b\r\n:0\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", strings.Repeat("*1\r\n", 2000),
		"!500000000000\r\n\n", "$9223372036854775807\r\n", "*500000000000\r\n", "%500000000000\r\n", strings.Repeat("*1000000\r\n", 200), "$000000000000000000000000000000000000500000000000\r\n"} {
		f.Add([]byte(seed))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(f, err)
	f.Cleanup(func() { _ = listener.Close() })
	replies := make(chan []byte, 1)
	go answerWith(listener, replies)
	log := logrus.New()
	log.SetOutput(io.Discard)
	LogLibrary(logrus.NewEntry(log))

	f.Fuzz(func(t *testing.T, reply []byte) {
		replies <- reply
		defer func() { <-replies }()
		client, err := Connect("redis://" + listener.Addr().String())
		require.NoError(t, err)
		defer func() { _ = client.Close() }()
		l := newLimiter(Options{Redis: client, Log: logrus.NewEntry(log), Timeout: 100 * time.Millisecond})
		l.retry, l.link.up, l.link.met = func(time.Duration) {}, true, true
		defer l.Close()
		rule := Rule{Task: "t", Rate: 1, Period: time.Second, Burst: 1}
		for _, d := range l.Decide(context.Background(), []Request{{Rule: rule, JobID: 1}, {Rule: rule, JobID: 2, Reserved: "a:1"}}) {
			require.GreaterOrEqual(t, d.Wait, time.Duration(0))
			require.LessOrEqual(t, len(d.Reserved), 200)
		}
	})
}

// answerWith says one thing to whatever is asked: the reply that lies in the channel.
func answerWith(listener net.Listener, replies chan []byte) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			for buffer := make([]byte, 64<<10); ; {
				if _, err := conn.Read(buffer); err != nil {
					return
				}
				reply := <-replies
				replies <- reply
				if _, err := conn.Write(reply); err != nil || len(reply) == 0 || !strings.HasSuffix(string(reply), "\r\n") {
					return // otherwise it would be waited for
				}
			}
		}()
	}
}
