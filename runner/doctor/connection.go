package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/jobs"
)

func reachable(_ context.Context, e *exam) error {
	db := e.opt.Database
	if e.unreachable != nil {
		e.fail(cmp.Or(jobs.Remedy(e.unreachable), "see that the server runs, and check DATABASE_URL"), "the database at %s, port %d, can't be reached: %s", db.Host, db.Port, message(e.unreachable))
		return nil
	}
	e.ok("database %s at %s, port %d, as %s; a round trip takes %s", db.Database, db.Host, db.Port, db.User, e.roundTrip.Round(time.Microsecond*10))
	return nil
}

// oldest is the version that migrate needs.
const oldest = 150000

func serverVersion(ctx context.Context, e *exam) error {
	return e.reading(ctx, func(tx pgx.Tx) error {
		number, name, err := versionOf(ctx, tx)
		if err == nil && number < oldest {
			e.fail("upgrade the server to PostgreSQL 15 or later (pg_upgrade; on Supabase: Settings > Infrastructure)", "PostgreSQL %s (%d)", name, number)
		} else if err == nil {
			e.ok("PostgreSQL %s", name)
		}
		return err
	})
}

// sessionMode is what to do about a pooler that is none of ours to change.
func sessionMode(cfg *pgx.ConnConfig, variable string) string {
	if strings.Contains(cfg.Host, ".pooler.supabase.") && cfg.Port == 6543 {
		return fmt.Sprintf("set `%s=%s` (session mode), with the password", variable, urlOf(cfg, cfg.User, 5432))
	}
	return fmt.Sprintf("set %s to the server's own host and port, or to the pooler's port for session mode (Supabase: 5432 in place of 6543)", variable)
}

func pooler(ctx context.Context, e *exam) error {
	switch {
	case e.unreachable != nil:
		e.unseen("first mend what the check reachable says", "the database can't be reached")
		return nil
	case e.byStatement:
		e.fail(sessionMode(e.opt.Database, "DATABASE_URL"), "DATABASE_URL leads through a pooler in statement mode")
		return nil
	}
	conn, err := e.session(ctx)
	if err != nil {
		return err
	}
	pooled, shared, err := migrations.Pooled(ctx, conn, e.opt.Database)
	switch {
	case err != nil:
		return err
	case shared && sameAddress(e.opt.Database, e.opt.Listen):
		e.warn(sessionMode(e.opt.Listen, "LISTEN_DATABASE_URL"), "DATABASE_URL leads through a pooler in transaction mode, and there is no other way for LISTEN")
	case shared:
		e.ok("DATABASE_URL leads through a pooler in transaction mode; LISTEN_DATABASE_URL goes another way")
	case pooled:
		e.ok("DATABASE_URL leads through a pooler in session mode")
	default:
		e.ok("none is between")
	}
	return nil
}

func sameAddress(a, b *pgx.ConnConfig) bool {
	return a.Host == b.Host && a.Port == b.Port && a.Database == b.Database && a.User == b.User
}

// hearWithin is how long a runner waits for such a test, too.
const hearWithin = 3 * time.Second

// listen sends a notification from one session and waits for it in another, as a runner would.
func listen(ctx context.Context, e *exam) error {
	speaker, err := e.session(ctx)
	if err != nil {
		return err
	}
	listener, err := pgx.ConnectConfig(ctx, e.opt.Listen)
	if err != nil {
		e.warn(cmp.Or(jobs.Remedy(err), "check LISTEN_DATABASE_URL"), "LISTEN_DATABASE_URL leads nowhere: %s", message(err))
		return nil
	}
	defer leave(listener)
	channel := "pgtick_doctor_" + strings.ToLower(rand.Text())
	if err := listenTo(ctx, listener, channel); err != nil {
		return err
	}
	sent := time.Now()
	if err := notify(ctx, speaker, channel, "do you hear me?"); err != nil {
		return err
	}
	waiting, end := context.WithTimeout(ctx, hearWithin)
	defer end()
	if _, err := listener.WaitForNotification(waiting); err != nil {
		if !errors.Is(waiting.Err(), context.DeadlineExceeded) {
			return err
		}
		e.warn(sessionMode(e.opt.Listen, "LISTEN_DATABASE_URL"), "a notification did not arrive within %s: a pooler in transaction mode is between, or LISTEN_DATABASE_URL leads to another database", hearWithin)
		return nil
	}
	e.ok("a notification arrived within %s", time.Since(sent).Round(time.Microsecond*10))
	return nil
}

func sameDatabase(ctx context.Context, e *exam) error {
	if sameAddress(e.opt.Database, e.opt.Listen) {
		e.ok("there is one way for LISTEN and all else")
		return nil
	}
	conn, err := e.session(ctx)
	if err != nil {
		return err
	}
	here, err := identityOf(ctx, conn)
	if err != nil {
		return err
	}
	listener, err := pgx.ConnectConfig(ctx, e.opt.Listen)
	if err != nil {
		e.unseen("first mend what the check listen says", "LISTEN_DATABASE_URL leads nowhere")
		return nil
	}
	defer leave(listener)
	there, err := identityOf(ctx, listener)
	if err != nil {
		return err
	}
	if !here.is(there) {
		e.fail(fmt.Sprintf("set LISTEN_DATABASE_URL to another way to the same database, or leave it out: `LISTEN_DATABASE_URL= pgtick work` listens at %s", e.url(e.opt.Database.User)),
			"LISTEN_DATABASE_URL leads to database %s at %s, port %d, and DATABASE_URL to another: %s at %s, port %d", e.opt.Listen.Database, e.opt.Listen.Host, e.opt.Listen.Port,
			e.opt.Database.Database, e.opt.Database.Host, e.opt.Database.Port)
		return nil
	}
	e.ok("both ways lead to one database")
	return nil
}

func loginTimeouts(ctx context.Context, e *exam) error {
	conn, err := e.session(ctx)
	if err != nil {
		return err
	}
	return e.ask(ctx, conn, loginTimeoutsSQL)
}

func schemaVersion(_ context.Context, e *exam) error {
	switch need := migrations.Latest(); {
	case e.version == 0:
		e.fail("`pgtick migrate`", "pgtick is not installed in database %s", e.opt.Database.Database)
	case e.version < 0:
		e.unseen(fmt.Sprintf("`grant select on pgtick.goose_db_version to %s;`", pgx.Identifier{e.opt.Database.User}.Sanitize()), "%s may not read the version of the schema", e.opt.Database.User)
	case e.version < need:
		e.fail("`pgtick migrate`", "the schema is %d, and this program needs %d", e.version, need)
	case e.version > need:
		e.warn("use the newer program", "the schema is %d, of a later release than this program, which brings %d", e.version, need)
	default:
		e.ok("schema %d", e.version)
	}
	return nil
}

func functionsInForce(ctx context.Context, e *exam) error {
	if e.version > migrations.Latest() {
		e.ok("they belong to a later release than this program")
		return nil
	}
	standing, err := migrations.Status(ctx, e.opt.Database)
	switch {
	case err != nil:
		return err
	case !standing.SQL:
		e.warn("`pgtick migrate`", "functions, views and rights are not those of this program, or a role has come or gone since")
	default:
		e.ok("functions, views and rights are those of this program")
	}
	return nil
}

func address(ctx context.Context, e *exam) error {
	here := migrations.Address(e.opt.Database)
	err := e.reading(ctx, func(tx pgx.Tx) error { return mayWorkHere(ctx, tx, here) })
	if err == nil {
		e.ok("runners may work at %s", here)
	}
	if stateOf(err) != "25006" {
		return err
	}
	var known string
	err = e.reading(ctx, func(tx pgx.Tx) (err error) { known, err = knownAddresses(ctx, tx); return err })
	if stateOf(err) == "42501" {
		known, err = "another address", nil
	}
	switch {
	case err != nil:
		return err
	case known == "":
		e.warn("`pgtick adopt`, or leave that to the first runner", "no address is recorded: the first runner will record its own")
	default:
		e.fail("if it is no copy, or one that may work: `pgtick adopt`", "this database belongs to %s, not to %s", known, here)
	}
	return nil
}
