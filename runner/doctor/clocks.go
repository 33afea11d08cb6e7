package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// compareClocks asks the server for the time, the moment halfway between question and answer taken for that of its answer; of three times the
// quickest counts.
func (x *examination) compareClocks(ctx context.Context) error {
	for i := range 3 {
		asked := time.Now()
		at, err := serverTime(ctx, x.conn)
		if err != nil {
			return err
		}
		if took := time.Since(asked); i == 0 || took < x.roundTrip {
			x.roundTrip, x.ahead = took, at.Sub(asked.Add(took/2).Round(0))
		}
	}
	if x.version == 0 {
		return nil
	}
	replaced, err := nowAhead(ctx, x.conn)
	if err == nil {
		x.replaced = replaced
	}
	if stateOf(err) != "" { // not every login may ask
		return nil
	}
	return err
}

const mostSkew = 2 * time.Second

func clockSkew(_ context.Context, e *exam) error {
	if e.replaced.Abs() > time.Second {
		e.warn(fmt.Sprintf("put it back, as %s: %s", e.owner, putNowBack),
			"pgtick.now() is %s %s the server's clock: somebody has replaced it, as tests do", about(e.replaced), side(e.replaced))
	}
	if e.ahead.Abs() > mostSkew+e.roundTrip/2 {
		e.warn("set the clock that is wrong: `timedatectl set-ntp true` on its machine, and `timedatectl status`", "the server's clock is %s %s this machine's", about(e.ahead), side(e.ahead))
	}
	if len(e.found) == 0 {
		e.ok("the server's clock and this machine's differ by at most %s", (e.ahead.Abs()+e.roundTrip/2).Truncate(time.Millisecond)+time.Millisecond)
	}
	return nil
}

func about(d time.Duration) time.Duration { return d.Abs().Round(100 * time.Millisecond) }

func side(ahead time.Duration) string {
	if ahead > 0 {
		return "ahead of"
	}
	return "behind"
}

// cron is what is known of pg_cron: in which database it is, and its entries that tick some database.
type cron struct {
	home   string // the database; "": it is not loaded
	absent bool   // the extension has not been made
	whole  bool   // no entry is hidden from this login
	rows   []cronRow
}

// findCron looks where pg_cron is, in this database or in another one of the server, by the same login.
func (e *exam) findCron(ctx context.Context) (*cron, error) {
	if e.cron != nil {
		return e.cron, nil
	}
	var c cron
	var here bool
	err := e.reading(ctx, func(tx pgx.Tx) (err error) { here, err = hasCron(ctx, tx); return err })
	if err == nil {
		err = e.reading(ctx, func(tx pgx.Tx) (err error) { c.home, err = cronHome(ctx, tx); return err })
	}
	if err != nil {
		return nil, err
	}
	if here {
		c.home = e.opt.Database.Database
	}
	if c.home != "" {
		if err := e.readCron(ctx, &c); err != nil {
			return nil, err
		}
	}
	e.cron = &c
	return e.cron, nil
}

func (e *exam) readCron(ctx context.Context, c *cron) error {
	err := e.atCron(ctx, c, func(tx pgx.Tx) (err error) {
		if c.whole, err = seesAllRows(ctx, tx); err == nil {
			c.rows, err = cronRows(ctx, tx)
		}
		return err
	})
	if code := stateOf(err); code == "42P01" || code == "3F000" {
		c.absent = true
		return nil
	}
	return err
}

// atCron asks in the database that has pg_cron.
func (e *exam) atCron(ctx context.Context, c *cron, f func(tx pgx.Tx) error) error {
	if c.home == e.opt.Database.Database {
		return e.reading(ctx, f)
	}
	there := e.opt.Database.Copy()
	there.Database = c.home
	conn, err := pgx.ConnectConfig(ctx, there)
	if err != nil {
		return err
	}
	defer leave(conn)
	return readingOn(ctx, conn, f)
}

// mine are the entries that tick this database.
func (c *cron) mine(database string) (rows []cronRow) {
	for _, r := range c.rows {
		if r.database == database {
			rows = append(rows, r)
		}
	}
	return rows
}

// ticks tells when pg_cron last called here.
func (e *exam) ticks(ctx context.Context) (at time.Time, late, fresh bool, err error) {
	err = e.reading(ctx, func(tx pgx.Tx) (err error) { at, late, fresh, err = cronTick(ctx, tx); return err })
	return at, late, fresh, err
}

func cronEntry(ctx context.Context, e *exam) error {
	c, err := e.findCron(ctx)
	if err != nil {
		return e.cronUnseen(err)
	}
	at, late, _, err := e.ticks(ctx)
	if err != nil {
		return err
	}
	database := e.opt.Database.Database
	rows := c.mine(database)
	switch {
	case c.home == "":
		e.warn("on Supabase: `create extension pg_cron with schema pg_catalog;` and "+scheduleHere+"; elsewhere install it first, as docs/install.md says", "this server has no pg_cron; the runners' timers are the only clock")
	case c.absent:
		e.warn(fmt.Sprintf("in database %s: `create extension pg_cron with schema pg_catalog;` and %s", c.home, scheduleFor(c, database)), "pg_cron is loaded, but the extension is not there in database %s", c.home)
	case len(rows) == 0 && !late && !c.whole:
		e.ok("it last ticked at %s; its entry belongs to another login than %s", stamp(at), e.opt.Database.User)
	case len(rows) == 0:
		e.warn(in(c, database)+scheduleFor(c, database), "pg_cron has no entry that ticks this database%s", map[bool]string{false: ", or none that this login may see"}[c.whole])
	case !anyActive(rows):
		e.warn(in(c, database)+activateCron(rows[0].id), "its entry %d is not active", rows[0].id)
	default:
		e.ok("entry %d, %s, in database %s", rows[0].id, rows[0].when, c.home)
	}
	return nil
}

// in says where else than here something is to be run.
func in(c *cron, database string) string {
	if c.home == database {
		return ""
	}
	return "in database " + c.home + ": "
}

func anyActive(rows []cronRow) bool {
	for _, r := range rows {
		if r.active {
			return true
		}
	}
	return false
}

func stamp(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

// cronUnseen: of another database this login may know nothing.
func (e *exam) cronUnseen(err error) error {
	if stateOf(err) == "42501" || errors.As(err, new(*pgconn.ConnectError)) {
		e.unseen(fmt.Sprintf("look as a login that may use pg_cron: `DATABASE_URL=%s pgtick doctor --only %s`", e.url(e.owner), e.check.Name), "%s may not use pg_cron (%s)", e.opt.Database.User, message(err))
		return nil
	}
	return err
}

func cronRuns(ctx context.Context, e *exam) error {
	c, err := e.findCron(ctx)
	if err != nil {
		return e.cronUnseen(err)
	}
	rows := c.mine(e.opt.Database.Database)
	if !anyActive(rows) {
		e.ok("there is no entry to run: see the check pg-cron")
		return nil
	}
	runs, err := e.launcher(ctx)
	if err != nil {
		return err
	}
	at, late, fresh, err := e.ticks(ctx)
	switch {
	case err != nil:
		return err
	case runs != nil && !*runs:
		e.warn("restart the server: `pg_ctl restart -D DATA_DIRECTORY`, or in the dashboard", "pg_cron's launcher does not run")
	case late && !fresh:
		return e.cronIsLate(ctx, c, rows[0], at)
	case at.IsZero():
		e.ok("it has not ticked yet, and need not have: it is new")
	default:
		e.ok("it last ticked at %s", stamp(at))
	}
	return nil
}

func (e *exam) launcher(ctx context.Context) (runs *bool, err error) {
	err = e.reading(ctx, func(tx pgx.Tx) (err error) { runs, err = launcherRuns(ctx, tx); return err })
	return runs, err
}

func (e *exam) cronIsLate(ctx context.Context, c *cron, row cronRow, at time.Time) error {
	var status, said string
	err := e.atCron(ctx, c, func(tx pgx.Tx) (err error) { status, said, err = lastCronRun(ctx, tx, row.id); return err })
	if err != nil {
		return err
	}
	last := "it has never ticked here"
	if !at.IsZero() {
		last = "it last ticked here at " + stamp(at)
	}
	if status != "" {
		last += fmt.Sprintf("; its last run %s: %s", status, said)
	}
	e.warn("see what it did, "+in(c, e.opt.Database.Database)+seeCronRuns(row.id)+", and the server's log; until then tick by hand: "+tickByHand, "%s", last)
	return nil
}

func cronEntries(ctx context.Context, e *exam) error {
	c, err := e.findCron(ctx)
	if err != nil {
		return e.cronUnseen(err)
	}
	database := e.opt.Database.Database
	first := true
	for _, r := range c.rows {
		unschedule := in(c, database) + unscheduleCron(r.id)
		switch mine := r.database == database && r.active; {
		case r.gone:
			e.warn(unschedule, "entry %d (%s) ticks database %s, which is gone", r.id, r.name, r.database)
		case mine && !first:
			e.warn(unschedule, "entry %d (%s) ticks this database as well", r.id, r.name)
		case mine && r.when != "* * * * *":
			e.warn(in(c, database)+eachMinute(r.id), "entry %d (%s) does not run each minute, but %s", r.id, r.name, r.when)
			first = false
		case mine:
			first = false
		}
	}
	if len(e.found) == 0 {
		e.ok("no entry is stale")
	}
	return nil
}

func timeZones(ctx context.Context, e *exam) error {
	var points []zonePoint
	err := e.reading(ctx, func(tx pgx.Tx) (err error) {
		if err := e.ask(ctx, tx, lostZonesSQL); err != nil {
			return err
		}
		points, err = zonePoints(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	seen, unknown := map[string]bool{}, 0
	for _, p := range points {
		zone, err := time.LoadLocation(p.zone)
		if err != nil {
			if !seen[p.zone] {
				unknown++
			}
			seen[p.zone] = true
			continue
		}
		_, offset := p.at.In(zone).Zone()
		if offset != p.offset && !seen[p.zone] {
			e.warn("bring the older one's time zone data up to date: `apt-get install --only-upgrade tzdata`, and restart the server where it was its own",
				"%s: at %s the server's clocks will be %s before UTC's, by this machine's data %s", p.zone, stamp(p.at), time.Duration(p.offset)*time.Second, time.Duration(offset)*time.Second)
		}
		seen[p.zone] = seen[p.zone] || offset != p.offset
	}
	switch {
	case len(e.found) > 0:
	case len(points) == 0:
		e.ok("no schedule uses any but UTC")
	case unknown > 0:
		e.ok("this machine has no data on %d of the zones to compare with", unknown)
	default:
		e.ok("server and machine agree on the zones in use, for the next two years")
	}
	return nil
}
