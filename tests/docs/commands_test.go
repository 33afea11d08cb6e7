package docs_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/programs"
)

// program answers what the built command line can do.
type program struct {
	t    *testing.T
	path string
	seen map[string]string
}

func newProgram(t *testing.T) *program {
	t.Helper()
	path, err := programs.Build(t.TempDir(), programs.Pgtick)
	require.NoError(t, err)
	return &program{t: t, path: path, seen: map[string]string{}}
}

// help is what a command says of itself.
func (p *program) help(verbs ...string) string {
	key := strings.Join(verbs, " ")
	if text, ok := p.seen[key]; ok {
		return text
	}
	out, err := exec.CommandContext(p.t.Context(), p.path, append(slices.Clone(verbs), "--help")...).CombinedOutput()
	require.NoError(p.t, err, "pgtick %s --help: %s", key, out)
	p.seen[key] = string(out)
	return p.seen[key]
}

var verbLine = regexp.MustCompile(`(?m)^  (?:pgtick )?([a-z][a-z-]*) {2,}\S`)

// verbs are the commands below one.
func (p *program) verbs(of ...string) []string {
	text := p.help(of...)
	_, commands, _ := strings.Cut(text, "Commands:")
	commands, _, _ = strings.Cut(commands, "\nFlags:")
	_, topics, _ := strings.Cut(text, "help topics:")
	var all []string
	for _, found := range verbLine.FindAllStringSubmatch(commands+"\n"+topics, -1) {
		all = append(all, found[1])
	}
	return all
}

// wrong says what a command line names that does not exist, or nothing.
func (p *program) wrong(words []string) string {
	var path []string
	for _, word := range words {
		name, isFlag := strings.CutPrefix(word, "--")
		switch {
		case isFlag:
			name, _, _ = strings.Cut(name, "=")
			if !strings.Contains(p.help(path...), "--"+name) {
				return fmt.Sprintf("pgtick %s has no flag --%s", strings.Join(path, " "), name)
			}
		case word == "help" && len(path) == 0:
		case slices.Contains(p.verbs(path...), word):
			path = append(path, word)
		case len(p.verbs(path...)) > 0 && regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(word):
			return fmt.Sprintf("pgtick %s has no command %s", strings.Join(path, " "), word)
		}
	}
	return ""
}

var (
	inlineCode = regexp.MustCompile("`([^`\n]+)`")
	setting    = regexp.MustCompile(`^[A-Z_]+=('[^']*'|"[^"]*"|\S*)\s+`)
	nextPart   = regexp.MustCompile(`\s*(\||&&|;|>)\s*`)
	trailing   = regexp.MustCompile(`\s+#.*$`)
)

// commands are the command lines of a page's shell blocks, and those that its prose and tables name in passing.
func (p page) commands(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, b := range p.blocks(t, "sh", "console", "bash") {
		for _, line := range strings.Split(strings.ReplaceAll(b.code, "\\\n", " "), "\n") {
			lines = append(lines, nextPart.Split(trailing.ReplaceAllString(strings.TrimPrefix(line, "$ "), ""), -1)...)
		}
	}
	for _, found := range inlineCode.FindAllStringSubmatch(p.prose(), -1) {
		lines = append(lines, found[1])
	}
	var all []string
	for _, line := range lines {
		for setting.MatchString(line) {
			line = setting.ReplaceAllString(line, "")
		}
		line = strings.TrimPrefix(strings.TrimPrefix(line, "./"), "bin/")
		if strings.HasPrefix(line, "pgtick ") || strings.HasPrefix(line, "make ") || strings.HasPrefix(line, "go run ") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

func TestCommands_OfEachPage_Exist(t *testing.T) {
	t.Parallel()
	pgtick, targets := newProgram(t), makeTargets(t)
	for _, p := range pages(t) {
		for _, line := range p.commands(t) {
			words := strings.Fields(line)
			switch words[0] {
			case "pgtick":
				require.Empty(t, pgtick.wrong(words[1:]), "%s: %s", p.name, line)
			case "make":
				for _, target := range words[1:] {
					if !strings.Contains(target, "=") {
						require.Contains(t, targets, target, "%s: %s", p.name, line)
					}
				}
			case "go":
				require.DirExists(t, filepath.Join(root(t), words[2]), "%s: %s", p.name, line)
				require.Empty(t, pgtick.wrong(words[3:]), "%s: %s", p.name, line)
			}
		}
	}
}

func TestCommands_ThatExist_AreExplained(t *testing.T) {
	t.Parallel()
	pgtick := newProgram(t)
	var told []string
	for _, p := range pages(t) {
		told = append(told, p.commands(t)...)
	}
	mentions := func(command string) bool {
		return slices.ContainsFunc(told, func(line string) bool { return line == command || strings.HasPrefix(line, command+" ") })
	}
	for _, verb := range pgtick.verbs() {
		require.True(t, mentions("pgtick "+verb) || mentions("pgtick help "+verb), "no page names pgtick %s", verb)
		for _, sub := range pgtick.verbs(verb) {
			if verb != "completion" { // a shell each
				require.True(t, mentions("pgtick "+verb+" "+sub), "no page names pgtick %s %s", verb, sub)
			}
		}
	}
	for _, target := range makeTargets(t) {
		require.True(t, mentions("make "+target), "no page names make %s", target)
	}
}

// The check itself must be able to fail.
func TestCommands_ThatDoNotExist_AreFound(t *testing.T) {
	t.Parallel()
	pgtick := newProgram(t)
	require.Contains(t, pgtick.verbs(), "work")
	require.Contains(t, pgtick.verbs(), "config")
	require.Contains(t, pgtick.verbs("migrate"), "status")
	require.Empty(t, pgtick.wrong([]string{"migrate", "status"}))
	require.Empty(t, pgtick.wrong([]string{"work", "--grace", "5s"}))
	require.NotEmpty(t, pgtick.wrong([]string{"wrok"}))
	require.NotEmpty(t, pgtick.wrong([]string{"migrate", "down"}))
	require.NotEmpty(t, pgtick.wrong([]string{"migrate", "status", "--json"}))
	require.NotEmpty(t, pgtick.wrong([]string{"help", "nothing"}))
}

// makeTargets are those that the Makefile explains.
func makeTargets(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, found := range regexp.MustCompile(`(?m)^([a-z-]+):.*## `).FindAllStringSubmatch(read(t, filepath.Join(root(t), "Makefile")), -1) {
		all = append(all, found[1])
	}
	require.Contains(t, all, "test")
	return all
}
