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
	JSON      bool     // it is to be JSON, which the script checks while somebody types
	Known     []string // of a choice: all; of a field: suggestions
	Described string   // the ids of what is said below it
}

// formField is one of a form, with what was given when the form was refused, and what was said of it. Of the pairs, value, hint, type, long,
// json and known are those of fieldPart.
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
	f.JSON, _ = given["json"].(bool)
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
