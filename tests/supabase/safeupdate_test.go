package supabase

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// The API's sessions load safeupdate, which refuses an UPDATE or DELETE that has no WHERE, also inside a function. Debian has no package
// of it, so this reads what it would.
var (
	sqlComment = regexp.MustCompile(`(?m)--.*$`)
	changes    = regexp.MustCompile(`(?is)\b(?:update\s+(?:only\s+)?[a-z_0-9.%"]+\s+(?:as\s+[a-z_0-9]+\s+|[a-z_0-9]+\s+)?set|delete\s+from\s+(?:only\s+)?[a-z_0-9.%"]+)\b`)
	condition  = regexp.MustCompile(`(?i)\bwhere\b`)
)

// unconditional are the updates and deletes of a text that have no condition of their own.
func unconditional(text string) []string {
	text = sqlComment.ReplaceAllString(text, "")
	var found []string
	for _, at := range changes.FindAllStringIndex(text, -1) {
		statement := text[at[0] : at[1]+restOfStatement(text[at[1]:])]
		if !condition.MatchString(statement) {
			found = append(found, statement)
		}
	}
	return found
}

// restOfStatement is how far a statement goes on: to its semicolon, or to the parenthesis that closes around it.
func restOfStatement(text string) int {
	depth := 0
	for i, c := range text {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth < 0 || depth == 0 && c == ';' {
			return i
		}
	}
	return len(text)
}

func TestSQL_UnderSafeupdate_HasAConditionInEachUpdateAndDelete(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join(root(t), "sql", "*.sql"))
	require.NoError(t, err)
	statements := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		statements += len(changes.FindAllString(string(text), -1))
		require.Empty(t, unconditional(string(text)), path)
	}
	require.Greater(t, statements, 50)
}

func TestUnconditional_FindsThem(t *testing.T) {
	t.Parallel()
	require.Len(t, unconditional("update pgtick.clocks set ticked_at = now();"), 1)
	require.Len(t, unconditional("with gone as (delete from pgtick.clocks returning *) select from gone where true;"), 1)
	require.Empty(t, unconditional("update pgtick.clocks as c set clock = (select 1) where c.clock = 'x'; insert into t select 1 on conflict do update set a = 1;"))
}
