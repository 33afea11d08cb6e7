package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
)

// debianPython is the one that Debian's python3-django is for.
const debianPython = "/usr/bin/python3"

// perRow has a loop over Django's ORM do what a credit task does, a transaction for each row. Where Debian's python3-django and
// python3-psycopg2 are not installed it is left out.
func (b *bench) perRow(ctx context.Context, figure string, taken samples) error {
	if out, err := osexec.CommandContext(ctx, debianPython, "-c", "import django, psycopg2").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "django   %s left out: install python3-django and python3-psycopg2 (%s)\n", figure, strings.TrimSpace(string(out)))
		return nil
	}
	s, err := b.store(ctx, "orm_"+figure)
	if err != nil {
		return err
	}
	out, err := osexec.CommandContext(ctx, debianPython, "django/loop.py", b.server.URL("orm_"+figure), figure, strconv.Itoa(b.size.perRow)).Output()
	if err == nil {
		var rate float64
		if rate, err = strconv.ParseFloat(strings.TrimSpace(string(out)), 64); err == nil {
			taken.add(figure, "django", rate)
			fmt.Fprintf(os.Stderr, "django   %s %8.0f rows/s\n", figure, rate)
		}
	}
	return errors.Join(err, b.drop(ctx, s))
}
