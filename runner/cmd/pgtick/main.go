// Command pgtick runs jobs and cron for PostgreSQL. See `pgtick help`.
package main

import "github.com/pgtick/pgtick/runner/cli"

func main() { cli.Main() }
