package jobs

import (
	"encoding/json"
	"slices"
	"time"
)

// ScheduleRow is one row of pgtick.schedules.
type ScheduleRow struct {
	JSON      json.RawMessage `json:"-"` // the whole row, its keys named and ordered as the columns
	NextLocal string          `json:"-"` // NextAt as the clocks of its zone show it; empty where there is none, or the server does not know the zone
	Typical   time.Duration   `json:"-"` // 0: not known

	Name        string     `json:"name"`
	Cron        string     `json:"cron"`
	Description string     `json:"description"`
	TimeZone    string     `json:"time_zone"`
	Task        string     `json:"task"`
	Queue       string     `json:"queue"`
	NextAt      *time.Time `json:"next_at"`
	PausedAt    *time.Time `json:"paused_at"`
	PausedUntil *time.Time `json:"paused_until"`
	BrokenAt    *time.Time `json:"broken_at"`
	LastSlot    *time.Time `json:"last_slot"`
	LastFate    string     `json:"last_fate"`
	LastState   string     `json:"last_state"`
	SuccessRate *float64   `json:"success_rate"`
}

// Parameter is one of pgtick.schedule, without the prefix p_.
type Parameter struct {
	Name     string
	Type     string // as SQL calls it
	Nullable bool
}

// ScheduleParameters lists them in the order of the function.
func ScheduleParameters() []Parameter {
	return []Parameter{
		{"name", "text", false}, {"cron", "text", false}, {"task", "text", false}, {"args", "jsonb", false}, {"time_zone", "text", false},
		{"queue", "text", false}, {"priority", "integer", false}, {"max_attempts", "integer", false}, {"timeout", "interval", false},
		{"on_missed", "text", false}, {"catch_up_limit", "integer", false}, {"catch_up_window", "interval", true}, {"on_overlap", "text", true},
		{"on_gap", "text", false}, {"on_fold", "text", false}, {"jitter", "interval", false}, {"starts_at", "timestamptz", true},
		{"ends_at", "timestamptz", true}, {"must_finish_within", "interval", true}, {"owner_id", "uuid", true},
	}
}

// Argument is a parameter's value, as SQL reads it from text; nil is null.
type Argument struct {
	Parameter
	Text *string
}

// ScheduleSettings names the columns of pgtick.schedules that pgtick.schedule sets, all but the name.
func ScheduleSettings() []string {
	var names []string
	for _, p := range ScheduleParameters() {
		names = append(names, p.Name)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "name" })
}

// ScheduleState is what a schedule is set to, and what follows from it.
type ScheduleState struct {
	ID        int64
	Name      string
	Source    string // who declared it; empty: made by hand
	Settings  map[string]json.RawMessage
	NextAt    *time.Time
	NextLocal string // as in ScheduleRow
}

// Zone is the time zone of its wall times.
func (s ScheduleState) Zone() (name string) {
	_ = json.Unmarshal(s.Settings["time_zone"], &name) // the database has written it
	return name
}

// Cron is its expression.
func (s ScheduleState) Cron() (text string) {
	_ = json.Unmarshal(s.Settings["cron"], &text)
	return text
}

// PlannedSlot is a slot to come.
type PlannedSlot struct {
	Slot  time.Time
	Local string // as the clocks of its zone show it
}

// Expected is one slot of the forecast.
type Expected struct {
	JSON     json.RawMessage // the whole row
	Slot     time.Time
	Schedule string
	RunAt    *time.Time
	Fate     string // the column expected
	Overlaps bool
	Load     int
}

// Why is a reason for which a schedule makes no jobs.
type Why struct {
	Rank     int    `json:"rank"`
	Reason   string `json:"reason"`
	Evidence string `json:"evidence"`
	Remedy   string `json:"remedy"`
}

// Warning is something legal about a schedule that is probably not meant.
type Warning struct {
	Schedule string `json:"schedule"`
	Warning  string `json:"warning"`
}
