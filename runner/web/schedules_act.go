package web

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

func pauseSchedule(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	until, length, err := readUntil(d.Form.Get("until"))
	if err != nil {
		return "", err
	}
	d.Note(name, map[string]string{"until": d.Form.Get("until")})
	if err := jobs.PauseUntil(ctx, d.DB, name, until, length); err != nil {
		return "", err
	}
	switch {
	case until != nil:
		return fmt.Sprintf("%s is paused until %s.", visibleText(name), until.UTC().Format("2006-01-02 15:04:05 UTC")), nil
	case length != 0:
		return fmt.Sprintf("%s is paused for %s.", visibleText(name), lasting(length)), nil
	}
	return fmt.Sprintf("%s is paused until it is resumed.", visibleText(name)), nil
}

var lengthWords = regexp.MustCompile(`^(\d{1,5}) ?(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)$`)

// readUntil reads a moment (in UTC unless it says otherwise) or a length from now; neither: for good.
func readUntil(text string) (*time.Time, time.Duration, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, 0, nil
	}
	if w, known := jobs.ReadWhen(text); known {
		return w.UTC(), w.In, nil
	}
	if parts := lengthWords.FindStringSubmatch(strings.ToLower(text)); parts != nil {
		n, _ := strconv.Atoi(parts[1])
		unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[parts[2][0]]
		if n > 0 {
			return nil, time.Duration(n) * unit, nil
		}
	}
	return nil, 0, refuse("until", "until %q is no time: write 2 hours, 1 day, or a moment in UTC such as 2026-12-27 06:00; or nothing, for a pause until it is resumed", text)
}

func resumeSchedule(ctx context.Context, d *doing) (string, error) {
	name, catchUp := d.Form.Get("name"), d.Form.Get("catch_up") != ""
	paused, err := isPaused(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	d.Note(name, map[string]bool{"catch_up": catchUp})
	if err := jobs.Resume(ctx, d.DB, name, catchUp); err != nil {
		return "", err
	}
	switch {
	case !paused:
		return fmt.Sprintf("%s was not paused.", visibleText(name)), nil
	case catchUp:
		return fmt.Sprintf("%s is resumed; what lay in the pause is caught up as on_missed says.", visibleText(name)), nil
	}
	return fmt.Sprintf("%s is resumed; what lay in the pause stays skipped.", visibleText(name)), nil
}

func runSchedule(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	id, err := jobs.RunNow(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	d.Note(name, map[string]int64{"job": id})
	return fmt.Sprintf("Job %d of %s is enqueued.", id, visibleText(name)), nil
}

// skipSlot is a pause that ends just after the next slot.
func skipSlot(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	paused, err := isPaused(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	if paused {
		return "", refuse("name", "%s is paused: its slots are skipped already. Resume it first.", visibleText(name))
	}
	slot, err := skipNext(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	if slot == nil {
		return "", refuse("name", "%s has no slot to come that could be skipped.", visibleText(name))
	}
	d.Note(name, map[string]time.Time{"slot": *slot})
	return fmt.Sprintf("%s is paused until just after its next slot, %s, and goes on by itself then.", visibleText(name), slot.UTC().Format("2006-01-02 15:04:05 UTC")), nil
}

func renameSchedule(ctx context.Context, d *doing) (string, error) {
	name, to := d.Form.Get("name"), d.Form.Get("new_name")
	d.Note(name, map[string]string{"new_name": to})
	if err := jobs.RenameSchedule(ctx, d.DB, name, to); err != nil {
		return "", err
	}
	d.Go(scheduleAddress(to))
	return fmt.Sprintf("%s is named %s now; its slots, versions and jobs went with it.", visibleText(name), visibleText(to)), nil
}

func removeSchedule(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	d.Note(name, nil)
	if err := jobs.Unschedule(ctx, d.DB, name); err != nil {
		return "", err
	}
	d.Go("/schedules")
	return fmt.Sprintf("%s is unscheduled. Its slots, versions and jobs stay; a new schedule of that name brings it back.", visibleText(name)), nil
}
