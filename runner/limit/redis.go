package limit

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // it is how Redis names scripts
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed decide.lua
var decideLua string

// call is one request as the script takes it.
type call struct {
	key        string
	terms      terms
	generation string
	at         string // of a reservation, both or neither
	empty      bool   // jobs were started that Redis has not heard of
}

// answer is what the script says.
type answer struct {
	ok    bool
	wait  int64  // µs
	token string // empty: that of the request, where it had one
}

// script runs in Redis, for as many calls as there are in one round trip.
type script struct {
	client    redis.UniversalClient
	text, sha string
	nonce     string
	extra     func() []any // more arguments, for tests
}

func newScript(client redis.UniversalClient, text, nonce string) *script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // it is how Redis names scripts
	return &script{client: client, text: text, sha: hex.EncodeToString(sum[:]), nonce: nonce}
}

var (
	errGone     = errors.New("redis forgets its scripts as soon as they are loaded")
	errNoAnswer = errors.New("redis answers nothing")
)

// decide asks all in one round trip, or in three where Redis does not know the script, as after a restart. An error says that some have no
// answer. What was decided and not heard of has taken room from the limit: that loses starts, and lets none too many happen.
func (s *script) decide(ctx context.Context, calls []call) ([]answer, error) {
	answers := make([]answer, len(calls))
	all := make([]int, len(calls))
	for i := range all {
		all[i] = i
	}
	unknown, err := s.pass(ctx, calls, all, answers)
	if err == nil && len(unknown) > 0 {
		err = s.client.ScriptLoad(ctx, s.text).Err() // of a cluster to each node
		if err == nil {
			unknown, err = s.pass(ctx, calls, unknown, answers)
		}
		if err == nil && len(unknown) > 0 {
			err = errGone
		}
	}
	if cluster, is := s.client.(*redis.ClusterClient); is && err != nil {
		cluster.ReloadState(ctx) // in the background. By itself it asks each 10 seconds who has which slots
	}
	return answers, explain(err)
}

// pass asks these, and returns those at which Redis did not know the script: they have changed nothing.
func (s *script) pass(ctx context.Context, calls []call, which []int, answers []answer) (unknown []int, err error) {
	pipe := s.client.Pipeline()
	replies := make([]*redis.Cmd, len(which))
	for i, n := range which {
		replies[i] = pipe.EvalSha(ctx, s.sha, []string{calls[n].key}, s.args(&calls[n])...)
	}
	_, failed := pipe.Exec(ctx)
	for i, n := range which {
		reply, err := replies[i].Result()
		if err == nil && reply == nil { // without a connection, as after a wrong password, no reply knows of an error
			err = cmp.Or(failed, errNoAnswer)
		}
		if err == nil {
			answers[n], err = read(reply)
		}
		switch {
		case err == nil:
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			unknown = append(unknown, n)
		default:
			return nil, err
		}
	}
	return unknown, nil
}

func (s *script) args(c *call) []any {
	t := &c.terms
	args := []any{t.name, t.whole, t.rest, t.rate, t.spread, t.slack, t.full, c.generation, c.at, s.nonce, c.empty}
	if s.extra != nil {
		args = append(args, s.extra()...)
	}
	return args
}

// read believes nothing that the script cannot say: another program may have written what stands under our key, or answer in Redis's place.
func read(reply any) (answer, error) {
	switch r := reply.(type) {
	case int64:
		if isWait(r) {
			return answer{ok: r == 0, wait: r}, nil
		}
	case []any:
		if len(r) == 2 {
			wait, isNumber := r[0].(int64)
			token, isText := r[1].(string)
			if isNumber && isText && isWait(wait) && isToken(token) {
				return answer{wait: wait, token: token}, nil
			}
		}
	}
	return answer{}, fmt.Errorf("the script answers %.100q", fmt.Sprint(reply))
}

func isWait(n int64) bool { return n >= 0 && n < 1<<53 }

// isToken: what the database can keep as a job's reservation.
func isToken(text string) bool {
	return len(text) <= 200 && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// delay is a whole millisecond, so that a clock that is a little ahead asks no second time.
func (a answer) delay() time.Duration { return time.Duration(a.wait+999) / 1000 * time.Millisecond }

// parseToken returns two empty texts for what no script has given.
func parseToken(token string) (generation, at string) {
	generation, at, found := strings.Cut(token, ":")
	if n, err := strconv.ParseInt(at, 10, 64); !found || generation == "" || err != nil || n < 0 || n >= 1<<53 || len(at) > 16 {
		return "", ""
	}
	return generation, at
}
