package jobs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrReadOnly says that a session of the tasks was not used, since its server takes no writes for now.
var ErrReadOnly = errors.New("the database is read-only")

// failure is an error that came from a connection, taken apart.
type failure struct {
	err    error
	pg     *pgconn.PgError // what the server, or a pooler in its name, said
	config *pgconn.Config  // with which a connection was tried, or nil
}

// remedy is one row of the table: what it is for, whether to wait may help, and what to do.
type remedy struct {
	fits   func(failure) bool
	passes bool
	text   string // with {host}, {port}, {user}, {login} (the user without a project) and {database}
}

// remedies is the one table of what goes wrong with a connection, the first that fits. It is only ever read. SQLSTATEs go before words; but
// poolers give the same SQLSTATE for everything.
var remedies = []remedy{
	// the network
	{fits: onlyIPv6, text: "{host} has an IPv6 address only, and this machine no way to it: on Supabase take the session pooler's address (Connect > Session pooler: port 5432 of " +
		"….pooler.supabase.com, user {login}.REF), or buy the IPv4 add-on"},
	{fits: both(noSuchHost, supabaseDirect), text: "the project's reference is mistyped, or the project is paused, or the name has an IPv6 address only and this machine asks for none: " +
		"then take the session pooler's address (Connect > Session pooler: port 5432 of ….pooler.supabase.com, user {login}.REF), or buy the IPv4 add-on"},
	{fits: noSuchHost, text: "check the host in the URL; a password with @ / ? # : or % in it must have them as %40 %2F %3F %23 %3A %25"},
	{fits: unreachableHost, text: "this machine has no way to {host}: check its network"},
	{fits: both(connecting, is(syscall.ECONNREFUSED)), text: "nothing listens there: check host and port, and that the server is up"},

	// TLS
	{fits: both(connecting, words("server refused TLS connection")), text: "the server has no TLS: switch it on there, or, in a network that you trust, write sslmode=disable"},
	{fits: unknownAuthority, text: "this machine does not know who signed the server's certificate: download the project's CA (Supabase: Database settings > SSL configuration) and write " +
		"sslmode=verify-full&sslrootcert=FILE"},
	{fits: expired, text: "the server's certificate has expired, or this machine's clock is wrong: renew it on the server"},
	{fits: otherName, text: "the server's certificate is for another name than {host}: write the name that it has, or sslmode=verify-ca, which does not compare names"},
	{fits: either(both(state("28000"), words("no encryption", "SSL off")), words("SSL connection is required", "ESSLREQUIRED")), text: "the server lets nobody in without TLS: write sslmode=require, " +
		"or sslmode=verify-full&sslrootcert=FILE"},

	// the login
	{fits: words("Tenant or user not found", "ENOTFOUND", "ENOIDENTIFIER"), text: "Supabase's pooler finds the project by the user's name: write {login}.REF, and the very host that the dashboard " +
		"shows for this project (Connect; aws-0 and aws-1 differ); and the project must not be paused"},
	{fits: words("EADDRNOTALLOWED"), text: "the project's network restrictions keep this machine out: add its address (Database settings > Network restrictions)"},
	{fits: words("ECIRCUITBREAKER"), passes: true, text: "so many logins have failed that Supabase's pooler takes none for some minutes: put the password right wherever it is wrong, and wait"},
	{fits: both(state("28P01"), pooledWithoutProject), text: "Supabase's pooler finds the project by the user's name: write {login}.REF; and special characters of the password as %XX"},
	{fits: either(state("28P01"), words("failed SASL auth")), text: "user or password is wrong; in a URL special characters of the password are written as %XX (@ as %40, / as %2F, # as %23, % as %25)"},
	{fits: both(state("28000"), words("not permitted to log in")), text: "give it a login, as the owner: alter role {login} login password '…'"},
	{fits: both(state("28000"), words("does not exist")), text: "check the user's name in the URL; pgtick migrate makes pgtick_runner, and its login is yours to give: alter role pgtick_runner login password '…'"},
	{fits: state("28000"), text: "the server's pg_hba.conf does not let this user in from here"},
	{fits: either(state("3D000"), words("no such database")), text: "check the database's name, behind the last / of the URL (on Supabase it is postgres)"},
	{fits: either(both(state("42704"), words("configuration parameter")), words("unsupported startup parameter")), text: "take that parameter out of the URL (behind the ?): neither server nor pooler knows it"},

	// no room, or not now
	{fits: state("53300"), passes: true, text: "the server has no room for another connection: a runner needs 2 and --connections (3); lower that, or the pools of your application (select usename, application_name, " +
		"count(*) from pg_stat_activity group by 1, 2), or take a larger plan"},
	{fits: words("max clients reached", "max client connections reached", "EMAXCONN", "no more connections allowed"), passes: true, text: "the pooler has no room for another client: " +
		"a runner needs 2 and --connections (3); raise the pool's size (Supabase: Database settings > Connection pooling), or take the direct connection"},
	{fits: words("query_wait_timeout"), passes: true, text: "the pooler had no session of the server free in time: raise the pool's size, or lower --connections"},
	{fits: words("prepared statement \"stmtcache"), text: "a pooler in transaction mode is between: add default_query_exec_mode=exec to the URL, or take the direct connection"},
	{fits: state("57P03"), passes: true, text: "the server is starting, or going down: wait"},
	{fits: either(state("25006"), is(ErrReadOnly)), passes: true, text: "the database is read-only: it is a standby, or its disk is full (Supabase then switches writes off: free some, or enlarge the disk); " +
		"a runner waits until it takes writes again"},
	{fits: state("57P05"), text: "let the runner's sessions be idle: alter role {login} set idle_session_timeout = 0"},

	// what the login may do
	{fits: both(state("3F000", "42P01"), words("pgtick", "credits")), text: "pgtick is not installed in this database, or is older than this program: run pgtick migrate"},
	{fits: state("42501"), text: "the login lacks a right: grant pgtick_runner to {login} (for a runner), or pgtick_reader (to look on), or service_role; pgtick roles prints how to make one. What somebody has revoked from pgtick_runner itself " +
		"comes back, as the owner, with: delete from pgtick.applied_sql; and then pgtick migrate"},

	// last, since much ends so
	{fits: both(connecting, timedOut), text: "no answer: a firewall or the project's network restrictions may be between, or the host is wrong, or the project is paused"},
	{fits: both(connecting, either(is(io.ErrUnexpectedEOF), is(io.EOF), is(syscall.ECONNRESET), notTLS)), text: "the connection was cut: something between ends it, the server is going down, or what listens there is no PostgreSQL"},
}

// Remedy says what to do about an error of a connection, or of what was sent over it, in one line; where that is not known, nothing. It never
// holds a password.
func Remedy(err error) string {
	f := takeApart(err)
	found := f.find()
	if found == nil {
		return ""
	}
	host, port, user, database := "the host", "", "ROLE", "the database"
	if f.config != nil {
		host, port, user, database = f.config.Host, strconv.Itoa(int(f.config.Port)), f.config.User, f.config.Database
	}
	login, _, _ := strings.Cut(user, ".")
	return strings.NewReplacer("{host}", host, "{port}", port, "{user}", user, "{login}", login, "{database}", database).Replace(found.text)
}

// Passes tells whether an error may go away by waiting: no room for a connection, a server that is starting, a database that is read-only.
func Passes(err error) bool {
	found := takeApart(err).find()
	return found != nil && found.passes
}

// RefusedLogin tells whether a server or pooler did not take the login itself. Who tries on and on has others locked out, too: Supabase's pooler
// takes no login to a project at all after some hundred failed ones.
func RefusedLogin(err error) bool {
	f := takeApart(err)
	return f.config != nil && f.pg != nil && (strings.HasPrefix(f.pg.Code, "28") || words("Tenant or user not found", "ENOTFOUND", "ECIRCUITBREAKER")(f))
}

func takeApart(err error) failure {
	f := failure{err: err}
	errors.As(err, &f.pg)
	if tried := new(pgconn.ConnectError); errors.As(err, &tried) {
		f.config = tried.Config
	}
	return f
}

// find passes over errors that pgtick raised itself: they have hints of their own.
func (f failure) find() *remedy {
	if f.err == nil || f.pg != nil && strings.HasPrefix(f.pg.Code, "TK") {
		return nil
	}
	for i := range remedies {
		if remedies[i].fits(f) {
			return &remedies[i]
		}
	}
	return nil
}

func state(codes ...string) func(failure) bool {
	return func(f failure) bool { return f.pg != nil && slices.Contains(codes, f.pg.Code) }
}

// words looks at what the server or pooler says, or, where none has answered, at the error itself.
func words(some ...string) func(failure) bool {
	return func(f failure) bool {
		text := f.err.Error()
		if f.pg != nil {
			text = f.pg.Message
		}
		text = strings.ToLower(text)
		return slices.ContainsFunc(some, func(word string) bool { return strings.Contains(text, strings.ToLower(word)) })
	}
}

func is(target error) func(failure) bool {
	return func(f failure) bool { return f.pg == nil && errors.Is(f.err, target) }
}

func both(all ...func(failure) bool) func(failure) bool {
	return func(f failure) bool {
		return !slices.ContainsFunc(all, func(fits func(failure) bool) bool { return !fits(f) })
	}
}

func either(some ...func(failure) bool) func(failure) bool {
	return func(f failure) bool {
		return slices.ContainsFunc(some, func(fits func(failure) bool) bool { return fits(f) })
	}
}

// connecting: what is about hosts and certificates is said of connections to a database only.
func connecting(f failure) bool { return f.config != nil }

func supabaseDirect(f failure) bool {
	return connecting(f) && strings.HasPrefix(f.config.Host, "db.") && strings.HasSuffix(f.config.Host, ".supabase.co")
}

func pooledWithoutProject(f failure) bool {
	return connecting(f) && strings.HasSuffix(f.config.Host, ".pooler.supabase.com") && !strings.Contains(f.config.User, ".")
}

func noSuchHost(f failure) bool {
	var dns *net.DNSError
	return connecting(f) && errors.As(f.err, &dns) && dns.IsNotFound
}

// noWay are the errors of a machine that has no route to an address, or none of that kind itself.
var noWay = []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT}

func unreachableHost(f failure) bool {
	return connecting(f) && slices.ContainsFunc(noWay, func(e error) bool { return errors.Is(f.err, e) })
}

// onlyIPv6: each address that was tried is one of IPv6, to which there is no way. A host may have several.
func onlyIPv6(f failure) bool {
	if !connecting(f) {
		return false
	}
	tried, without := 0, 0
	each(f.err, func(err error) {
		dial, isDial := err.(*net.OpError) //nolint:errorlint // each of a chain is looked at
		if !isDial || dial.Op != "dial" {
			return
		}
		tried++
		address, isTCP := dial.Addr.(*net.TCPAddr)
		if isTCP && address.IP.To4() == nil && slices.ContainsFunc(noWay, func(e error) bool { return errors.Is(dial.Err, e) }) {
			without++
		}
	})
	return tried > 0 && tried == without
}

// each shows an error, and all that it wraps.
func each(err error, see func(error)) {
	if err == nil {
		return
	}
	see(err)
	switch e := err.(type) { //nolint:errorlint // this is how errors.Is looks
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			each(inner, see)
		}
	case interface{ Unwrap() error }:
		each(e.Unwrap(), see)
	}
}

func unknownAuthority(f failure) bool {
	var unknown x509.UnknownAuthorityError
	return connecting(f) && errors.As(f.err, &unknown)
}

func expired(f failure) bool {
	var invalid x509.CertificateInvalidError
	return connecting(f) && errors.As(f.err, &invalid) && invalid.Reason == x509.Expired
}

func otherName(f failure) bool {
	var other x509.HostnameError
	return connecting(f) && errors.As(f.err, &other)
}

func timedOut(f failure) bool {
	var network net.Error
	return f.pg == nil && (errors.Is(f.err, context.DeadlineExceeded) || pgconn.Timeout(f.err) || errors.As(f.err, &network) && network.Timeout())
}

func notTLS(f failure) bool {
	var record tls.RecordHeaderError
	return errors.As(f.err, &record)
}
