package localpg

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoBinaries says that no PostgreSQL server is installed.
var ErrNoBinaries = errors.New("no PostgreSQL server found: install postgresql and postgresql-*-cron (on Debian: " +
	"apt-get install --no-install-recommends postgresql postgresql-15-cron), or set PGTICK_PG_BIN to the folder of initdb and postgres")

// ErrNoCron says that the PostgreSQL server that was found has no pg_cron.
var ErrNoCron = errors.New("pg_cron is not installed for this PostgreSQL (on Debian: apt-get install --no-install-recommends postgresql-15-cron)")

// FindBinaries returns the folder of initdb and postgres: PGTICK_PG_BIN; else the newest that is installed, one that has pg_cron
// first where cron is asked for; else the one on the PATH.
func FindBinaries(cron bool) (string, error) {
	if asked := os.Getenv("PGTICK_PG_BIN"); asked != "" {
		if !hasServer(asked) {
			return "", fmt.Errorf("PGTICK_PG_BIN=%s has no initdb and postgres", asked)
		}
		return asked, nil
	}
	found := installed()
	if cron {
		if i := slices.IndexFunc(found, HasCron); i >= 0 {
			return found[i], nil
		}
	}
	if len(found) == 0 {
		return "", ErrNoBinaries
	}
	return found[0], nil
}

// installed lists the folders that hold a server, the newest version first, what is on the PATH last.
func installed() []string {
	var found []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/usr/local/pgsql/bin",
	} {
		matches, _ := filepath.Glob(pattern) // the only error is a bad pattern
		found = append(found, matches...)
	}
	slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(majorIn(b), majorIn(a)) })
	if onPath, err := exec.LookPath("initdb"); err == nil {
		found = append(found, filepath.Dir(onPath))
	}
	return slices.DeleteFunc(found, func(bin string) bool { return !hasServer(bin) })
}

// majorIn reads the version from a path such as /usr/lib/postgresql/15/bin; 0 where it names none.
func majorIn(bin string) int {
	folder := filepath.Base(filepath.Dir(bin))
	digits := strings.TrimLeftFunc(folder, func(r rune) bool { return r < '0' || r > '9' })
	major, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return major
}

func hasServer(bin string) bool { return isFile(bin, "initdb") && isFile(bin, "postgres") }

// HasCron tells whether the PostgreSQL of this bin folder has the library of pg_cron.
func HasCron(bin string) bool {
	folders := []string{filepath.Join(bin, "../lib"), filepath.Join(bin, "../lib/postgresql")}
	if out, err := exec.Command(filepath.Join(bin, "pg_config"), "--pkglibdir").Output(); err == nil { //nolint:gosec // beside the server that is about to be started
		folders = append(folders, strings.TrimSpace(string(out)))
	}
	return slices.ContainsFunc(folders, func(folder string) bool {
		return isFile(folder, "pg_cron.so") || isFile(folder, "pg_cron.dylib")
	})
}

func isFile(folder, name string) bool {
	info, err := os.Stat(filepath.Join(folder, name)) //nolint:gosec // it only looks whether it is there
	return err == nil && info.Mode().IsRegular()
}
