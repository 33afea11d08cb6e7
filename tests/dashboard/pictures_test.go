package dashboard_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

var write = flag.Bool("write", false, "write the pictures of docs/img anew")

// mostBytes is how large a picture of the docs may be.
const mostBytes = 80 << 10

func TestPictures_OfTheDocs_AreThere_AndSmall(t *testing.T) {
	t.Parallel()
	if *write {
		takePictures(t)
	}
	found, err := filepath.Glob(filepath.Join(root(t), "docs", "img", "*.png"))
	require.NoError(t, err)
	require.NotEmpty(t, found)
	for _, name := range found {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(mostBytes), name)
	}
}

// countHour writes an hour of a shop, as its runners would have told it: a wave of orders, and failures towards its end.
func countHour(t *testing.T, db *pgtest.DB) {
	t.Helper()
	id := runner(t, db)
	for i := range 60 {
		wave := math.Sin(float64(i)/7) + math.Sin(float64(i)/2.3)/3
		tally := new(web.Tally)
		finish := func(n int, outcome string, waited, ran float64) {
			for k := range n { // one in twelve takes five times as long
				long := 1 + 4*float64(k%12/11)
				tally.Finished(outcome, time.Duration(waited*long*float64(time.Second)), time.Duration(ran*long*float64(time.Second)))
			}
		}
		finish(240+int(90*wave), "done", 0.004+0.001*math.Abs(wave), 0.12+0.02*wave)
		finish(4+i%5, "error", 0.004, 0.3)
		if i > 51 {
			finish(9+i%4, "failed", 0.03, 1.9)
		}
		require.NoError(t, tally.Tell(t.Context(), db.Pool, id))
		run(t, db, `update pgtick.runner_leases set counted = 0 where id = $1`, id)
		run(t, db, `update pgtick.attempt_counts set at = at - $1::int * interval '1 minute' where span = interval '1 minute' and at > pgtick.now() - interval '1 minute'`, 59-i)
	}
	run(t, db, `select pgtick.leave($1)`, id)
}

func takePictures(t *testing.T) {
	d := open(t, func(o *web.Options) {
		o.Databases[0].Status, o.Version = func() engine.Status { return engine.Status{RunnerID: 1, Held: 3} }, "1.0.0"
	})
	countHour(t, d.DB)
	registry := tasks.NewRegistry()
	held := make(chan struct{})
	t.Cleanup(func() { close(held) })
	tasks.Register(registry, "report.make", func(ctx context.Context, j *tasks.Job[map[string]any]) error {
		_ = j.Progress(ctx, 0.64, "page 64 of 100")
		select {
		case <-held:
		case <-ctx.Done():
		}
		return nil
	})
	tasks.Register(registry, "mail.send", func(context.Context, *tasks.Job[map[string]any]) error { return nil })
	tasks.Register(registry, "invoice.export", func(context.Context, *tasks.Job[map[string]any]) error {
		return errors.New("the accounting service answered 503: maintenance until 14:00")
	})
	run(t, d.DB, `select pgtick.schedule('nightly-report', '0 3 * * *', 'report.make', p_time_zone => 'Europe/Berlin')`)
	run(t, d.DB, `select pgtick.schedule('send-reminders', '*/15 8-18 * * 1-5', 'mail.send')`)
	run(t, d.DB, `select pgtick.tick()`)
	run(t, d.DB, `select pgtick.enqueue('report.make', '{"month": "2026-10"}', p_queue => 'reports') from generate_series(1, 3)`)
	failing := ask[int64](t, d.DB, `select pgtick.enqueue('invoice.export', '{"invoice": 20411, "customer": {"name": "Anna Berg", "token": "x"}, "lines": [{"sku": "A-1", "n": 2}, {"sku": "B-7", "n": 1}]}', p_max_attempts => 2,
		p_retry_policy => '{"kind": "list", "delays": ["1 second"]}')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', jsonb_build_object('to', 'user' || g || '@example.org')) from generate_series(1, 40) as g`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', p_queue => 'newsletter') from generate_series(1, 1250)`)
	run(t, d.DB, `select pgtick.pause_queue('newsletter', 'the text is being corrected')`)
	d.work(t, registry, "default", "reports", "newsletter")
	eventually(t, "the job has failed", func() bool {
		return ask[string](t, d.DB, `select j.state from pgtick.jobs as j where j.id = $1`, failing) == "failed"
	})
	b := d.browse(t)
	folder := filepath.Join(root(t), "docs", "img")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	shot := func(name, address string, dark bool, width, height int64) {
		if b.light(); dark {
			b.dark()
		}
		b.run(window(width, height, false))
		b.visit(address)
		if address == "/" {
			b.until(`document.querySelectorAll('.chart canvas').length === 3`)
		}
		require.NoError(t, os.WriteFile(filepath.Join(folder, name+".png"), fewColours(t, b.picture(width, height)), 0o644))
	}
	shot("overview-light", "/", false, 1200, 860)
	shot("job-dark", path("/jobs/%d", failing), true, 1000, 780)
	shot("jobs-phone", "/jobs", false, 360, 760)
	shot("schedule-light", "/schedules", false, 1100, 680)
}

// fewColours has the picture's 256 most frequent colours in place of all, for half the bytes.
func fewColours(t *testing.T, text []byte) []byte {
	t.Helper()
	picture, err := png.Decode(bytes.NewReader(text))
	require.NoError(t, err)
	counts := map[color.Color]int{}
	bounds := picture.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[picture.At(x, y)]++
		}
	}
	palette := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] })
	few := image.NewPaletted(bounds, palette[:min(256, len(palette))])
	draw.Draw(few, bounds, picture, bounds.Min, draw.Src)
	var out bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few))
	return out.Bytes()
}
