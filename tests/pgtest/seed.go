package pgtest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/programs"
	"github.com/stretchr/testify/require"
)

// Under "make test" servers start as copies of two clusters, which are made once for all packages: to copy one takes a tenth of a second of
// a processor, initdb and the migrations take three. Elsewhere each server makes its own.
const (
	bare     = "cluster"          // as initdb leaves it
	migrated = "cluster-migrated" // with the template
)

const templateName = "pgtick_template"

// seed returns the folder of a cluster to copy, or "" where each is to be made anew.
func seed(kind string, cron bool) (string, error) {
	bin, err := localpg.FindBinaries(cron)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("%s-%.4x", kind, sha256.Sum256([]byte(bin)))
	return programs.Shared(name, func(path string) error { return sow(kind, cron, path) })
}

// sow fills the folder beside its place, so that an interrupted one is never taken for done.
func sow(kind string, cron bool, path string) error {
	unfinished, from := path+".new", ""
	if kind == migrated {
		var err error
		if from, err = seed(bare, cron); err != nil {
			return err
		}
	}
	settings := testSettings()
	settings["max_wal_size"], settings["min_wal_size"] = "32MB", "32MB" // what is left of the log is copied as well
	own, err := localpg.Start(context.Background(), localpg.Options{DataDir: unfinished, From: from, Cron: cron, Settings: settings})
	if err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if kind == migrated {
		err = (&server{url: own.URL("postgres"), template: templateName}).makeTemplate()
	}
	if err := errors.Join(err, own.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	return os.Rename(unfinished, path)
}

// BareServer is Server for one that has never seen pgtick, whose roles belong to a whole server. There is nothing for NewOn to take.
func BareServer(t testing.TB) *localpg.Server {
	t.Helper()
	own, err := StartBare(forTests(localpg.Options{}))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Close()) })
	return own
}

// StartBare starts a server that has never seen pgtick, outside of a test as well. Whoever starts one closes it.
func StartBare(opt localpg.Options) (*localpg.Server, error) {
	from, err := seed(bare, opt.Cron)
	if err != nil {
		return nil, err
	}
	opt.From, opt.Temp = from, cmp.Or(opt.Temp, fastFolder())
	return localpg.Start(context.Background(), opt)
}

// unused are servers of tests whose template is still to become the database of the first NewOn.
var unused sync.Map

// takeTemplate makes the template of a server that was copied with one the database of this name.
func (s *server) takeTemplate(t testing.TB, own *localpg.Server) *DB {
	t.Helper()
	if _, has := unused.LoadAndDelete(own); !has {
		return nil
	}
	db := s.newDB()
	s.exec(t, "alter database "+templateName+" rename to "+db.Name)
	require.NoError(t, s.renew(db.Name))
	return db
}

// renew makes a database that was filled a while ago like one that is filled now: the slots of the schedules that come with pgtick begin here.
func (s *server) renew(database string) error {
	ctx := context.Background()
	cfg, err := pgx.ParseConfig(s.urlOf(database))
	if err != nil {
		return err
	}
	if err := run(ctx, cfg, forgetSchedules); err != nil {
		return err
	}
	if _, err := migrations.Up(ctx, cfg, migrations.Options{}); err != nil {
		return err
	}
	return run(ctx, cfg, "vacuum (freeze, analyze) pgtick.schedule_defs, pgtick.schedule_changes, pgtick.installed")
}

const forgetSchedules = `delete from pgtick.schedule_changes; delete from pgtick.schedule_defs; delete from pgtick.installed where kind = 'schedule';
	alter table pgtick.schedule_defs alter column id restart`

func run(ctx context.Context, cfg *pgx.ConnConfig, statements string) error {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, statements).ReadAll()
	return err
}
