package fuzz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// roles that call; the last one is the owner, who is a superuser here.
var roles = []string{"anon", "authenticated", "service_role", "pgtick_runner", "pgtick_reader", "pgtick_operator", "owner"}

const owner = "owner"

// statement is one call or query, with its values apart.
type statement struct {
	sql    string
	values []*string
	types  []string
}

// add gives the place of a value.
func (s *statement) add(value *string, typeName string) string {
	s.values, s.types = append(s.values, value), append(s.types, typeName)
	return fmt.Sprintf("$%d::%s", len(s.values), typeName)
}

// String is what psql would take: the way to see a failure again.
func (s *statement) String() string {
	text := s.sql
	for i := len(s.values) - 1; i >= 0; i-- {
		literal := "null"
		if v := s.values[i]; v != nil {
			literal = "'" + strings.ReplaceAll(*v, "'", "''") + "'"
			if len(*v) > 300 {
				literal = fmt.Sprintf("'%s…' /* %d bytes */", strings.ToValidUTF8(strings.ReplaceAll((*v)[:100], "'", "''"), ""), len(*v))
			}
		}
		text = strings.ReplaceAll(text, "$"+strconv.Itoa(i+1)+"::", literal+"::")
	}
	return text
}

// setting is what a session may say before a call: it changes how values are read and shown, how plans are made and what names mean.
var settings = []string{"DateStyle = 'SQL, DMY'", "DateStyle = 'German'", "DateStyle = 'Postgres, MDY'", "IntervalStyle = 'iso_8601'", "IntervalStyle = 'postgres_verbose'", "TimeZone = 'Pacific/Apia'", "TimeZone = 'America/St_Johns'",
	"bytea_output = 'escape'", "extra_float_digits = 0", "transform_null_equals = on", "standard_conforming_strings = off", "quote_all_identifiers = on", "enable_indexscan = off", "enable_seqscan = off", "plan_cache_mode = force_generic_plan", "jit = on",
	"search_path = ''", "search_path = pgtick, credits, public", "client_min_messages = debug1", "work_mem = '64kB'", "constraint_exclusion = on", "row_security = on", "check_function_bodies = off", "default_transaction_read_only = on",
	"pgtick.source = 'a file'", "pgtick.declared = '[]'", "lock_timeout = '1ms'"}

// claims are those of tokens as PostgREST hands them over: JSON, and a subject, which another issuer may have made. The last ones only a session of one's own sets.
var claims = []string{`{"sub": "` + ann + `", "role": "authenticated"}`, `{"sub": "` + ben + `", "role": "authenticated"}`, `{"sub": "` + ann + `", "role": "authenticated"}`, ``, `{}`, `{"sub": null}`, `{"sub": ""}`, `{"role": "service_role"}`, `[]`, `{"sub": {"a": 1}}`,
	`{`, `{"sub": "\u0000"}`, strings.Repeat("[", 20000)}

// session makes calls, each in a transaction that is rolled back.
type session struct {
	t     *testing.T
	m     *maker
	conn  *pgx.Conn
	seed  uint64
	calls int
}

// circumstances of one call.
type circumstances struct {
	role     string
	claims   string
	begin    string
	settings []string
}

func (s *session) circumstances(role string) circumstances {
	c := circumstances{role: role, claims: pick(s.m, claims), begin: "begin"}
	switch s.m.IntN(20) {
	case 0:
		c.begin = "begin isolation level repeatable read"
	case 1:
		c.begin = "begin isolation level serializable"
	case 2:
		c.begin = "begin read only"
	}
	for s.m.chance(15) {
		c.settings = append(c.settings, pick(s.m, settings))
	}
	return c
}

func (c circumstances) String() string {
	text := c.begin + "; set local statement_timeout = '" + patience() + "'; set local request.jwt.claims = '" + c.claims + "'; "
	for _, setting := range c.settings {
		text += "set local " + setting + "; "
	}
	if c.role != owner {
		text += "set local role " + c.role + "; "
	}
	return text
}

func patience() string {
	if isFull() {
		return "10s"
	}
	return "1s"
}

// run makes a call and says how the server refused it: nil when it did not.
func (s *session) run(c circumstances, call *statement) *pgconn.PgError {
	s.t.Helper()
	ctx := context.Background()
	s.calls++
	if _, err := s.conn.PgConn().Exec(ctx, c.String()).ReadAll(); err != nil {
		s.t.Fatalf("%s: %s: %v", s.again(), c, err)
	}
	values := make([][]byte, len(call.values))
	for i, v := range call.values {
		if v != nil {
			values[i] = []byte(*v)
		}
	}
	result := s.conn.PgConn().ExecParams(ctx, call.sql, values, nil, nil, nil).Read()
	refusal := new(pgconn.PgError)
	if result.Err != nil && !errors.As(result.Err, &refusal) {
		s.t.Fatalf("%s: the server is gone: %v\n%s%s", s.again(), result.Err, c, call)
	}
	if _, err := s.conn.PgConn().Exec(ctx, "rollback").ReadAll(); err != nil {
		s.t.Fatalf("%s: the session is gone: %v\n%s%s", s.again(), err, c, call)
	}
	if result.Err == nil {
		return nil
	}
	return refusal
}

func (s *session) again() string { return fmt.Sprintf("PGTICK_SEED=%d, call %d", s.seed, s.calls) }

const noHint = "a refusal without a hint"

// always is what no role may ever meet.
func always(refusal *pgconn.PgError) string {
	shown := refusal.Message + "\n" + refusal.Detail + "\n" + refusal.Hint
	switch {
	case strings.HasPrefix(refusal.Code, "XX"):
		return "an internal error"
	case refusal.Severity == "FATAL" || refusal.Severity == "PANIC":
		return "the session was ended"
	case strings.Contains(shown, "PL/pgSQL function") || strings.Contains(shown, "SQL function \""):
		return "a stack trace in the message"
	case strings.HasPrefix(refusal.Code, "TK") && strings.TrimSpace(refusal.Hint) == "":
		return noHint
	case strings.HasPrefix(refusal.Code, "TK") && !knownCodes[refusal.Code]:
		return "a code that docs/errors.md does not have"
	case strings.HasPrefix(refusal.Code, "TK") && len(shown) > 6000:
		return fmt.Sprintf("a message of %d bytes", len(shown))
	case slices.Contains([]string{"P0001", "P0002", "P0003", "P0004"}, refusal.Code):
		return "an error that has no code of ours"
	case (strings.HasPrefix(refusal.Code, "22") || strings.HasPrefix(refusal.Code, "42")) && refusal.Where != "" && strings.Contains(refusal.Where, "unnamed portal parameter"):
		return "this test wrote a value that is none of its type"
	}
	return ""
}

// knownCodes are those of docs/errors.md.
var knownCodes = map[string]bool{}

// fine are the refusals besides our own that a caller of a public function may get, each with its reason.
var fine = map[string]string{
	"57014": "statement_timeout, or somebody cancels the statement: the caller's own setting",
	"55P03": "lock_timeout, the caller's or ours, while somebody else has the row",
	"40001": "another transaction was faster: try again",
	"40P01": "a deadlock of two callers: try again",
	"25006": "the caller's transaction is read only",
}
