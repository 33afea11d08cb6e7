// Command localdb keeps a private PostgreSQL with pg_cron and pgtick in .pgtick/db of the checkout, for work on pgtick itself.
//
//	localdb start   start it, or use the one that runs; the last line of stdout is a superuser's URL
//	localdb stop    stop it; the data stay
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
)

const (
	folder   = ".pgtick/db"
	database = "pgtick"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, talk io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: localdb start | stop")
	}
	switch args[0] {
	case "start":
		return start(ctx, out, talk)
	case "stop":
		return stopServer(ctx, talk)
	default:
		return fmt.Errorf("usage: localdb start | stop, not %q", args[0])
	}
}

func start(ctx context.Context, out, talk io.Writer) error {
	server, err := startServer(ctx, talk)
	if err != nil {
		return err
	}
	if err := createDatabase(ctx, server); err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(server.URL(database))
	if err != nil {
		return err
	}
	report, err := migrations.Up(ctx, cfg, migrations.Options{Log: func(line string) { fmt.Fprintln(talk, line) }})
	if err != nil {
		return err
	}
	for _, note := range report.Notes {
		fmt.Fprintln(talk, note)
	}
	fmt.Fprintf(talk, "PostgreSQL runs in %s (process %d) until make db-stop\n", folder, server.Pid())
	_, err = fmt.Fprintln(out, server.URL(database))
	return err
}

// startServer goes on without pg_cron where that is not installed.
func startServer(ctx context.Context, talk io.Writer) (*localpg.Server, error) {
	opt := localpg.Options{DataDir: folder, Cron: true, CronDatabase: database, Detached: true, Durable: true}
	server, err := localpg.Start(ctx, opt)
	if errors.Is(err, localpg.ErrNoCron) {
		fmt.Fprintln(talk, localpg.ErrNoCron)
		opt.Cron = false
		return localpg.Start(ctx, opt)
	}
	return server, err
}

func createDatabase(ctx context.Context, server *localpg.Server) error {
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var there bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", database).Scan(&there); err != nil || there {
		return err
	}
	_, err = conn.Exec(ctx, "create database "+database)
	return err
}

func stopServer(ctx context.Context, talk io.Writer) error {
	server, err := localpg.Find(ctx, folder)
	if err != nil {
		return err
	}
	if server == nil {
		fmt.Fprintln(talk, "no PostgreSQL runs in", folder)
		return nil
	}
	return server.Stop()
}
