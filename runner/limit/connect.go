package limit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
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

// files are further options, that go-redis does not know: PEM files for TLS, of the authority that signed the server's certificate, and of a certificate of
// ours with its key, where the server wants one.
var files = []string{"ca", "cert", "key"}

var optionName = regexp.MustCompile(`^[a-z_]{1,30}$`)

// Connect returns a client as this package needs it. It connects when it is used.
//
//	redis://user:password@host:6379/0, unix:///path/to/socket?db=0
//	rediss://host:6379?ca=/path/to/ca.pem&cert=/path/to/cert.pem&key=/path/to/key.pem    TLS; each of the three may be left out
//	redis://host1:6379?addr=host2:6379&addr=host3:6379               a cluster (of one known address: name it twice)
//	redis://host1:26379?addr=host2:26379&master_name=mymaster        Sentinel
func Connect(address string) (redis.UniversalClient, error) { return ConnectTrusting(address, nil) }

// ConnectTrusting is Connect where a server's certificate must be signed by one of roots; nil means what the URL's ca holds, or else the system's.
func ConnectTrusting(address string, roots *x509.CertPool) (redis.UniversalClient, error) {
	o, paths, err := parse(address)
	if err != nil {
		return nil, err
	}
	if o.TLSConfig != nil {
		if err := secure(o.TLSConfig, paths, roots); err != nil {
			return nil, err
		}
	}
	o.Dialer = dialer(o.TLSConfig)
	// The context's deadline counts, for a batch as for a probe. One repetition, at once, for a connection that the server has closed meanwhile. All else
	// is up to the limiter, which knows when to try again.
	o.ContextTimeoutEnabled = true
	o.MaxRetries, o.MinRetryBackoff, o.MaxRetryBackoff = 1, -1, -1
	o.DialerRetries, o.DialTimeout = 1, dialing
	o.PoolSize, o.PipelinePoolSize, o.ConnMaxIdleTime = 4, -1, -1
	o.Protocol, o.DisableIdentity = max(2, o.Protocol), true
	if o.ClientName == "" {
		o.ClientName = "pgtick"
	}
	return redis.NewUniversalClient(o), nil
}

// secure adds to a TLS setting whom to trust, and who we are.
func secure(c *tls.Config, paths map[string]string, roots *x509.CertPool) error {
	c.MinVersion, c.RootCAs = tls.VersionTLS12, roots
	if path, given := paths["ca"]; given && roots == nil {
		text, err := os.ReadFile(path)
		if err != nil {
			return &URLError{fmt.Sprintf("ca: %s", err)}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return &URLError{fmt.Sprintf("ca: %s holds no certificate in PEM", path)}
		}
	}
	if paths["cert"] == "" && paths["key"] == "" {
		return nil
	}
	own, err := tls.LoadX509KeyPair(paths["cert"], paths["key"])
	if err != nil {
		return &URLError{fmt.Sprintf("cert and key, which go together: %s", err)}
	}
	c.Certificates = []tls.Certificate{own}
	return nil
}

// parse lets go-redis read the URL, but not speak: its errors may repeat what stood in it. paths are the files that it names.
func parse(address string) (o *redis.UniversalOptions, paths map[string]string, err error) {
	const remedy = "write redis://user:password@host:6379/0, or rediss:// for TLS, with special characters of the password as %XX" //nolint:gosec // a form to be filled in
	u, err := url.Parse(address)
	if err != nil || u.Opaque != "" {
		return nil, nil, &URLError{"is not a Redis URL: " + remedy}
	}
	if !slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme) {
		return nil, nil, &URLError{"does not begin with redis://, rediss:// or unix://: " + remedy}
	}
	if u.Scheme != "unix" && u.Hostname() == "" {
		return nil, nil, &URLError{"names no host: " + remedy}
	}
	if u.Scheme == "unix" && u.Host != "" {
		return nil, nil, &URLError{"names a host before the socket's path: write unix:///path/to/socket, or unix://user:password@/path/to/socket with special characters of the password as %XX"}
	}
	if u.Scheme == "unix" && strings.Contains(u.EscapedPath(), "@") { // the rest of a password, perhaps: it would be shown as the socket's path
		return nil, nil, &URLError{"has an @ behind the first slash: write it as %40; " + remedy}
	}
	if u.Fragment != "" {
		return nil, nil, &URLError{"has a # in it: write it as %23; " + remedy}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, &URLError{"what follows the question mark is not name=value&name=value: " + remedy}
	}
	known := slices.Concat(usual, files)
	for name := range query {
		if !slices.Contains(known, name) {
			if strings.Contains(u.RawQuery, "@") || !optionName.MatchString(name) { // the rest of a password, perhaps
				return nil, nil, &URLError{"what follows the question mark is no option: " + remedy}
			}
			return nil, nil, &URLError{fmt.Sprintf("%q is not an option here; after the question mark may stand %s", name, strings.Join(known, ", "))}
		}
	}
	if paths, err = takeFiles(u, query); err != nil {
		return nil, nil, err
	}
	if paths != nil {
		address = u.String()
	}
	if o, err = options(address, query); err != nil {
		return nil, nil, &URLError{"the database is a number (/0), protocol is 2 or 3, skip_verify true or false, and goes with rediss:// alone: " + remedy}
	}
	return o, paths, nil
}

// takeFiles takes the paths of files out of a URL.
func takeFiles(u *url.URL, query url.Values) (paths map[string]string, err error) {
	for _, name := range files {
		switch {
		case !query.Has(name):
			continue
		case u.Scheme != "rediss":
			return nil, &URLError{name + " is for TLS, and goes with rediss:// alone"}
		case strings.Contains(u.RawQuery, "@"): // the rest of a password, perhaps, and paths are shown
			return nil, &URLError{"what follows the question mark has an @ in it: write it as %40"}
		case query.Get(name) == "":
			return nil, &URLError{name + " is empty: it is the path of a PEM file"}
		}
		if paths == nil {
			paths = map[string]string{}
		}
		paths[name] = query.Get(name)
		query.Del(name)
	}
	if paths != nil {
		u.RawQuery = query.Encode()
	}
	return paths, nil
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
