package web

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pgtick/pgtick/runner/jobs"
)

//go:embed templates/*.html
var templateFiles embed.FS

// templates has the frame and the parts that pages use, and then one set for each page, named by its file.
type templates map[string]*template.Template

func parseTemplates(all []page) (templates, error) {
	frame, err := template.New("layout.html").Funcs(functions()).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, err
	}
	sets := templates{}
	for _, name := range append(templateNames(all), "login.html", "problem.html") {
		if sets[name] != nil {
			continue
		}
		own, err := frame.Clone()
		if err != nil {
			return nil, err
		}
		if sets[name], err = own.ParseFS(templateFiles, "templates/"+name); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

func templateNames(all []page) (names []string) {
	for _, p := range all {
		names = append(names, p.Template)
	}
	return names
}

// main makes the part of a page that changes.
func (t templates) main(name string, s *screen) ([]byte, error) {
	var out bytes.Buffer
	err := t[name].ExecuteTemplate(&out, "main", s)
	return out.Bytes(), err
}

// framed is what the frame gets.
type framed struct {
	*screen
	Main template.HTML
}

func (t templates) whole(s *screen, main []byte) ([]byte, error) {
	var out bytes.Buffer
	err := t["problem.html"].ExecuteTemplate(&out, "layout", framed{s, template.HTML(main)}) //nolint:gosec // made by a template of ours a moment ago
	return out.Bytes(), err
}

func functions() template.FuncMap {
	return template.FuncMap{
		"asset": assetAddress, "show": visibleText, "cut": cutText, "when": momentOf, "since": since, "lasting": lasting, "seconds": secondsText, "number": number,
		"counted": counted, "percent": percent, "dict": dict, "list": func(items ...any) []any { return items }, "fate": fate, "ago": ago, "act": act, "field": formField, "join": strings.Join,
		"int64": func(n int) int64 { return int64(n) }, "add": func(a, b int) int { return a + b }, "toJSON": toJSON, "oneLine": oneLine,
	}
}

// dict makes of names and values what a part gets that needs several.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict: a name without a value")
	}
	all := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		all[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return all, nil
}

func toJSON(value any) (string, error) {
	text, err := json.Marshal(value)
	return string(text), err
}

// visibleText shows what can't be seen, and what would turn the text around it, as its number; line breaks and tabs stay.
func visibleText(text string) string {
	if strings.IndexFunc(text, unseen) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unseen(r) {
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unseen(r rune) bool {
	switch r {
	case '\n', '\t':
		return false
	case '\u200d', '\u200c': // of emoji and of Indic and Persian words
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar
}

// cutText is the beginning of a text.
func cutText(n int, text string) string {
	if letters := []rune(text); len(letters) > n {
		return string(letters[:n]) + "…"
	}
	return text
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// moment is a point in time for the template "time"; nil where there is none.
type moment struct {
	ISO      string
	Text     string
	Infinite bool
}

func momentOf(value any) *moment {
	var at time.Time
	switch v := value.(type) {
	case time.Time:
		at = v
	case *time.Time:
		if v == nil {
			return nil
		}
		at = *v
	case jobs.Moment:
		if v.Infinite {
			return &moment{Infinite: true}
		}
		at = v.Time
	case *jobs.Moment:
		if v == nil {
			return nil
		}
		return momentOf(*v)
	}
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &moment{ISO: at.Format("2006-01-02T15:04:05.000Z07:00"), Text: at.Format("2006-01-02 15:04:05") + " UTC"}
}

// since is the time from then to now, either way: "5 min ago", "in 2 h".
func since(now time.Time, value any) string {
	m := momentOf(value)
	if m == nil || m.Infinite {
		return "–"
	}
	then, _ := time.Parse(time.RFC3339, m.ISO)
	d := now.Sub(then)
	switch {
	case d < 0 && d > -time.Second, d >= 0 && d < time.Second:
		return "now"
	case d < 0:
		return "in " + lasting(-d)
	}
	return lasting(d) + " ago"
}

// lasting is a length of time in two figures at most: "850 ms", "5 min 20 s", "3 d 4 h".
func lasting(d time.Duration) string {
	d = d.Abs()
	switch {
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return strings.TrimSuffix(strconv.FormatFloat(math.Floor(d.Seconds()*10)/10, 'f', 1, 64), ".0") + " s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return twoUnits(int(d.Minutes()), "min", int(d.Seconds())%60, "s")
	case d < 48*time.Hour:
		return twoUnits(int(d.Hours()), "h", int(d.Minutes())%60, "min")
	}
	return twoUnits(int(d.Hours())/24, "d", int(d.Hours())%24, "h")
}

func twoUnits(a int, unitA string, b int, unitB string) string {
	if b == 0 {
		return fmt.Sprintf("%d %s", a, unitA)
	}
	return fmt.Sprintf("%d %s %d %s", a, unitA, b, unitB)
}

// secondsText is lasting for a number of seconds.
func secondsText(value any) string {
	switch v := value.(type) {
	case float64:
		return lasting(time.Duration(v * float64(time.Second)))
	case *float64:
		if v == nil {
			return "–"
		}
		return secondsText(*v)
	case int:
		return lasting(time.Duration(v) * time.Second)
	case int64:
		return lasting(time.Duration(v) * time.Second)
	}
	return "–"
}

// number has a comma between thousands.
func number(value any) string {
	digits := fmt.Sprint(value)
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	whole, rest, _ := strings.Cut(digits, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	return sign + whole
}

// counted is a number with its thing: "1 job", "2 jobs".
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return number(n) + " " + thing + "s"
}

func percent(share any) string {
	switch v := share.(type) {
	case float64:
		return fmt.Sprintf("%.0f %%", v*100)
	case *float64:
		if v != nil {
			return percent(*v)
		}
	}
	return "–"
}

// fate is the colour of a state, an outcome or a slot's fate: what badges and cells of heat maps are marked with, beside their words.
func fate(word string) string {
	switch word {
	case "done", "enqueued", "alive", "run_now", "ok":
		return "good"
	case "failed", "dead", "missed", "error", "lost", "unserved", "fenced":
		return "bad"
	case "running", "caught_up":
		return "busy"
	case "cancelled", "skipped_paused", "skipped_overlap", "skipped", "paused", "late", "snoozed", "released", "waiting", "blocked":
		return "held"
	}
	return "plain"
}

// chart is drawn by a script; without one its table stays.
type chart struct {
	ID     string   `json:"-"`
	Title  string   `json:"title"`
	Unit   string   `json:"unit"` // s: seconds, shown with their unit; otherwise a plain number
	Bars   bool     `json:"bars"`
	Times  []int64  `json:"times"` // seconds since 1970, rising
	Series []series `json:"series"`
	Note   string   `json:"-"`
}

// series is one line, with a value or nil for each of the times.
type series struct {
	Name   string     `json:"name"`
	Colour string     `json:"colour"` // as of fate: good, bad, busy, held, plain
	Values []*float64 `json:"values"`
}

// pager leads through a list.
type pager struct {
	First string // the list's beginning, where this is not it
	Next  string // nothing at its end
	Note  string
}
