package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// When is a moment as people give one.
type When struct {
	At   *time.Time    // a moment
	Wall *string       // or what a clock shows, its zone left open
	In   time.Duration // or how long from now
}

var wallTime = regexp.MustCompile(`^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?$`)

// ReadWhen reads RFC 3339, 2026-03-28 or 2026-03-28 02:00 (wall time), or a length such as 90m, 24h or 7d; known is false for all else.
func ReadWhen(value string) (w When, known bool) {
	if at, err := time.Parse(time.RFC3339, value); err == nil {
		return When{At: &at}, true
	}
	if wallTime.MatchString(value) {
		wall := strings.Replace(value, "T", " ", 1)
		if _, err := parseWall(wall); err == nil {
			return When{Wall: &wall}, true
		}
	}
	in, err := ReadLength(value)
	return When{In: in}, err == nil && in > 0
}

func parseWall(wall string) (time.Time, error) {
	return time.Parse("2006-01-02 15:04:05"[:len(wall)], wall)
}

// UTC is the moment where a wall time is meant in UTC, or nil for a length.
func (w When) UTC() *time.Time {
	if w.Wall == nil {
		return w.At
	}
	at, _ := parseWall(*w.Wall) // ReadWhen has tried it
	return &at
}

var days = regexp.MustCompile(`^(\d{1,4})([dw])`)

// ReadLength knows days and weeks besides what Go knows: 7d, 1d12h.
func ReadLength(value string) (time.Duration, error) {
	var length time.Duration
	rest := value
	for {
		found := days.FindStringSubmatch(rest)
		if found == nil {
			break
		}
		n, _ := strconv.Atoi(found[1]) // four digits
		length += time.Duration(n) * 24 * time.Hour * map[string]time.Duration{"d": 1, "w": 7}[found[2]]
		rest = rest[len(found[0]):]
	}
	if rest == "" && value != "" {
		return length, nil
	}
	more, err := time.ParseDuration(rest)
	return length + more, err
}

// MostArgs is where reading the args of a job ends. The database's limit is far below, and its refusal says so.
const MostArgs = 4 << 20

// BadJSON says what is wrong with a text that is to be the args of a job, in words of its own where the database has none, or nothing.
func BadJSON(text []byte) string {
	switch {
	case len(text) > MostArgs:
		return fmt.Sprintf("more than %d MiB, and a job's args have at most 64 KiB: store the data in a table of yours and pass its key", MostArgs>>20)
	case !utf8.Valid(text):
		return "not UTF-8"
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value json.RawMessage
	if err := decoder.Decode(&value); err != nil {
		return notJSON(text, decoder, err)
	}
	if rest := bytes.TrimSpace(text[decoder.InputOffset():]); len(rest) > 0 {
		return fmt.Sprintf("not JSON: more follows at %s", position(text, decoder.InputOffset()))
	}
	if hasNUL(value) {
		return `\u0000 can be stored in no JSON of PostgreSQL: leave it out, or encode the text`
	}
	return ""
}

func notJSON(text []byte, decoder *json.Decoder, err error) string {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("not JSON at %s: %v", position(text, syntax.Offset), err)
	case errors.Is(err, io.EOF):
		return "empty: give a JSON object, {} for none"
	default:
		return fmt.Sprintf("not JSON at %s: it ends too early", position(text, max(decoder.InputOffset(), int64(len(text)))))
	}
}

// position is a place in a text as people count.
func position(text []byte, offset int64) string {
	before := text[:min(max(int(offset)-1, 0), len(text))]
	line := bytes.Count(before, []byte("\n"))
	return fmt.Sprintf("line %d, column %d", line+1, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])+1)
}

// hasNUL looks into all keys and strings of a valid JSON text.
func hasNUL(value json.RawMessage) bool {
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return false
		}
		if s, isText := token.(string); isText && strings.ContainsRune(s, 0) {
			return true
		}
	}
}
