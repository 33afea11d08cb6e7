package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tasks"
)

func devCommand(registry *tasks.Registry) *cobra.Command {
	var dir string
	var once bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "A private Postgres with pg_cron, migrated and seeded, and a runner, on this machine",
		Long: `Start a private PostgreSQL below the given folder, on a free port of this machine, with pg_cron where it is installed; migrate it; fill
the credit ledger with 10,000 accounts; start a runner; show a tick of pg_cron become a finished job; run the four credit schedules;
and stay until Ctrl-C. Nothing is left running. The next start finds the data again.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &dev{dir: dir, once: once, out: cmd.OutOrStdout(), talk: cmd.ErrOrStderr(), tasks: registry}
			return d.run(cmd.Context(), cmd)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", filepath.Join(".pgtick", "dev"), "folder of the private server")
	cmd.Flags().BoolVar(&once, "once", false, "begin with an empty database, and end when all has been shown")
	settings(cmd, "workers", "lease", "poll", "grace", "http", "name", "log-level", "log-format")
	return cmd
}

// dev is one run of the command.
type dev struct {
	dir   string
	once  bool
	out   io.Writer
	talk  io.Writer
	tasks *tasks.Registry

	server *localpg.Server
	cron   bool
	pool   *pgxpool.Pool
	web    atomic.Value // where the dashboard is
}

func (d *dev) run(ctx context.Context, cmd *cobra.Command) error {
	if err := d.startServer(ctx); err != nil {
		return err
	}
	defer func() { _ = d.server.Close() }()
	cfg, err := d.config(cmd)
	if err != nil {
		return err
	}
	if err := d.migrate(ctx, cfg); err != nil {
		return err
	}
	if d.pool, err = taskPool(ctx, cfg); err != nil {
		return err
	}
	defer d.pool.Close()
	// Their own slots may come at any moment; the work is to be there when it is shown.
	if err := d.eachCreditSchedule(ctx, jobs.PauseSchedule); err != nil {
		return err
	}
	if err := d.seed(ctx); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return d.withRunner(ctx, cfg, d.show)
}

func (d *dev) startServer(ctx context.Context) error {
	if d.once {
		if err := d.forget(ctx); err != nil {
			return err
		}
	}
	started := time.Now()
	opt := localpg.Options{DataDir: d.dir, Cron: true, Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "2GB"}}
	server, err := localpg.Start(ctx, opt)
	if errors.Is(err, localpg.ErrNoCron) {
		d.say("pg_cron is not installed here; the runner's own clock serves instead")
		opt.Cron = false
		server, err = localpg.Start(ctx, opt)
	}
	if err != nil {
		return err
	}
	d.server, d.cron = server, opt.Cron
	d.step(started, "PostgreSQL at 127.0.0.1:%d, data in %s", server.Port(), d.dir)
	return nil
}

// forget removes the data of an earlier run, but never that of a server that is running.
func (d *dev) forget(ctx context.Context) error {
	running, err := localpg.Find(ctx, d.dir)
	if err != nil {
		return err
	}
	if running != nil {
		return fmt.Errorf("a server is running in %s: stop it first", d.dir)
	}
	return os.RemoveAll(d.dir)
}

// config takes the settings of the environment and the flags, but the private server as the database.
func (d *dev) config(cmd *cobra.Command) (config.Config, error) {
	url := d.server.URL("postgres")
	return config.Load(func(name string) (string, bool) {
		switch name {
		case "database-url", "listen-database-url":
			return url, true
		case "clock":
			// With pg_cron there, its tick alone shall make the job that is shown.
			return map[bool]string{true: "off", false: "on"}[d.cron], true
		case "sync-target":
			return "local", true // demonstration data shall reach nobody's reports
		case "sync-key":
			return "", true
		}
		flag := cmd.Flags().Lookup(name)
		if flag != nil && flag.Changed {
			return flag.Value.String(), true
		}
		return "warning", name == "log-level" && d.once // of a show, the talk of the runner is not wanted
	}, os.LookupEnv)
}

func (d *dev) migrate(ctx context.Context, cfg config.Config) error {
	started := time.Now()
	report, err := migrations.Up(ctx, cfg.Database, migrations.Options{})
	if err != nil {
		return err
	}
	for _, note := range report.Notes {
		d.say("%s", note)
	}
	d.step(started, "schema up to date: %d migrations run, %d things installed", len(report.Migrations), len(report.Installed))
	return nil
}

// withRunner runs f beside a runner, and ends when f fails, or, of a single show, when f has returned.
func (d *dev) withRunner(ctx context.Context, cfg config.Config, f func(context.Context) error) error {
	addDemoTask(d.tasks)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	log := newLog(cfg, d.talk)
	go func() { ended <- workServing(ctx, cfg, d.tasks, log, func(url string) { d.web.Store(url) }) }()
	shown := make(chan error, 1)
	go func() { shown <- f(ctx) }()
	select {
	case err := <-ended: // before all was shown: Ctrl-C, or the runner could not work
		return err
	case err := <-shown:
		if err != nil || d.once {
			stop()
			return errors.Join(ignoreCancelled(err), <-ended)
		}
	}
	d.say("\nIt stays up until Ctrl-C: psql %s", d.server.URL("postgres"))
	if url := d.web.Load(); url != nil {
		d.say("The dashboard: %s", url)
	}
	return <-ended
}

func ignoreCancelled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (d *dev) say(format string, args ...any) { _, _ = fmt.Fprintf(d.talk, format+"\n", args...) }

// step tells that something is done, and how long it took.
func (d *dev) step(started time.Time, format string, args ...any) {
	d.say("%7.1f s  %s", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
}
