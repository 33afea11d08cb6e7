package limit

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readThrough has a guarded connection receive these bytes, so many at a time, and returns what came through.
func readThrough(t *testing.T, sent string, step int) (string, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = ours.Close() })
	go func() {
		_, _ = io.Copy(theirs, strings.NewReader(sent))
		_ = theirs.Close()
	}()
	g, got, part := guard(ours), bytes.Buffer{}, make([]byte, step)
	for {
		n, err := g.Read(part)
		got.Write(part[:n])
		if errors.Is(err, io.EOF) {
			return got.String(), nil
		}
		if err != nil {
			return got.String(), err
		}
	}
}

// However it is cut into pieces. What looks like a length within a text is none.
func TestGuard_LetsAnswersThrough(t *testing.T) {
	t.Parallel()
	for _, sent := range []string{
		"", "+OK\r\n", ":5\r\n", "$-1\r\n", "*-1\r\n", "$0\r\n\r\n", "*2\r\n$3\r\na:1\r\n:5\r\n", "%1\r\n+a\r\n+b\r\n", "_\r\n", "-ERR " + strings.Repeat("x", 100) + "\r\n",
		"$24\r\n*999999999999\r\n$9999999\r\n\r\n+OK\r\n", "+*999999999999\r\n", "$5000\r\n" + strings.Repeat("*9999999999\r", 416) + "12345678\r\n*1\r\n:1\r\n", "*x\r\n", "*\r\n", "\r\n", "\n",
		strings.Repeat("*1\r\n", 2000), "*100000\r\n" + strings.Repeat(":1\r\n", 100000),
	} {
		for _, step := range []int{1, 7, 4096} {
			got, err := readThrough(t, sent, step)
			require.NoError(t, err, "%.40q, %d at a time", sent, step)
			require.Equal(t, sent, got)
		}
	}
}

func TestGuard_EndsAnAnswerThatCannotBe(t *testing.T) {
	t.Parallel()
	for sent, what := range map[string]string{
		"!500000000000\r\n\n":      "a length of 500000000000",
		"$9223372036854775807\r\n": "a length of 9223372036854775807",
		"=67108865\r\n":            "a length of 67108865",
		"*9223372036854775807\r\n": "a length of 9223372036854775807",
		"~5000000\r\n":             "a length of 5000000",
		">5000000\r\n":             "a length of 5000000",
		"%2000000\r\n":             "a length of 2000000",
		"|2000000\r\n":             "a length of 2000000",
		"*1000000\r\n*1000000\r\n" + strings.Repeat("*1000000\r\n", 9): "a length of 1000000",
		strings.Repeat("*1\r\n", 70000):                                "a length of 1",
		"$" + strings.Repeat("0", 40) + "5\r\n":                        "a length of more than 32 digits",
		"+" + strings.Repeat("x", 65<<20):                              "it does not end",
	} {
		for _, step := range []int{1, 4096} {
			if step == 1 && len(sent) > 1<<20 {
				continue
			}
			_, err := readThrough(t, sent, step)
			odd := new(answerError)
			require.ErrorAs(t, err, &odd, "%.40q, %d at a time", sent, step)
			require.Equal(t, what, odd.what)
		}
	}
}

// What is counted is one answer, not what a connection has seen in its life.
func TestGuard_BeginsAnewWithEachRequest(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	answer := "$" + "40000000\r\n" + strings.Repeat("x", 40_000_000) + "\r\n"
	go func() {
		for request := make([]byte, 10); ; {
			if _, err := theirs.Read(request); err != nil {
				return
			}
			if _, err := theirs.Write([]byte(answer)); err != nil {
				return
			}
		}
	}()
	g := guard(ours)
	for range 3 {
		_, err := g.Write([]byte("request"))
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, io.LimitReader(g, int64(len(answer))))
		assert.NoError(t, err)
		assert.Equal(t, int64(len(answer)), n)
	}
}
