package schedules

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// FuzzParse takes any text, and bytes of which an expression with a known meaning is made. Of the text, pgtick.parse_cron and the strict
// parser below must think the same; of the expression, so must they, and its next slots must be those found by walking the minutes.
func FuzzParse(f *testing.F) {
	for i, text := range []string{"*/15 0-23/2 1,L 1-12 MON-FRI", "@every 1h30m", "90 seconds", "@daily", "0 0 30 2 *", "60 * * * *", "5/15 * * * *", "0 9 ? * MON#2", "FRI-MON", "* * * *",
		"\t5-59/10 9 $ jan,Feb 7\n", "v", "0 * * * *v", "v@daily", "\v0 * * * *\v", "1–5 * * * *", "x\x00", "\xff * * * *", "0 9 * * FR\u0130", "@wee\u212aly", "0\u20039 * * *", "0\u00a00 9 * * *", "5 m\u0130nutes", "\u0665 * * * *", "@every \u0665s",
		"@every", "@every5s", "@every-5s", "@EVERY 007s", "@every 1d1s", "@every 367d", "@every 1s2d", "1s", "999999999999999999 seconds", "9999999999999999999 seconds", "@every 999999999d", "0 0 29 2 0",
		"*,1 1,* * * *", "*/1 */1 */1 */1 */1", "*/59 */23 */30 */11 */7", "0 0 31 4,6,9,11 *", "0 0 30,L 2 *", "0 0 31 2 1", "0 0 * 2 */2", "0000000000 * * * *", "000000001 * * * *",
		"0 0 1-L * *", "0 0 L/2 * *", "0 0 * * L", "0 0 * * SUN-SUN", "0 0 * * 5-7", "0 0 * * SAT-7", "0 0 * * 6-SUN", "0 0 * JAN-13 *", "-1 * * * *", "1- * * * *", "1--2 * * * *", ", * * * *",
		"*/ * * * *", "/ * * * *", "*/5/5 * * * *", "0:30 * * * *", "09:00", "$ $ $ $ $", "0 0 L,l,$ * *", "0 0 \\ * *", "%s %n %I * *", "@", "@@", "@reboot", "@Daily", "@daily ", " * * * * * ",
		strings.Repeat("0,", 490) + "0 * * * *", strings.Repeat("0,", 500) + "0 * * * *", strings.Repeat(" ", 2000) + "0 * * * *", strings.Repeat(" ", 2000) + "0 * * *",
		strings.Repeat("\t", 300) + "@never", strings.Repeat("\n", 300) + "@every 0s", strings.Repeat("x", 2000), strings.Repeat("1-", 300) + " * * * *",
	} {
		f.Add(text, []byte{byte(i), byte(37 * i), byte(i * i), 5, byte(11 * i), 0, byte(250 - i), 3, byte(7 * i), 1, 200, byte(i), 90, byte(13 * i), 0, 4, byte(i)})
	}
	r := rand.NewChaCha8([32]byte{})
	for range 200 {
		shape := make([]byte, 60)
		_, _ = r.Read(shape)
		f.Add("", shape)
	}
	db := pgtest.New(f)
	conn, err := db.Pool.Acquire(context.Background())
	require.NoError(f, err)
	f.Cleanup(conn.Release)
	_, err = conn.Exec(context.Background(), "set statement_timeout = '5s'")
	require.NoError(f, err)
	plain, shifting := newPlace(f, "UTC"), newPlace(f, "America/St_Johns")
	near := shifting.shifts()

	f.Fuzz(func(t *testing.T, text string, shape []byte) {
		if utf8.ValidString(text) && !strings.ContainsRune(text, 0) { // no text of PostgreSQL has U+0000
			judged(t, conn, text)
		}
		e := randomExpression(rollOf(shape))
		if !e.fires() {
			return
		}
		read := judged(t, conn, e.text)
		require.Equal(t, e.parsed(), read, "%q", e.text)
		roll := rollOf(shape)
		from := near[roll(len(near))].Add(time.Duration(roll(4*1440)-3*1440) * time.Minute)
		for _, p := range []*place{plain, shifting} {
			gap, fold := gaps[roll(2)], folds[roll(3)]
			got := slotsAfter(t, conn, e.text, p.zone.String(), from, gap, fold)
			require.Equal(t, p.slots(e, from, forever, 10, gap, fold), got, "%q in %s after %s, on_gap %s, on_fold %s", e.text, p.zone, from, gap, fold)
		}
	})
}

// rollOf makes dice of bytes; when they are used up, each roll is 0.
func rollOf(shape []byte) dice {
	return func(n int) int {
		v := 0
		for size := n - 1; size > 0 && len(shape) > 0; size >>= 8 {
			v, shape = v<<8|int(shape[0]), shape[1:]
		}
		return v % n
	}
}

// parsed is what pgtick.cron holds, in the words of an expression.
type parsed struct {
	every                             int64
	minute, hour, day, month, weekday set
	lastDay, bothDays, elapsed        bool
}

func (e expression) parsed() parsed {
	return parsed{e.every, e.minute, e.hour, e.day, e.month, e.weekday, e.lastDay, e.bothDays, e.elapsed}
}

// judged holds pgtick.parse_cron against the strict parser, and a refusal against what is promised of each.
func judged(t *testing.T, conn *pgxpool.Conn, text string) parsed {
	t.Helper()
	want, fine := parseStrictly(text)
	got, err := parseInDatabase(t.Context(), conn, text)
	if err == nil {
		require.True(t, fine, "%q is accepted as %+v, but is malformed", text, got)
		require.Equal(t, want, got, "%q", text)
		return got
	}
	pg := new(pgconn.PgError)
	require.True(t, errors.As(err, &pg), "%q: %v", text, err)
	require.False(t, fine, "%q is refused: %s %s", text, pg.Code, pg.Message)
	require.Contains(t, []string{"TK010", "TK011", "TK012", "TK013", "TK014", "TK015", "TK016"}, pg.Code, "%q: %s", text, pg.Message)
	require.NotEmpty(t, strings.TrimSpace(pg.Hint), "%q: %s", text, pg.Message)
	named := []rune(strings.Trim(text, blanks))
	require.Contains(t, pg.Message, string(named[:min(len(named), 200)]), "the message does not name the text")
	return parsed{}
}

func parseInDatabase(ctx context.Context, conn *pgxpool.Conn, text string) (parsed, error) {
	var every *int64
	var minutes, hours, days, months, week *string
	var lastDay, either, elapsed *bool
	err := conn.QueryRow(ctx, `
		select c.every_seconds, c.minutes::text, c.hours::text, c.days::text, c.months::text, c.weekdays::text, c.last_day, c.either_day, c.elapsed
		from pgtick.parse_cron($1) as c`, text).Scan(&every, &minutes, &hours, &days, &months, &week, &lastDay, &either, &elapsed)
	if err != nil {
		return parsed{}, err
	}
	if every != nil {
		return parsed{every: *every}, nil
	}
	p := parsed{minute: bits(*minutes, 0), hour: bits(*hours, 0), day: bits(*days, 1), month: bits(*months, 1), weekday: bits((*week)[:7], 0),
		lastDay: *lastDay, bothDays: !*either, elapsed: *elapsed}
	if *week != strings.Repeat((*week)[:7], 6) {
		return p, errors.New("the weeks differ: " + *week)
	}
	return p, nil
}

func bits(text string, low int) set {
	var s set
	for i, bit := range text {
		if bit == '1' {
			s |= 1 << (i + low)
		}
	}
	return s
}

func slotsAfter(t *testing.T, conn *pgxpool.Conn, text, zone string, from time.Time, gap, fold string) []int64 {
	t.Helper()
	var moments []time.Time
	require.NoError(t, conn.QueryRow(t.Context(), `
		select array(select s from pgtick.slots_between(pgtick.parse_cron($1), $2, $3, 'infinity', 10, $4, $5) as s)`, text, zone, from, gap, fold).Scan(&moments), "%q", text)
	slots := []int64{}
	for _, at := range moments {
		slots = append(slots, at.Unix())
	}
	return slots
}

// parseStrictly is the grammar of docs/schedules.md over again, in which nothing is known but ASCII, and all that is not known is malformed.
func parseStrictly(text string) (parsed, bool) {
	text = strings.Trim(text, blanks)
	if utf8.RuneCountInString(text) > 1000 {
		return parsed{}, false
	}
	if macro, known := macros[lower(text)]; known {
		text = macro
	}
	words := strings.FieldsFunc(text, isBlank)
	if every, ok := parseEvery(words); ok {
		return parsed{every: every}, 1 <= every && every <= 366*86400
	}
	if len(words) != 5 {
		return parsed{}, false
	}
	fs := fields()
	for i, word := range words {
		fs[i].text = word
		for item := range strings.SplitSeq(word, ",") {
			if !fs[i].parse(item) {
				return parsed{}, false
			}
		}
	}
	e := meaning(text, fs)
	return e.parsed(), e.fires()
}

const blanks = " \t\n\r\f\v"

var macros = map[string]string{"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}

func isBlank(r rune) bool { return strings.ContainsRune(blanks, r) }

func lower(text string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}

// parseEvery knows "@every 1h30m", "@every 90 seconds" and "90 seconds". It says no to what is no such thing, and 0 to a bad interval.
func parseEvery(words []string) (int64, bool) {
	every := len(words) > 0 && lower(words[0]) == "@every"
	if every {
		words = words[1:]
	}
	if text := lower(strings.Join(words, "")); len(words) == 1 || len(words) == 2 && isNumber(words[0], 18) {
		digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz")
		if unit := text[len(digits):]; slices.Contains([]string{"second", "seconds", "sec", "secs"}, unit) && isNumber(digits, 18) {
			n, _ := strconv.ParseInt(digits, 10, 64)
			return n, true
		}
	}
	if !every || len(words) != 1 {
		return 0, every
	}
	rest, total := lower(words[0]), int64(0)
	for _, unit := range []struct {
		name    string
		seconds int64
	}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}} {
		if number, after, found := strings.Cut(rest, unit.name); found && isNumber(number, 9) {
			n, _ := strconv.ParseInt(number, 10, 64)
			total, rest = total+n*unit.seconds, after
		}
	}
	if rest != "" {
		return 0, true
	}
	return total, true
}

func isNumber(text string, most int) bool {
	return text != "" && len(text) <= most && strings.Trim(text, "0123456789") == ""
}

// parse adds an item to the values of its field.
func (f *field) parse(item string) bool {
	if f.days && (item == "L" || item == "l" || item == "$") {
		f.lastDay = true
		return true
	}
	span, stepText, stepped := strings.Cut(item, "/")
	step := 1
	if stepped {
		if !isNumber(stepText, 9) {
			return false
		}
		if step, _ = strconv.Atoi(stepText); step < 1 || step > f.high-f.low {
			return false
		}
	}
	from, to := f.low, f.high
	if span != "*" {
		first, last, ranged := strings.Cut(span, "-")
		if !ranged && stepped {
			return false
		}
		var fine, fineToo bool
		from, fine = f.number(first)
		to, fineToo = from, true
		if ranged {
			to, fineToo = f.number(last)
		}
		if !fine || !fineToo || from > to {
			return false
		}
	}
	f.values.add(from, to, step)
	return true
}

func (f *field) number(text string) (int, bool) {
	if isNumber(text, 9) {
		n, _ := strconv.Atoi(text)
		return n, n >= f.low && n <= f.high
	}
	for at := 0; at < len(f.names); at += 3 {
		if lower(text) == f.names[at:at+3] {
			return f.low + at/3, true
		}
	}
	return 0, false
}
