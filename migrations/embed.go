// Package migrations installs and upgrades the schema: first the numbered migrations of this folder, by goose, then the functions,
// views and grants of folder sql whenever they have changed, then the last step (partitions, schedules, the pg_cron entry). Script and
// Supabase write the same as one SQL file.
// Any number of processes may do so at once: one does the work, the others wait and find it done. Doing it again changes nothing.
package migrations

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	sqlfiles "github.com/pgtick/pgtick/sql"
)

//go:embed *.sql
var files embed.FS

//go:embed steps/first.sql
var firstStep string

//go:embed steps/versions.sql
var versionsStep string

//go:embed steps/last.sql
var lastStep string

// versionTable lives in our schema, so that dropping the schema leaves nothing behind.
const versionTable = "pgtick.goose_db_version"

// file is one SQL file that goes into the database.
type file struct {
	name string
	text string
}

// Latest is the version of the schema that this program needs.
func Latest() int64 {
	names := must(fs.Glob(files, "*.sql"))
	return versionOf(names[len(names)-1])
}

func versionOf(name string) int64 {
	number, _, _ := strings.Cut(name, "_")
	return must(strconv.ParseInt(number, 10, 64))
}

// read returns the files of an embedded folder in the order of their names.
func read(folder fs.FS) []file {
	names := must(fs.Glob(folder, "*.sql"))
	slices.Sort(names)
	all := make([]file, len(names))
	for i, name := range names {
		all[i] = file{name: name, text: string(must(fs.ReadFile(folder, name)))}
	}
	return all
}

// sqlHash tells one state of sql/ from another. A new migration changes it too: its tables want their grants.
func sqlHash() string {
	sum := sha256.New()
	for _, f := range append(read(sqlfiles.Files), file{name: strconv.FormatInt(Latest(), 10), text: versionsStep}) {
		fmt.Fprintf(sum, "%d:%s%d:%s", len(f.name), f.name, len(f.text), f.text)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// must is for what cannot fail: these files are part of the program.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
