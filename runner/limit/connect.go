package limit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
)

// URLError says what is wrong with REDIS_URL. Its text never holds what may be a password.
type URLError struct{ Why string }

func (e *URLError) Error() string { return "REDIS_URL: " + e.Why }

// usual is what a URL may say after the question mark. How to connect is not among it: this package knows what it needs.
var usual = []string{"addr", "master_name", "db", "username", "password", "protocol", "client_name", "skip_verify"}

var optionName = regexp.MustCompile(`^[a-z_]{1,30}$`)

// Connect returns a client as this package needs it. It connects when it is used.
//
//	redis://user:password@host:6379/0, rediss:// for TLS, unix:///path/to/socket?db=0
//	redis://host1:6379?addr=host2:6379&addr=host3:6379               a cluster (of one known address: name it twice)
//	redis://host1:26379?addr=host2:26379&master_name=mymaster        Sentinel
func Connect(address string) (redis.UniversalClient, error) { return ConnectTrusting(address, nil) }

// ConnectTrusting is Connect where a server's certificate must be signed by one of roots; nil means the system's.
func ConnectTrusting(address string, roots *x509.CertPool) (redis.UniversalClient, error) {
	o, err := parse(address)
	if err != nil {
		return nil, err
	}
	if o.TLSConfig != nil {
		o.TLSConfig.RootCAs, o.TLSConfig.MinVersion = roots, tls.VersionTLS12
	}
	// The context's deadline counts, for a batch as for a probe. One repetition, at once, for a connection that the server has closed meanwhile. All else
	// is up to the limiter, which knows when to try again.
	o.ContextTimeoutEnabled = true
	o.MaxRetries, o.MinRetryBackoff, o.MaxRetryBackoff = 1, -1, -1
	o.DialerRetries, o.DialTimeout = 1, connecting
	o.PoolSize, o.PipelinePoolSize, o.ConnMaxIdleTime = 4, -1, -1
	o.Protocol, o.DisableIdentity = max(2, o.Protocol), true
	if o.ClientName == "" {
		o.ClientName = "pgtick"
	}
	return redis.NewUniversalClient(o), nil
}

// parse lets go-redis read the URL, but not speak: its errors may repeat what stood in it.
func parse(address string) (*redis.UniversalOptions, error) {
	const remedy = "write redis://user:password@host:6379/0, or rediss:// for TLS, with special characters of the password as %XX" //nolint:gosec // a form to be filled in
	u, err := url.Parse(address)
	if err != nil || u.Opaque != "" {
		return nil, &URLError{"is not a Redis URL: " + remedy}
	}
	if !slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme) {
		return nil, &URLError{"does not begin with redis://, rediss:// or unix://: " + remedy}
	}
	if u.Scheme != "unix" && u.Hostname() == "" {
		return nil, &URLError{"names no host: " + remedy}
	}
	if u.Scheme == "unix" && u.Host != "" {
		return nil, &URLError{"names a host before the socket's path: write unix:///path/to/socket, or unix://user:password@/path/to/socket with special characters of the password as %XX"}
	}
	if u.Fragment != "" {
		return nil, &URLError{"has a # in it: write it as %23; " + remedy}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, &URLError{"what follows the question mark is not name=value&name=value: " + remedy}
	}
	for name := range query {
		if !slices.Contains(usual, name) {
			if strings.Contains(u.RawQuery, "@") || !optionName.MatchString(name) { // the rest of a password, perhaps
				return nil, &URLError{"what follows the question mark is no option: " + remedy}
			}
			return nil, &URLError{fmt.Sprintf("%q is not an option here; after the question mark may stand %s", name, strings.Join(usual, ", "))}
		}
	}
	o, err := options(address, query)
	if err != nil {
		return nil, &URLError{"the database is a number (/0), protocol is 2 or 3, skip_verify true or false, and goes with rediss:// alone: " + remedy}
	}
	return o, nil
}

// options reads it as what it is: of Sentinel, of a cluster, or of one server.
func options(address string, query url.Values) (*redis.UniversalOptions, error) {
	switch {
	case query.Has("master_name"):
		o, err := redis.ParseFailoverURL(address)
		if err != nil {
			return nil, err
		}
		return &redis.UniversalOptions{Addrs: o.SentinelAddrs, MasterName: o.MasterName, DB: o.DB, Username: o.Username, Password: o.Password,
			SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword, TLSConfig: o.TLSConfig, Protocol: o.Protocol, ClientName: o.ClientName}, nil
	case query.Has("addr"):
		o, err := redis.ParseClusterURL(address)
		if err != nil {
			return nil, err
		}
		return &redis.UniversalOptions{Addrs: o.Addrs, IsClusterMode: true, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
			Protocol: o.Protocol, ClientName: o.ClientName}, nil
	default:
		o, err := redis.ParseURL(address)
		if err != nil {
			return nil, err
		}
		return &redis.UniversalOptions{Addrs: []string{o.Addr}, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
			Protocol: o.Protocol, ClientName: o.ClientName}, nil
	}
}

// LogLibrary sends what go-redis says on its own, a line for each connection that fails, to the log's debug level. It counts for the whole process;
// otherwise these lines go to stderr.
func LogLibrary(log *logrus.Entry) { redis.SetLogger(library{log}) }

type library struct{ log *logrus.Entry }

func (l library) Printf(_ context.Context, format string, values ...any) {
	l.log.Debugf(format, values...)
}
