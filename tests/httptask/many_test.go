package httptask

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// manyAtOnce is how many calls are in flight together, each with an answer of 8 MiB.
const manyAtOnce = 200

// Each answer begins when all have asked, so that all are there at the same time. What the kernel has ever seen resident is the figure.
func TestHTTP_TwoHundredCallsAtOnce_StayUnder100MiB(t *testing.T) {
	for name, kind := range map[string]kind{"HTTP 1.1": plainly, "HTTP 1.1, TLS": overTLS, "HTTP 2, TLS": overHTTP2} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat("/proc/self/status"); err != nil {
				t.Skip("needs /proc")
			}
			db := fresh(t)
			var waiting sync.WaitGroup
			waiting.Add(manyAtOnce)
			chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
			there := listen(t, "127.0.0.1", kind, func(w http.ResponseWriter, _ *http.Request) {
				waiting.Done()
				waiting.Wait()
				for range 128 {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			})
			do(t, db, `select pgtick.enqueue_many('http', array_fill(jsonb_build_object('url', $1::text, 'body', repeat('x', 1000), 'timeout', '3m'), array[$2::int]))`,
				there.URL, manyAtOnce)
			settings := []string{here, fmt.Sprintf("PGTICK_WORKERS=%d", manyAtOnce), "PGTICK_LOG_LEVEL=info"}
			if kind != plainly {
				settings = append(settings, "PGTICK_HTTP_CA="+there.certificate(t))
			}
			p := start(t, released, db, settings...)
			becomes(t, db, manyAtOnce, `select count(*) from pgtick.jobs where state = 'done' and attempt = 1 and (result ->> 'truncated')::boolean`)
			peak := peakMiB(t, p.cmd.Process.Pid)
			t.Logf("%d calls at once, 8 MiB each: the runner's peak was %d MiB resident", manyAtOnce, peak)
			require.LessOrEqual(t, peak, 100)
		})
	}
}

func peakMiB(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(t, found)
	kib, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return kib / 1024
}
