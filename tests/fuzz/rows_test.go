package fuzz

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// wanted is what an end user may fill in of a request.
var wanted = []string{"task", "args", "run_at"}

// ownHand are the refusals that the owner may meet who writes rows by hand: what PostgreSQL says of a value or a constraint.
var ownHand = map[string]string{
	"22": "a value that is none of the column's type, or out of its range",
	"23": "a constraint, which has a name that says what it keeps",
	"2B": "rows of others depend on it",
	"0A": "what PostgreSQL does not do: an update through a view, say",
	"42": "a column that is generated, a view that cannot be written",
	"55": "a view that cannot be written",
	"54": "more than an index takes",
}

// judgeRows says what is wrong with the answer to reading or writing rows.
func judgeRows(c circumstances, verb string, r *relation, refusal *pgconn.PgError) string {
	if refusal == nil {
		return ""
	}
	if wrong := always(refusal); wrong != "" {
		return wrong
	}
	switch {
	case strings.HasPrefix(refusal.Code, "TK") || fine[refusal.Code] != "":
	case c.role != owner && refusal.Code == "42501": // no right, or a row that the policies do not let through
	case c.role == owner && verb != "select" && ownHand[refusal.Code[:2]] != "":
	case c.role != owner && refusal.Code == "22P02" && strings.Contains(c.claims, `{"sub": {`): // a subject that is no UUID, refused as auth.uid() does
	case c.role != owner && verb == "update" && refusal.Code == "428C9", c.role != owner && verb == "insert" && refusal.Code == "428C9": // a generated column: said before the rights are looked at
	case verb != "select" && (refusal.Code == "55000" || refusal.Code == "0A000") && r.Kind == "v": // a view that cannot be written
	default:
		return "not in our words"
	}
	return ""
}

// read writes a query with a condition on a column, or without.
func (s *session) read(r *relation) *statement {
	query := &statement{sql: "select * from " + r.Name}
	column := pick(s.m, r.Columns)
	if t := s.m.types[column.Type]; s.m.chance(60) && t.Category != "C" {
		place := query.add(s.m.value(column.Name, column.Type, column.Typmod, s.m.chance(50)), t.Name)
		query.sql += " where " + column.Name + pick(s.m, []string{" = ", " <> ", " < ", " >= ", " is distinct from "}) + place
	}
	if s.m.chance(50) {
		query.sql += fmt.Sprintf(" order by %d desc", 1+s.m.IntN(len(r.Columns)))
	}
	query.sql += fmt.Sprintf(" limit %d", s.m.IntN(50))
	return query
}

func (s *session) change(verb string, role string, r *relation) *statement {
	query := &statement{}
	var columns, places []string
	for _, column := range r.Columns {
		ours := r.Name == "pgtick.requests" && role == "authenticated"
		if column.IsOutput && s.m.chance(95) || ours && !slices.Contains(wanted, column.Name) && s.m.chance(95) || !ours && s.m.chance(40) {
			continue
		}
		columns = append(columns, column.Name)
		places = append(places, query.add(s.m.value(column.Name, column.Type, column.Typmod, s.m.chance(70)), s.m.types[column.Type].Name))
	}
	switch {
	case verb == "delete":
		query = &statement{sql: "delete from " + r.Name}
	case len(columns) == 0:
		query = &statement{sql: "insert into " + r.Name + " default values"}
	case verb == "insert":
		query.sql = fmt.Sprintf("insert into %s (%s) values (%s)", r.Name, strings.Join(columns, ", "), strings.Join(places, ", "))
	default:
		sets := make([]string, len(columns))
		for i := range columns {
			sets[i] = columns[i] + " = " + places[i]
		}
		query.sql = fmt.Sprintf("update %s set %s", r.Name, strings.Join(sets, ", "))
	}
	return query
}

func TestTablesAndViews_RefuseInOurWords_AndNeverBreak(t *testing.T) {
	seed := chosenSeed(t)
	types, known := prepare(t)
	relations := readRelations(t, connect(t))
	require.True(t, slices.ContainsFunc(relations, func(r relation) bool { return r.Name == "pgtick.requests" }))
	found, sessions, until := newFindings(), 1, time.Time{}
	if isFull() {
		sessions, until = 2, time.Now().Add(howLong(t)/5)
	}
	var together sync.WaitGroup
	made := make([]int, sessions)
	for i := range sessions {
		one := &session{t: t, m: newMaker(seed, uint64(100+i), types, known), conn: connect(t), seed: seed}
		together.Go(func() { one.rows(relations, found, until); made[i] = one.calls })
	}
	together.Wait()
	found.require(t, slices.Max(made))
	unharmed(t)
}

func (s *session) rows(relations []relation, found *findings, until time.Time) {
	for first := true; first || time.Now().Before(until); first = false {
		for i := range relations {
			r := &relations[i]
			for _, role := range roles {
				s.row(r, role, "select", found)
				s.row(r, role, pick(s.m, []string{"insert", "insert", "update", "delete"}), found)
				for n := 0; r.Name == "pgtick.requests" && role == "authenticated" && n < 20; n++ {
					s.row(r, role, "insert", found)
				}
			}
		}
	}
}

func (s *session) row(r *relation, role, verb string, found *findings) {
	c := s.circumstances(role)
	query := s.read(r)
	if verb != "select" {
		query = s.change(verb, role, r)
	}
	refusal := s.run(c, query)
	found.note(verb+" "+r.Name+" as "+role, judgeRows(c, verb, r, refusal), s.again()+"\n  "+c.String()+query.String(), refusal)
}
