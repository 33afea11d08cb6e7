// Package sql holds the functions, views and grants of pgtick, one file a subject. They are applied in the order of their names,
// all in one transaction.
package sql

import "embed"

// Files are the SQL files of this folder.
//
//go:embed *.sql
var Files embed.FS
