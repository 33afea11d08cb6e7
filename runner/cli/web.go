package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/metrics"
	"github.com/pgtick/pgtick/runner/web"
)

func webCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "web",
		Short: "Serve the dashboard without running jobs",
		Long: `Serve the dashboard of one database or several, without a runner, until SIGTERM or SIGINT. Every "pgtick work" serves it as well.

On an address that only this machine can reach, nobody has to log in. On any other it needs PGTICK_WEB_TOKEN, PGTICK_WEB_READ_TOKEN, or an
identity provider's keys. The login to the database must be able to read all of pgtick (pgtick roles reader makes one) and, for actions, be an
operator's (pgtick roles operator) or the owner's.`,
		Example: "  pgtick web\n  PGTICK_WEB_TOKEN=\"$(openssl rand -base64 33)\" pgtick web --http :8640",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.LoadRunner(flagsOf(cmd), os.LookupEnv)
			if err != nil {
				return err
			}
			return serveWeb(cmd.Context(), cfg, newLog(cfg, cmd.ErrOrStderr()))
		},
	}
	names := []string{"database-url", "database", "http", "name", "log-level", "log-format"}
	for _, s := range config.Table() {
		if s.Web() && s.Flag != "web" {
			names = append(names, s.Flag)
		}
	}
	settings(cmd, names...)
	return cmd
}

// serveWeb serves the dashboard alone until ctx ends.
func serveWeb(ctx context.Context, cfg config.Config, log *logrus.Logger) error {
	if cfg.HTTP == "" {
		return usageError{fmt.Errorf("PGTICK_HTTP (or --http) is off: give the address at which the dashboard is to be, such as 127.0.0.1:8640")}
	}
	cfg.Web.Off = false
	dashboard, err := dashboardOf(cfg, looked(cfg), log)
	switch {
	case err != nil:
		return err
	case dashboard == nil:
		return usageError{fmt.Errorf("others can reach %s, so the dashboard needs something to log in with: set PGTICK_WEB_TOKEN, PGTICK_WEB_READ_TOKEN or PGTICK_WEB_JWKS_URL", cfg.HTTP)}
	}
	server, err := web.Start(cfg.HTTP, cfg.Name, nil, cfg.Lease, metrics.NewRegistry(buildVersion()), dashboard, log)
	if err != nil {
		dashboard.Close()
		return fmt.Errorf("serve the dashboard at %s: %w", cfg.HTTP, err)
	}
	defer server.Stop()
	log.Infof("dashboard at %s", server.URL())
	<-ctx.Done()
	return nil
}

// looked are the databases of a dashboard that has no runner beside it.
func looked(cfg config.Config) (shown []web.Database) {
	for _, a := range append([]config.Addresses{{Database: cfg.Database, Web: cfg.Web.Database}}, cfg.More...) {
		d := web.Database{Config: cmp.Or(a.Web, a.Database)}
		if len(cfg.More) > 0 {
			d.Name = migrations.Address(a.Database)
		}
		shown = append(shown, d)
	}
	return shown
}

// dashboardOf makes the dashboard that the settings allow: none where it is off, or where others could reach it without logging in.
func dashboardOf(cfg config.Config, shown []web.Database, log *logrus.Logger) (*web.Dashboard, error) {
	w := cfg.Web
	access := web.Access{Token: w.Token, ReadToken: w.ReadToken}
	if w.Key != "" {
		access.Key = []byte(w.Key)
	}
	if w.JWT() {
		access.JWT = &web.JWT{JWKS: w.JWKS, Secret: w.Secret, Issuer: w.Issuer, Audience: w.Audience, RoleClaim: w.RoleClaim, OperatorRole: w.OperatorRole, ReaderRole: w.ReaderRole}
	}
	access.Open = web.Loopback(cfg.HTTP) && !access.Demanded()
	switch {
	case w.Off:
		return nil, nil //nolint:nilnil // none is what was asked for
	case !access.Open && !access.Demanded():
		log.Warnf("no dashboard: others can reach %s, and neither PGTICK_WEB_TOKEN nor PGTICK_WEB_JWKS_URL is set; PGTICK_WEB=off says that none is wanted", cfg.HTTP)
		return nil, nil //nolint:nilnil // likewise
	}
	hide, withDefault, err := web.ParseHidden(w.Hide)
	if err != nil {
		return nil, usageError{fmt.Errorf("PGTICK_WEB_HIDE (or --web-hide): %w", err)}
	}
	return web.NewDashboard(web.Options{Databases: shown, Access: access, Version: buildVersion(), Log: log, Verify: verifyFor,
		Rules: web.Rules{Hide: hide, HideDefault: withDefault, ReadersSee: w.ReadersSee}})
}

// shown are the databases, as the dashboard reaches them.
func (all sites) shown() (shown []web.Database) {
	for _, s := range all {
		d := web.Database{Name: s.name, Config: s.cfg.Web.Database, Status: s.status}
		if d.Config == nil {
			d.Config = s.cfg.Database
			d.Before = func() error { return refusedLately(s.cfg.Database) }
		}
		shown = append(shown, d)
	}
	return shown
}

// seen tells the metrics, and what the dashboards' charts are made of, what the engine did.
type seen struct {
	engine.Observer
	tally *web.Tally
}

// Finished implements engine.Observer.
func (s seen) Finished(task, queue, outcome string, waited, ran time.Duration) {
	s.Observer.Finished(task, queue, outcome, waited, ran)
	s.tally.Finished(outcome, waited, ran)
}
