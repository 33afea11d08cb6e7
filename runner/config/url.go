package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// foreign are parameters in URLs that other programs' clients read: Prisma's and Vercel's, those of node's driver, those by which libpq tends
// its socket. A server would refuse them. (Those of pgx's pools, pool_…, likewise.)
var foreign = []string{
	"pgbouncer", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size", "schema", "sslaccept", "supa", "workaround", "uselibpqcompat",
	"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "gssencmode", "load_balance_hosts", "prepareThreshold",
}

var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

var errNoURL = errors.New("is not a PostgreSQL URL: write postgres://user:password@host:5432/name, with special characters of the password as %XX")

// parseDatabase reads how to connect. Its errors never repeat the text, which may hold a password where none is expected.
func parseDatabase(value string) (*pgx.ConnConfig, error) {
	value = strings.TrimSpace(value)
	if err := mistyped(value); err != nil {
		return nil, err
	}
	parsed, err := pgx.ParseConfig(value)
	if err != nil {
		return nil, misread(err)
	}
	for name := range parsed.RuntimeParams {
		if !parameterName.MatchString(name) { // a part of something else, and the server would repeat it
			return nil, errNoURL
		}
		if strings.HasPrefix(name, "pool_") {
			delete(parsed.RuntimeParams, name)
		}
	}
	for _, name := range foreign {
		delete(parsed.RuntimeParams, name)
	}
	if parsed.RuntimeParams["application_name"] == "" {
		parsed.RuntimeParams["application_name"] = "pgtick"
	}
	parsed.ConnectTimeout = cmp.Or(parsed.ConnectTimeout, 10*time.Second)
	return parsed, nil
}

// mistyped finds URLs that can be read, but not as they were meant: of a password with @ or / in it the rest would be taken for a host or a
// database, and shown as such.
func mistyped(value string) error {
	scheme, rest, isURL := strings.Cut(value, "://")
	switch {
	case !isURL || strings.ContainsAny(scheme, "= '"): // keywords and values
		return nil
	case scheme != "postgres" && scheme != "postgresql":
		return errNoURL
	}
	login := ""
	if end := strings.IndexAny(rest, "@/"); end >= 0 && rest[end] == '@' { // as pgx and libpq look for it
		login, rest = rest[:end], rest[end+1:]
	}
	where, query, _ := strings.Cut(rest, "?")
	switch {
	case strings.Contains(value, "[YOUR-PASSWORD]"):
		return errors.New("still holds [YOUR-PASSWORD]: put the database's password in its place")
	case strings.Contains(where, "@"):
		return errors.New("has an @ or a / too many: in a password write @ as %40 and / as %2F")
	case strings.Contains(login, " "):
		return errors.New("has a blank in user or password: write it as %20")
	case mayBeLogin(query):
		return errors.New("has an @, a / or a ? too many: in a password write @ as %40, / as %2F and ? as %3F")
	}
	return nil
}

// mayBeLogin finds the end of a password with / and ? in it among the parameters. Some of those may hold an @ of their own.
func mayBeLogin(query string) bool {
	for parameter := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(parameter, "=")
		switch name {
		case "user", "password", "application_name", "options", "sslrootcert", "sslcert", "sslkey", "passfile", "servicefile":
		default:
			if strings.Contains(name+value, "@") {
				return true
			}
		}
	}
	return false
}

// misread tells what was wrong with a URL, without its text.
func misread(err error) error {
	var file *fs.PathError
	switch inner := errors.Unwrap(err); {
	case errors.As(err, &file):
		return fmt.Errorf("names the file %s, which can't be read: %w", file.Path, file.Err)
	case inner != nil && inner.Error() == "sslmode is invalid":
		return errors.New("has an sslmode that does not exist: write disable, allow, prefer, require, verify-ca or verify-full")
	case inner != nil && inner.Error() == "unable to add CA to cert pool":
		return errors.New("names an sslrootcert that holds no certificate: it is a text file with -----BEGIN CERTIFICATE-----")
	}
	return errNoURL
}
