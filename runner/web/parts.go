package web

import (
	"fmt"
	"strings"
	"time"
)

// What follows makes the values that the parts of templates/parts.html take.

// agoPart is for the part "ago".
type agoPart struct {
	At   *moment
	Text string
}

func ago(now time.Time, value any) agoPart { return agoPart{momentOf(value), since(now, value)} }

// actPart is a button that acts.
type actPart struct {
	Allowed bool
	Action  string
	Label   string
	Back    string
	Confirm string
	Class   string
	Fields  []actField
}

type actField struct{ Name, Value string }

// act is a button for an action: its name, what stands on it, and names with values. Of those, confirm is what to ask before, class a class
// of the button (danger, primary, quiet), and back the address to return to; the others are fields of the form.
func act(s *screen, name, label string, pairs ...any) (actPart, error) {
	if len(pairs)%2 != 0 {
		return actPart{}, fmt.Errorf("act %s: a name without a value", name)
	}
	a := actPart{Allowed: s.Operator, Action: s.Base + "/do/" + name, Label: label, Back: s.Address}
	for i := 0; i < len(pairs); i += 2 {
		value := fmt.Sprint(pairs[i+1])
		switch field := fmt.Sprint(pairs[i]); field {
		case "confirm":
			a.Confirm = visibleText(value)
		case "class":
			a.Class = value
		case "back":
			a.Back = value
		default:
			a.Fields = append(a.Fields, actField{field, value})
		}
	}
	return a, nil
}

// fieldPart is a field of a form, for the parts "field" and "choice".
type fieldPart struct {
	Name      string
	Label     string
	Value     string
	Hint      string
	Error     string
	Type      string
	Long      int      // lines, of a longer text
	Known     []string // of a choice: all; of a field: suggestions
	Described string   // the ids of what is said below it
}

// formField is one of a form, with what was given when the form was refused, and what was said of it. Of the pairs, value, hint, type, long and
// known are those of fieldPart.
func formField(s *screen, name, label string, pairs ...any) (fieldPart, error) {
	given, err := dict(pairs...)
	if err != nil {
		return fieldPart{}, fmt.Errorf("field %s: %w", name, err)
	}
	f := fieldPart{Name: name, Label: label, Type: "text", Error: s.FieldError(name)}
	if value, ok := given["value"]; ok && value != nil {
		f.Value = fmt.Sprint(value)
	}
	if s.Form != nil {
		f.Value = s.Form.Get(name)
	}
	f.Hint, _ = given["hint"].(string)
	if kind, ok := given["type"].(string); ok {
		f.Type = kind
	}
	f.Long, _ = given["long"].(int)
	f.Known, _ = given["known"].([]string)
	var ids []string
	if f.Hint != "" {
		ids = append(ids, "h-"+name)
	}
	if f.Error != "" {
		ids = append(ids, "e-"+name)
	}
	f.Described = strings.Join(ids, " ")
	return f, nil
}

// chartRow is one of the table that says the same as a chart.
type chartRow struct {
	At     time.Time
	Values []string
}

// Rows are the chart's numbers, the latest first.
func (c chart) Rows() (rows []chartRow) {
	for i := len(c.Times) - 1; i >= 0; i-- {
		row := chartRow{At: time.Unix(c.Times[i], 0)}
		for _, s := range c.Series {
			row.Values = append(row.Values, c.value(s.Values, i))
		}
		rows = append(rows, row)
	}
	return rows
}

func (c chart) value(values []*float64, i int) string {
	switch {
	case i >= len(values) || values[i] == nil:
		return "–"
	case c.Unit == "s":
		return lasting(time.Duration(*values[i] * float64(time.Second)))
	}
	return number(trimZeros(*values[i]))
}

func trimZeros(v float64) string {
	text := fmt.Sprintf("%.2f", v)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}
