// Package config reads pgtick's settings: a flag counts more than the environment, and that more than the default. All settings are in
// one table, which `pgtick help config` prints.
package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tasks/httptask"
)

// Config is every setting, checked.
type Config struct {
	Database    *pgx.ConnConfig
	Listen      *pgx.ConnConfig
	More        []Addresses // the second and later databases of a runner that has several
	Queues      []string
	Workers     int
	Connections int
	Lease       time.Duration
	Poll        time.Duration
	Grace       time.Duration
	NoClock     bool   // this runner does not tick
	HTTP        string // empty: no HTTP server
	Name        string
	LogLevel    logrus.Level
	LogFormat   string
	LogRate     int // attempts a second that have a line of their own
	Sync        Sync
	Redis       redis.UniversalClient // for rates; nil: each runner keeps its share
	Calls       httptask.Options      // of jobs of the task http
	Web         Web
}

// Addresses are the ways to one database: for all, for LISTEN, and for people who look.
type Addresses struct {
	Database, Listen *pgx.ConnConfig
	Web              *pgx.ConnConfig // of the dashboard; nil: Database
}

// Sync is where the credit ledger hands over its entries: this database when neither is set.
type Sync struct {
	Database *pgx.ConnConfig // another Postgres
	REST     *url.URL        // a Supabase project, with Key
	Key      string
}

// Setting is one row of the table.
type Setting struct {
	Flag    string
	Env     string
	Default string
	Help    string
	read    func(c *Config, value string) error // nil: LoadRunner does
}

// Repeated tells whether the flag may be given several times: its value then has a line for each.
func (s Setting) Repeated() bool { return s.Flag == "database" }

// Error is a setting that is missing or wrong. Its text never holds a password.
type Error struct {
	Setting Setting
	Why     string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s (or --%s): %s", e.Setting.Env, e.Setting.Flag, e.Why)
}

// Table lists the settings in the order in which people need them.
func Table() []Setting {
	return append([]Setting{
		{"database-url", "DATABASE_URL", "", "the database, as postgres://user:password@host:port/name", database(func(c *Config) **pgx.ConnConfig { return &c.Database })},
		{"listen-database-url", "LISTEN_DATABASE_URL", "", "the same database by a direct or session-mode connection, for LISTEN; default: DATABASE_URL", database(func(c *Config) **pgx.ConnConfig { return &c.Listen })},
		{"database", "PGTICK_DATABASES", "", "several databases for one runner, in place of database-url: a flag for each, or a list with commas, of the names of environment variables that hold their URLs; of APP_URL, APP_URL_LISTEN may hold the one for LISTEN", nil},
		{"queues", "PGTICK_QUEUES", "default", "the queues to work on, separated by commas", readQueues},
		{"workers", "PGTICK_WORKERS", "20", "attempts at a time, 1 to 10000", number(1, 10000, func(c *Config) *int { return &c.Workers })},
		{"connections", "PGTICK_CONNECTIONS", "3", "database connections for tasks, 1 to 1000, besides one for control and one that listens", number(1, 1000, func(c *Config) *int { return &c.Connections })},
		{"lease", "PGTICK_LEASE", "30s", "how long a runner that is silent keeps its jobs, 1s to 1h", duration(time.Second, time.Hour, func(c *Config) *time.Duration { return &c.Lease })},
		{"poll", "PGTICK_POLL", "5s", "how often to look for jobs without a notification, 100ms to 1h", duration(100*time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.Poll })},
		{"grace", "PGTICK_GRACE", "25s", "how long running jobs may go on after SIGTERM, 0s to 1h", duration(0, time.Hour, func(c *Config) *time.Duration { return &c.Grace })},
		{"clock", "PGTICK_CLOCK", "on", "on: this runner makes jobs of due slots too; off: pg_cron or other runners do", readClock},
		{"http", "PGTICK_HTTP", "127.0.0.1:8640", "address of the dashboard, health and metrics, or off; when the port is taken, the next free one", readHTTP},
		{"name", "PGTICK_NAME", "", "what the runner calls itself; default: the machine's name", readName},
		{"log-level", "PGTICK_LOG_LEVEL", "info", "debug, info, warning or error", readLogLevel},
		{"log-format", "PGTICK_LOG_FORMAT", "auto", "text, json, or auto: text on a terminal", readLogFormat},
		{"log-rate", "PGTICK_LOG_RATE", "100", "so many attempts a second have a line of their own in the log, and as many of those that failed, 0 to 100000; of the others a line a second says how many there were", number(0, 100000, func(c *Config) *int { return &c.LogRate })},
		{"redis-url", "REDIS_URL", "", "the Redis in which all runners keep the rates of pgtick.set_limit, as redis://:password@host:6379/0 (rediss:// with TLS); without one each runner keeps its share", readRedis},
		{"sync-target", "PGTICK_SYNC_TARGET", "local", "where credit entries are handed over: local (analytics.credit_usage in this database), another Postgres as postgres://…, or a Supabase project as https://…", readSyncTarget},
		{"sync-key", "PGTICK_SYNC_KEY", "", "the service key of that Supabase project; better in the environment, where no list of processes shows it", readSyncKey},
		{"http-allow", "PGTICK_HTTP_ALLOW", "*", "what jobs of the task http may call, separated by commas: * (public addresses), hosts and addresses, also with a port, networks such as 10.0.0.0/8", readHTTPAllow},
		{"http-ca", "PGTICK_HTTP_CA", "", "file of certificates (PEM) that calls believe besides the system's", readHTTPCA},
	}, webTable()...)
}

// Load reads all settings, or only those of the flags that are named; flags tells the value of a flag, and whether it was given. The first
// wrong one is the error.
func Load(flags func(name string) (value string, given bool), env func(string) (string, bool), only ...string) (Config, error) {
	var c Config
	for _, s := range Table() {
		if s.read == nil || len(only) > 0 && !slices.Contains(only, s.Flag) {
			continue
		}
		if err := s.read(&c, s.value(flags, env)); err != nil {
			return Config{}, &Error{Setting: s, Why: err.Error()}
		}
	}
	return c, nil
}

func (s Setting) value(flags func(string) (string, bool), env func(string) (string, bool)) string {
	if v, given := flags(s.Flag); given {
		return v
	}
	if v, ok := env(s.Env); ok && v != "" {
		return v
	}
	return s.Default
}

func database(field func(*Config) **pgx.ConnConfig) func(*Config, string) error {
	return func(c *Config, value string) error {
		if value == "" {
			if c.Database == nil {
				return fmt.Errorf("is not set: give the database as postgres://user:password@host:5432/name")
			}
			*field(c) = c.Database.Copy()
			return nil
		}
		parsed, err := parseDatabase(value)
		if err != nil {
			return err
		}
		*field(c) = parsed
		return nil
	}
}

func number(low, high int, field func(*Config) *int) func(*Config, string) error {
	return func(c *Config, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < low || n > high {
			return fmt.Errorf("%q is not a whole number from %d to %d", value, low, high)
		}
		*field(c) = n
		return nil
	}
}

func duration(low, high time.Duration, field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < low || d > high {
			return fmt.Errorf("%q is not a time from %s to %s, such as 30s or 1m30s", value, low, high)
		}
		*field(c) = d
		return nil
	}
}

func readQueues(c *Config, value string) error {
	for queue := range strings.SplitSeq(value, ",") {
		if queue = strings.TrimSpace(queue); queue != "" {
			c.Queues = append(c.Queues, queue)
		}
	}
	if len(c.Queues) == 0 {
		return fmt.Errorf("%q names no queue", value)
	}
	return nil
}

func readRedis(c *Config, value string) (err error) {
	if value != "" {
		c.Redis, err = limit.Connect(value)
	}
	return err
}

func readClock(c *Config, value string) error {
	if value != "on" && value != "off" {
		return fmt.Errorf("%q is not on or off", value)
	}
	c.NoClock = value == "off"
	return nil
}

func readHTTP(c *Config, value string) error {
	if value == "off" {
		return nil
	}
	if _, _, err := net.SplitHostPort(value); err != nil {
		return fmt.Errorf("%q is not an address such as 127.0.0.1:8640, nor off", value)
	}
	c.HTTP = value
	return nil
}

func readName(c *Config, value string) error {
	if value == "" {
		value, _ = os.Hostname()
	}
	c.Name = cmp.Or(value, "pgtick")
	return nil
}

func readLogLevel(c *Config, value string) (err error) {
	if c.LogLevel, err = logrus.ParseLevel(value); err != nil {
		return fmt.Errorf("%q is not one of debug, info, warning, error", value)
	}
	return nil
}

func readLogFormat(c *Config, value string) error {
	switch value {
	case "auto", "text", "json":
		c.LogFormat = value
		return nil
	}
	return fmt.Errorf("%q is not one of auto, text, json", value)
}

func readSyncTarget(c *Config, value string) error {
	scheme, _, found := strings.Cut(value, "://")
	switch {
	case value == "local":
		return nil
	case found && (scheme == "postgres" || scheme == "postgresql"):
		return database(func(c *Config) **pgx.ConnConfig { return &c.Sync.Database })(c, value)
	case found && (scheme == "https" || scheme == "http"):
		return readSyncURL(c, value)
	}
	// A mistyped URL may hold a password, so it is not repeated.
	return fmt.Errorf("is neither local, nor a postgres://, nor an https:// URL: write local, postgres://user:password@host:5432/name or https://REF.supabase.co")
}

// readSyncURL takes http only where nobody is between: the service key goes with each request.
func readSyncURL(c *Config, value string) error {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "":
		return fmt.Errorf("is not the URL of a Supabase project: write https://REF.supabase.co")
	case u.User != nil:
		return fmt.Errorf("holds a user or a password: leave them out, and give the service key as PGTICK_SYNC_KEY")
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("has something behind ? or #: write https://REF.supabase.co")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return fmt.Errorf("would send the service key unencrypted: write https://%s", u.Host)
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/rest/v1")
	c.Sync.REST = u
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// readSyncKey refuses a key that nothing would use: what was handed over to another target by mistake is marked for good.
func readSyncKey(c *Config, value string) error {
	value = strings.TrimSpace(value)
	switch {
	case value == "" && c.Sync.REST != nil:
		return fmt.Errorf("is not set: give the service key of the Supabase project that PGTICK_SYNC_TARGET names")
	case value != "" && c.Sync.REST == nil:
		return fmt.Errorf("is set, but PGTICK_SYNC_TARGET is not the https:// URL of a Supabase project: set that too, or leave the key out")
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("holds what no key has, such as a blank or a line break: copy it again")
	}
	c.Sync.Key = value
	return nil
}
