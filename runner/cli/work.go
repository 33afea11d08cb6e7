package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/runner/metrics"
	"github.com/pgtick/pgtick/runner/tracing"
	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tasks"
)

func workCommand(registry *tasks.Registry) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "work",
		Short: "Run jobs, and serve the dashboard, health and metrics",
		Long: `Run jobs until SIGTERM or SIGINT: then claim no more, let running jobs end within the grace, give back the rest without counting
an attempt, and exit 0. A second signal ends the process at once; its jobs go back when the lease has run out.

With --database, once for each, one runner works on several databases. Each has workers, connections and rates of its own, as many as the
settings say. One that can't be reached at the start is tried again every ten seconds, while the others go on.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.LoadRunner(flagsOf(cmd), os.LookupEnv)
			if err != nil {
				return err
			}
			return work(cmd.Context(), cfg, registry, newLog(cfg, cmd.ErrOrStderr()))
		},
	}
	settings(cmd)
	return cmd
}

// What a runner holds is small, and what passes through it is not: with Go's default a busy one spends a tenth of its time collecting
// garbage, with this somewhat more than half of that, for some 5 MiB. GOGC in the environment goes before it.
const gcPercent = 150

// work runs an engine for each database, and the HTTP server of all, until ctx ends.
func work(ctx context.Context, cfg config.Config, registry *tasks.Registry, log *logrus.Logger) error {
	return workServing(ctx, cfg, registry, log, func(string) {})
}

// workServing is work that tells where the dashboard is, once it is there.
func workServing(ctx context.Context, cfg config.Config, registry *tasks.Registry, log *logrus.Logger, served func(url string)) error {
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	}
	limit.LogLibrary(logrus.NewEntry(log))
	if cfg.Redis != nil {
		defer func() { _ = cfg.Redis.Close() }()
	}
	registered := metrics.NewRegistry(buildVersion())
	sites, err := sitesOf(cfg, registry, registered, log)
	if err != nil {
		return usageError{err}
	}
	defer sites.close()
	traces := tracing.Start(ctx, os.LookupEnv, buildVersion(), log)
	defer traces.Stop()
	for _, s := range sites {
		traces.Around(s.registry)
	}
	if err := sites.admit(ctx); err != nil {
		return err
	}
	if cfg.HTTP != "" {
		dashboard, err := dashboardOf(cfg, sites.shown(), log)
		if err != nil {
			return err
		}
		server, err := web.Start(cfg.HTTP, cfg.Name, sites.engines(), cfg.Lease, registered, dashboard, log)
		if err != nil {
			return fmt.Errorf("serve health and metrics at %s: %w", cfg.HTTP, err)
		}
		defer server.Stop()
		log.Infof("health and metrics at %s", server.URL())
		if dashboard != nil {
			log.Infof("dashboard at %s", server.URL())
			served(server.URL())
		}
	}
	if err := sites.run(ctx); err != nil {
		return err
	}
	log.Info("stopped: nothing is held any more")
	return nil
}

// admit makes sure, before anything is claimed, that the schema is new enough and that this database is not somebody else's copy.
// It also finds out whether a pooler is between, which would mix up prepared statements.
func admit(ctx context.Context, cfg config.Config) error {
	conn, err := connector(unprepared(cfg.Database))(ctx)
	if err != nil {
		return unreachable(cfg.Database, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := plainBehindPooler(ctx, conn, cfg.Database); err != nil {
		return err
	}
	if err := migrations.Check(ctx, conn); err != nil {
		return err
	}
	return jobs.CheckAddress(ctx, conn, migrations.Address(cfg.Database))
}

// plainBehindPooler turns prepared statements off where another program answers for the server: the next statement may go to another
// session of it. The server's own process number tells, since a pooler has one of its own.
func plainBehindPooler(ctx context.Context, conn *pgx.Conn, database *pgx.ConnConfig) error {
	pid, err := jobs.ServerPID(ctx, conn)
	if err != nil {
		return err
	}
	if pid != conn.PgConn().PID() {
		database.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	return nil
}

// unprepared is for a connection of which it is not known yet whether a pooler is between: another runner may have prepared the same there.
func unprepared(database *pgx.ConnConfig) *pgx.ConnConfig {
	own := database.Copy()
	own.DefaultQueryExecMode = pgx.QueryExecModeExec
	return own
}

func connector(database *pgx.ConnConfig) engine.Connector {
	return func(ctx context.Context) (*pgx.Conn, error) {
		if err := refusedLately(database); err != nil {
			return nil, err
		}
		return pgx.ConnectConfig(ctx, database)
	}
}

func taskPool(ctx context.Context, cfg config.Config) (*pgxpool.Pool, error) {
	pooled, err := pgxpool.ParseConfig(cfg.Database.ConnString()) // a pool's settings can be made in no other way
	if err != nil {
		return nil, err
	}
	pooled.ConnConfig = cfg.Database.Copy()
	pooled.MaxConns, pooled.MinConns = int32(cfg.Connections), 0 //nolint:gosec // config allows 1 to 1000
	pooled.PingTimeout, pooled.BeforeClose = pingTimeout, giveUp
	pooled.PrepareConn = takesWrites
	pooled.BeforeConnect = func(_ context.Context, database *pgx.ConnConfig) error { return refusedLately(database) }
	return pgxpool.NewWithConfig(ctx, pooled)
}

// A connection that was cut without a word, as networks cut idle ones, is found out before a task gets it.
const pingTimeout = 3 * time.Second

// giveUp ends what is left of a connection that is closed already, when the other end says nothing: the library would hold the pool's place for it,
// and a task wait, for a quarter of a minute. The end of a statement that was cancelled takes less.
func giveUp(conn *pgx.Conn) {
	if !conn.IsClosed() {
		return
	}
	select {
	case <-conn.PgConn().CleanupDone():
	case <-time.After(pingTimeout):
		_ = conn.PgConn().Conn().Close()
	}
}

// takesWrites gives tasks no session on a server that takes no writes, as it tells of itself with each answer; behind a pooler nobody does.
// Such a session is closed: the next one may meet another server, after a failover, or the same one with room on its disk.
func takesWrites(_ context.Context, conn *pgx.Conn) (bool, error) {
	if engine.ReadOnly(conn) {
		return false, jobs.ErrReadOnly
	}
	return true, nil
}

// unreachable says where it could not go. The cause may name host and user, never the password.
func unreachable(database *pgx.ConnConfig, err error) error {
	return fmt.Errorf("the database at %s, port %d, can't be reached: %w", database.Host, database.Port, err)
}

func newLog(cfg config.Config, talk io.Writer) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(talk)
	log.SetLevel(cfg.LogLevel)
	terminal := isTerminal(talk)
	if cfg.LogFormat == "json" || (cfg.LogFormat == "auto" && !terminal) {
		log.SetFormatter(&logrus.JSONFormatter{})
	} else {
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: !terminal})
	}
	return log
}

func isTerminal(w io.Writer) bool {
	file, isFile := w.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd()))
}
