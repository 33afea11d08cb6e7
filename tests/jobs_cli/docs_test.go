package jobscli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// The page shows what is really printed, command after command on one database. PGTICK_DOCS=write writes it anew.
func TestDocs_ShowWhatIsPrinted(t *testing.T) {
	t.Parallel()
	page := filepath.Join("..", "..", "docs", "cli.md")
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	db := office(t)
	var anew strings.Builder
	inBlock := false
	for line := range strings.Lines(string(text)) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inBlock = line == "```console\n"
			anew.WriteString(line)
		case inBlock && isCommand:
			anew.WriteString(line + shell(t, db, command))
		case !inBlock:
			anew.WriteString(line)
		}
	}
	if os.Getenv("PGTICK_DOCS") == "write" {
		require.NoError(t, os.WriteFile(page, []byte(anew.String()), 0o600))
	}
	require.Equal(t, anew.String(), string(text))
}

func shell(t *testing.T, db *pgtest.DB, command string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
	cmd.Env = append(cmd.Environ(), "DATABASE_URL="+db.URL, "COLUMNS=", "PATH="+filepath.Dir(binary)+":/usr/bin:/bin")
	out, _ := cmd.CombinedOutput() // some end with 1 or 2, and say why
	return string(out)
}
