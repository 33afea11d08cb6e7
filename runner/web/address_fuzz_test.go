package web

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzLocalAddress has a login lead on to any address: never to another site, nor into a header of the answer.
func FuzzLocalAddress(f *testing.F) {
	for _, address := range []string{"", "/", "/jobs?state=failed", "//evil.example/", "/\\evil.example", "\\\\evil.example", "https://evil.example/", "javascript:alert(1)", "/\t/evil.example", "/%2f/evil.example", "%2f", "%2f%2fevil.example", "%2fa:b", "%2f/ ", "%2f/evil.example/ ", "/%2f/evil.example/ ", "/%5cevil.example", "///evil.example", "/..//evil.example", "/jobs\r\nSet-Cookie: a=b",
		"/?to=//evil.example", "/@evil.example", "/\x00", "/é", "?x", "#x", ".//evil.example", "/jobs;a=b?c=%zz", "/%"} {
		f.Add(address)
	}
	here, err := url.Parse("http://dashboard.example:8640/login")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, address string) {
		local := localAddress(address)
		require.True(t, strings.HasPrefix(local, "/") && !strings.HasPrefix(local, "//") && !strings.HasPrefix(local, "/\\"), "%q leads to %q", address, local)
		require.Less(t, strings.IndexFunc(local, func(r rune) bool { return r < ' ' || r == '\x7f' }), 0, "%q leads to %q", address, local)
		there, err := here.Parse(local)
		require.NoError(t, err, "%q leads to %q", address, local)
		require.Equal(t, "http://dashboard.example:8640", there.Scheme+"://"+there.Host, "%q leads to %q", address, local)
	})
}

// FuzzJobsAddress reads the address of a list of jobs. It is refused in a sentence, or read as the same when its own link is followed.
func FuzzJobsAddress(f *testing.F) {
	for _, query := range []string{"", "state=failed&task=mail.send", "state=odd", "owner=6f9619ff-8b86-4d11-b42d-00c04fc964ff", "owner=x", "batch=-1", "batch=9223372036854775808", "since=24h&until=1h", "since=1h&until=24h", "since=999999999h", "since=2026-03-28T02:00:00Z", "since=0000-01-01T00:00:00Z",
		"until=9999-12-31 23:59", "search=%00", "search=%ff", "task=+a&task=+a", "task=a&task=b", "nope=1", "search=" + strings.Repeat("x", 1001), "after=12t1764124800000000&trail=1.2t3.4", "after=t1", "trail=..1", "trail=1.x", "error=%22&schedule=%0a"} {
		f.Add(query)
	}
	now := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		query, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		if g, err := readJobFilter(query, now, atField, trailField); err != nil {
			require.Equal(t, http.StatusBadRequest, status(err), err)
		} else {
			again, err := url.Parse(g.address())
			require.NoError(t, err)
			same, err := readJobFilter(again.Query(), now)
			require.NoError(t, err, g.address())
			require.Equal(t, g, same)
		}
		if spot, err := readSpot(query.Get(atField)); err == nil && spot.ID != 0 {
			same, err := readSpot(spotText(spot))
			require.NoError(t, err)
			require.Equal(t, spot, same)
		}
		if trail, err := readTrail(query.Get(trailField)); err == nil {
			require.LessOrEqual(t, len(trail), mostTrail)
			at, before := trail.back()
			_, err = readSpot(at)
			require.NoError(t, err)
			_, err = readTrail(before)
			require.NoError(t, err)
		}
	})
}
