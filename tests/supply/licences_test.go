package supply

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// allowed are the licences under which others may be given a program that holds the code, as long as the text goes with it.
var allowed = []struct {
	name  string
	words *regexp.Regexp
}{
	{"Apache-2.0", regexp.MustCompile(`(?i)Apache License,?\s+Version 2\.0`)},
	{"MIT", regexp.MustCompile(`(?i)Permission is hereby granted, free of charge, to any person obtaining\s+a\s+copy`)},
	{"BSD", regexp.MustCompile(`(?i)Redistributions? (and use )?in (source|binary)`)},
	{"ISC or 0BSD", regexp.MustCompile(`(?i)Permission to use, copy, modify, and(/or)? distribute this software for\s+any\s+purpose`)},
}

// refusedWords are those of licences that ask for more than that.
var refusedWords = regexp.MustCompile(`(?i)(GNU (Affero |Lesser |Library )?General Public License|Mozilla Public License|Business Source License|Server Side Public License|Commons Clause|Creative Commons.*(NonCommercial|ShareAlike)|European Union Public Licence)`)

// part is a module that is built into the program, or Go itself.
type part struct{ path, version, dir string }

// parts are those of the program on any platform that make dist builds it for.
func parts(t *testing.T) (all []part) {
	t.Helper()
	for _, system := range []string{"linux", "darwin"} {
		listed := run(t, []string{"GOOS=" + system, "CGO_ENABLED=0"}, "go", "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}`, "./runner/cmd/pgtick")
		for line := range strings.Lines(listed) {
			if words := strings.Fields(line); len(words) == 3 {
				all = append(all, part{words[0], words[1], words[2]})
			}
		}
	}
	slices.SortFunc(all, func(a, b part) int { return strings.Compare(a.path, b.path) })
	all = slices.Compact(all)
	return append([]part{{"Go, its standard library", "", goLicence(t, all)}}, all...)
}

// goLicence is the folder with the text of Go's own licence. Distributions leave it out; the modules golang.org/x have the same one.
func goLicence(t *testing.T, others []part) string {
	t.Helper()
	folder := strings.TrimSpace(run(t, nil, "go", "env", "GOROOT"))
	if _, err := os.Stat(filepath.Join(folder, "LICENSE")); err == nil {
		return folder
	}
	at := slices.IndexFunc(others, func(p part) bool { return p.path == "golang.org/x/sys" })
	require.GreaterOrEqual(t, at, 0)
	return others[at].dir
}

// texts are the files of a module that speak of its licence.
func (p part) texts(t *testing.T) (texts []string) {
	t.Helper()
	entries, err := os.ReadDir(p.dir)
	require.NoError(t, err)
	for _, entry := range entries {
		upper := strings.ToUpper(entry.Name())
		if entry.IsDir() || !strings.HasPrefix(upper, "LICEN") && !strings.HasPrefix(upper, "COPYING") && !strings.HasPrefix(upper, "NOTICE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(p.dir, entry.Name()))
		require.NoError(t, err)
		texts = append(texts, strings.TrimSpace(strings.ReplaceAll(string(text), "\r\n", "\n")))
	}
	return texts
}

// foreignScripts are those that the dashboard's pages load and others have written. Each has its licence beside it.
func foreignScripts(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(top(), "runner", "web", "static", "*.js"))
	require.NoError(t, err)
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".js"); name != "app" {
			names = append(names, name)
		}
	}
	return names
}

// licences are the names of those that a module is under, or the empty list where a text is not known.
func licences(texts []string) (names []string) {
	whole := strings.Join(texts, "\n")
	if refusedWords.MatchString(whole) {
		return nil
	}
	for _, licence := range allowed {
		if licence.words.MatchString(whole) {
			names = append(names, licence.name)
		}
	}
	return names
}

// The licences ask that their texts go with the program. make dist puts the file beside it.
func TestLicences_AreAllowed_AndHandedOutWithTheProgram(t *testing.T) {
	t.Parallel()
	var list, texts strings.Builder
	add := func(title string, found []string) {
		names := licences(found)
		require.NotEmpty(t, names, "%s: none of the licences that are allowed", title)
		_, _ = fmt.Fprintf(&list, "  %s: %s\n", title, strings.Join(names, ", "))
		_, _ = fmt.Fprintf(&texts, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), title, strings.Join(found, "\n\n"))
	}
	for _, p := range parts(t) {
		add(strings.TrimSpace(p.path+" "+p.version), p.texts(t))
	}
	for _, script := range foreignScripts(t) {
		add(script+", in the dashboard's pages", []string{strings.TrimSpace(contents(t, "runner", "web", "static", script+".LICENSE.txt"))})
	}
	want := "The program pgtick is built of its own code (see LICENSE) and of what follows. This file is made by: go test ./tests/supply -run Licences -write\n\n" + list.String() + texts.String()
	file := filepath.Join(top(), "THIRD_PARTY_LICENSES")
	if *write {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644))
		return
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, string(have) == want, "THIRD_PARTY_LICENSES is not of these modules any more: go test ./tests/supply -run Licences -write, and read the difference")
}

func TestLicences_ThatAskForMore_AreFound(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"MIT"}, licences([]string{"Permission is hereby granted, free of charge, to any person obtaining a copy"}))
	for _, text := range []string{"", "All rights reserved.", "GNU GENERAL PUBLIC LICENSE Version 3", "GNU Affero General Public License", "Mozilla Public License Version 2.0\nPermission is hereby granted, free of charge, to any person obtaining a copy"} {
		require.Empty(t, licences([]string{text}), text)
	}
}
