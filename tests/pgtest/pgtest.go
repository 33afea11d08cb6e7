// Package pgtest runs tasks under test: one attempt in this process, without a database (Run, RunFunc), or jobs on a real PostgreSQL, with
// a clock that the test sets.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestWelcome_IsTriedAgain(t *testing.T) {
//		t.Parallel()
//		db := pgtest.New(t)
//		id := db.Enqueue(t, "email.welcome", Welcome{User: "ann"}, tasks.Delay(time.Hour))
//		require.Zero(t, db.Work(t, registry)) // not yet
//		db.Advance(t, time.Hour)
//		require.Equal(t, 1, db.Work(t, registry))
//		require.Equal(t, "done", db.Job(t, id).State)
//	}
//
// Each test has a database of its own, with pgtick in it, on a throw-away server: one for a test binary, started at the first New, in some
// seconds; each database costs some 100 ms. It needs an installed PostgreSQL, 15 or later (initdb and postgres, in the usual places, on the
// PATH, or in the folder that PGTICK_PG_BIN names); pg_cron for NewWithCron alone. Or TEST_DATABASE_URL names a server to use instead (a
// superuser's URL); there it makes and drops databases of its own, as copies of TEST_DATABASE_TEMPLATE where that names one with pgtick in it.
package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/stretchr/testify/require"
)

// DB is a database of one test. It is dropped when the test ends.
type DB struct {
	Pool *pgxpool.Pool // as the superuser, who owns the schema
	URL  string        // the same login
	Name string

	server *server
	mu     sync.Mutex
	clock  clock
}

// server is where databases are made: one of our own, or the one that TEST_DATABASE_URL names.
type server struct {
	url      string // of a superuser, to database postgres or the one named
	template string
	stop     func()
	pooler   *pooler        // where PoolerEnv asks for one
	seeded   bool           // it was copied with the template in it
	kept     chan *pgx.Conn // connections to it that wait for the next statement; nil: each has its own

	once       sync.Once // makes the template
	problem    error
	runnerOnce sync.Once
}

// lazily starts a server at its first use. There is one of each kind in a test binary.
type lazily struct {
	once    sync.Once
	start   func() (*server, error)
	server  *server
	problem error
}

var (
	plain    = &lazily{start: startPlain}
	withCron = &lazily{start: startWithCron}
	counter  atomic.Int64
)

// Main runs a package's tests, and then stops the servers they have started. Without it they end with the process.
func Main(m *testing.M) {
	m.Run()
	plain.stop()
	withCron.stop()
	hosted.stop()
}

// New returns a database with pgtick in it.
func New(t testing.TB) *DB {
	t.Helper()
	s := plain.get(t)
	s.once.Do(func() {
		if s.seeded {
			s.problem = s.renew(s.template)
		} else {
			s.problem = s.makeTemplate()
		}
	})
	require.NoError(t, s.problem, "make the template database")
	return s.database(t, s.template)
}

// NewEmpty returns a database without pgtick.
func NewEmpty(t testing.TB) *DB {
	t.Helper()
	return plain.get(t).database(t, "template0")
}

// NewWithCron returns a database with pgtick on a server with pg_cron, which calls pgtick.run_ticks() there each minute.
func NewWithCron(t testing.TB) *DB {
	t.Helper()
	db := NewEmptyWithCron(t)
	db.Migrate(t)
	return db
}

// NewEmptyWithCron returns a database without pgtick on a server that has pg_cron in its database postgres.
func NewEmptyWithCron(t testing.TB) *DB {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") != "" {
		t.Skip("needs a server of its own with pg_cron, and TEST_DATABASE_URL is set")
	}
	needCron(t)
	s := withCron.get(t)
	db := s.database(t, "template0")
	t.Cleanup(func() { s.exec(t, "select cron.unschedule(c.jobid) from cron.job as c where c.database = $1", db.Name) })
	return db
}

// Server starts a server for one test alone, which may crash and restart it. What was committed survives. NewOn makes databases.
func Server(t testing.TB) *localpg.Server {
	t.Helper()
	return ServerWith(t, localpg.Options{})
}

// ServerWith is Server with options of the test's own. With pg_cron, where it lives is database postgres; the test is skipped where it
// is not installed.
func ServerWith(t testing.TB, opt localpg.Options) *localpg.Server {
	t.Helper()
	if opt.Cron {
		needCron(t)
	}
	kind := migrated
	if opt.Cron {
		kind = bare // what a migrate finds there decides what it does
	}
	from, err := seed(kind, opt.Cron)
	require.NoError(t, err)
	opt.From = from
	own, err := localpg.Start(context.Background(), forTests(opt))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Close()) })
	if opt.Cron {
		(&server{url: own.URL("postgres")}).exec(t, "create extension pg_cron with schema pg_catalog")
	} else if from != "" {
		unused.Store(own, true)
		t.Cleanup(func() { unused.Delete(own) })
	}
	return own
}

// StandbyOf starts a standby of a server of the test's own, with options as for ServerWith. The test is skipped where pg_basebackup is
// not installed.
func StandbyOf(t testing.TB, primary *localpg.Server, opt localpg.Options) *localpg.Server {
	t.Helper()
	standby, err := primary.Standby(context.Background(), forTests(opt))
	if errors.Is(err, localpg.ErrNoBaseBackup) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })
	return standby
}

func forTests(opt localpg.Options) localpg.Options {
	settings := testSettings()
	settings["synchronous_commit"] = "on"
	maps.Copy(settings, opt.Settings)
	opt.Settings, opt.Temp = settings, cmp.Or(opt.Temp, fastFolder())
	return opt
}

func needCron(t testing.TB) {
	t.Helper()
	if bin, err := localpg.FindBinaries(true); err == nil && !localpg.HasCron(bin) {
		t.Skip("the PostgreSQL in " + bin + " has no pg_cron")
	}
}

// NewOn returns a database with pgtick on a server of the test's own. It goes with the server, which need not run at the test's end.
func NewOn(t testing.TB, own *localpg.Server) *DB {
	t.Helper()
	s := &server{url: own.URL("postgres"), pooler: new(pooler)}
	t.Cleanup(s.pooler.stop)
	if db := s.takeTemplate(t, own); db != nil {
		db.open(t)
		db.adopt(t)
		return db
	}
	db := s.create(t, "template0")
	db.open(t)
	db.Migrate(t)
	return db
}

// At returns the database of this name and content on another server of the test's own: on the standby of the one that NewOn made it on.
func (db *DB) At(t testing.TB, own *localpg.Server) *DB {
	t.Helper()
	s := &server{url: own.URL("postgres")}
	there := &DB{Name: db.Name, URL: s.urlOf(db.Name), server: s}
	there.open(t)
	return there
}

// Migrate installs pgtick, or brings it up to date.
func (db *DB) Migrate(t testing.TB) migrations.Report {
	t.Helper()
	report, err := migrations.Up(context.Background(), db.Config(t), migrations.Options{Log: func(line string) { t.Log(line) }})
	require.NoError(t, err)
	return report
}

// Quiet takes out the schedules that come with pgtick, and all that they have made, so that nothing happens in this database but what
// the test does: their slots may come at any moment.
func (db *DB) Quiet(t testing.TB) {
	t.Helper()
	for _, table := range []string{"slot_log", "live_jobs", "schedule_changes", "schedule_defs", "clocks"} {
		_, err := db.Pool.Exec(context.Background(), "delete from pgtick."+table)
		require.NoError(t, err)
	}
}

// Config is how to connect as the superuser, to be changed at will.
func (db *DB) Config(t testing.TB) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	return cfg
}

// URLAs is how another role connects to a test's database.
func URLAs(db *DB, role, password string) string {
	u, err := url.Parse(db.URL)
	if err != nil {
		panic(err) // it is ours
	}
	u.User = url.UserPassword(role, password)
	return u.String()
}

// runnerPassword is the same everywhere: the role belongs to the server, and several test binaries may share one.
const runnerPassword = "runner-of-tests"

// RunnerURL is how a runner connects: as pgtick_runner, who may do what a runner needs and no more.
func RunnerURL(t testing.TB, db *DB) string {
	t.Helper()
	return db.throughPooler(t, directRunnerURL(t, db))
}

// ListenURL is what a runner gets as LISTEN_DATABASE_URL: nothing, but where RunnerURL goes through a pooler.
func ListenURL(t testing.TB, db *DB) string {
	t.Helper()
	if direct := directRunnerURL(t, db); direct != RunnerURL(t, db) {
		return direct
	}
	return ""
}

func directRunnerURL(t testing.TB, db *DB) string {
	t.Helper()
	db.server.runnerOnce.Do(func() {
		// One after the other: two sessions that alter one role at once get "tuple concurrently updated".
		db.server.exec(t, "select pg_advisory_lock(7076); alter role pgtick_runner login password '"+runnerPassword+"'; select pg_advisory_unlock(7076)")
	})
	return URLAs(db, "pgtick_runner", runnerPassword)
}

func (l *lazily) get(t testing.TB) *server {
	t.Helper()
	l.once.Do(func() { l.server, l.problem = l.start() })
	require.NoError(t, l.problem)
	return l.server
}

func (l *lazily) stop() {
	l.once.Do(func() {}) // a test that is late starts nothing any more
	if l.server != nil {
		if l.server.pooler != nil {
			l.server.pooler.stop()
		}
		l.server.stop()
	}
}

func startPlain() (*server, error) {
	if named := os.Getenv("TEST_DATABASE_URL"); named != "" {
		return useNamed(named), nil
	}
	from, err := seed(migrated, false)
	if err != nil {
		return nil, err
	}
	own, err := localpg.Start(context.Background(), localpg.Options{Temp: fastFolder(), Settings: testSettings(), From: from})
	if err != nil {
		return nil, err
	}
	return &server{url: own.URL("postgres"), template: templateName, seeded: from != "", stop: func() { _ = own.Close() }, pooler: new(pooler), kept: make(chan *pgx.Conn, 4)}, nil
}

// useNamed works on a server that is not ours: its databases carry our process number, and go at the end.
func useNamed(named string) *server {
	s := &server{url: named, template: fmt.Sprintf("pgtick_template_%d", os.Getpid()), pooler: new(pooler)}
	s.stop = func() { _ = s.tryExec(context.Background(), "drop database if exists "+s.template+" with (force)") }
	if ready := os.Getenv("TEST_DATABASE_TEMPLATE"); ready != "" { // tests/mutants
		s.template, s.stop = ready, func() {}
		s.once.Do(func() {})
	}
	return s
}

func startWithCron() (*server, error) {
	own, err := StartBare(localpg.Options{Cron: true, Settings: testSettings()})
	if err != nil {
		return nil, err
	}
	s := &server{url: own.URL("postgres"), stop: func() { _ = own.Close() }, pooler: new(pooler)}
	return s, s.tryExec(context.Background(), "create extension pg_cron with schema pg_catalog")
}

func testSettings() map[string]string {
	return map[string]string{"shared_buffers": "64MB", "max_connections": "200", "max_wal_size": "1GB", "jit": "off"}
}

// makeTemplate is done once a server; New then only copies files.
func (s *server) makeTemplate() error {
	ctx := context.Background()
	if err := s.tryExec(ctx, "create database "+s.template+" template template0"); err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(s.urlOf(s.template))
	if err != nil {
		return err
	}
	if _, err := migrations.Up(ctx, cfg, migrations.Options{}); err != nil {
		return err
	}
	return s.settle(ctx)
}

// settle leaves the template as an old database would be: statistics gathered, pages written, so that no copy has to.
func (s *server) settle(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.urlOf(s.template))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "vacuum (freeze, analyze)")
	return err
}

// database makes one and has it dropped at the end of the test.
func (s *server) database(t testing.TB, template string) *DB {
	t.Helper()
	db := s.create(t, template)
	t.Cleanup(func() {
		db.noteCalled(t)
		s.exec(t, "drop database if exists "+db.Name+" with (force)")
	})
	db.open(t)
	if template == s.template && template != "" {
		db.adopt(t)
	}
	return db
}

// adopt: a copy is refused to runners until its own address is recorded. For a test's database that is no protection but a nuisance.
func (db *DB) adopt(t testing.TB) {
	t.Helper()
	_, err := db.Pool.Exec(context.Background(), "select pgtick.adopt($1, p_only => true)", migrations.Address(db.Config(t)))
	require.NoError(t, err)
}

func (s *server) create(t testing.TB, template string) *DB {
	t.Helper()
	db := s.newDB()
	// A copy of the files, not of each page by way of the log: four times as fast in memory.
	s.exec(t, "create database "+db.Name+" template "+template+" strategy file_copy")
	return db
}

func (s *server) newDB() *DB {
	db := &DB{Name: fmt.Sprintf("pgtick_test_%d_%d", os.Getpid(), counter.Add(1)), server: s}
	db.URL = s.urlOf(db.Name)
	return db
}

// open makes the pool, which closes at the end of the test.
func (db *DB) open(t testing.TB) {
	t.Helper()
	through := db.throughPooler(t, db.URL)
	cfg, err := pgxpool.ParseConfig(through)
	require.NoError(t, err)
	cfg.MaxConns = 32
	if through != db.URL {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe // prepares nothing that a later statement needs
	}
	db.Pool, err = pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { db.close(t) })
}

// Patience is how long what ends at last may take on a machine that is busy with other things. Nothing is expected to. A minute, or as long as
// TEST_PATIENCE says (a duration such as 10s), where tests are expected to fail.
var Patience = patienceOf(os.Getenv("TEST_PATIENCE"))

func patienceOf(said string) time.Duration {
	if d, err := time.ParseDuration(said); err == nil && d > 0 {
		return d
	}
	return time.Minute
}

// WaitForNobody is set in a session that must not wait for a lock which a test holds: whoever does wait fails with 55P03. It is not shorter,
// since a commit with a NOTIFY takes a lock that is the whole server's, and the databases of other tests are on the same one.
const WaitForNobody = "set lock_timeout = '5s'"

// close does not wait for ever for a connection that a failed test has kept.
func (db *DB) close(t testing.TB) {
	closed := make(chan struct{})
	go func() {
		db.Pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(Patience):
		t.Errorf("a connection of the pool was never given back")
	}
}

func (s *server) urlOf(database string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		panic(err) // startPlain has connected with it
	}
	u.Path = "/" + database
	return u.String()
}

func (s *server) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	require.NoError(t, s.tryExec(context.Background(), statement, args...), statement)
}

func (s *server) tryExec(ctx context.Context, statement string, args ...any) error {
	conn, old, err := s.connect(ctx)
	if err != nil {
		return err
	}
	err = execOn(ctx, conn, statement, args...)
	if err != nil && old && conn.IsClosed() { // somebody has ended it since
		if conn, err = pgx.Connect(ctx, s.url); err != nil {
			return err
		}
		err = execOn(ctx, conn, statement, args...)
	}
	s.giveBack(ctx, conn, err)
	return err
}

func execOn(ctx context.Context, conn *pgx.Conn, statement string, args ...any) (err error) {
	if len(args) == 0 {
		_, err = conn.PgConn().Exec(ctx, statement).ReadAll()
	} else {
		_, err = conn.Exec(ctx, statement, args...)
	}
	return err
}

// connect returns a kept connection where there is one: two for each test would cost as much as its database.
func (s *server) connect(ctx context.Context) (conn *pgx.Conn, old bool, err error) {
	select {
	case conn = <-s.kept:
		return conn, true, nil
	default:
		conn, err = pgx.Connect(ctx, s.url)
		return conn, false, err
	}
}

func (s *server) giveBack(ctx context.Context, conn *pgx.Conn, err error) {
	if err == nil {
		select {
		case s.kept <- conn:
			return
		default:
		}
	}
	_ = conn.Close(ctx)
}
