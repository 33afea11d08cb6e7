package jobs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// dialed is what pgx says when each of these addresses could not be reached. (An error of a real connection; only the network is put on.)
func dialed(t *testing.T, host string, addresses map[string]syscall.Errno, lookup error) error {
	t.Helper()
	cfg, err := pgx.ParseConfig("postgres://pgtick_runner:hunter2@" + host + ":5432/postgres?sslmode=disable")
	require.NoError(t, err)
	cfg.LookupFunc = func(context.Context, string) (found []string, err error) {
		for address := range addresses {
			found = append(found, address)
		}
		return found, lookup
	}
	cfg.DialFunc = func(_ context.Context, network, address string) (net.Conn, error) {
		to, err := net.ResolveTCPAddr(network, address)
		require.NoError(t, err)
		return nil, &net.OpError{Op: "dial", Net: network, Addr: to, Err: os.NewSyscallError("connect", addresses[to.IP.String()])}
	}
	_, err = pgx.ConnectConfig(t.Context(), cfg)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	return fmt.Errorf("can't be reached: %w", err)
}

func TestRemedy_OfANetworkThatDoesNotLeadThere(t *testing.T) {
	t.Parallel()
	const direct, v6, v4 = "db.abcdefghijklmnop.supabase.co", "2a05:d014::1", "203.0.113.7"
	notFound := &net.DNSError{Err: "no such host", Name: direct, IsNotFound: true}
	for name, c := range map[string]struct {
		err  error
		says string
	}{
		"IPv6 only, no network of that kind": {dialed(t, direct, map[string]syscall.Errno{v6: syscall.ENETUNREACH}, nil), "has an IPv6 address only, and this machine no way to it: on Supabase take the session pooler's address"},
		"IPv6 only, no address of that kind": {dialed(t, direct, map[string]syscall.Errno{v6: syscall.EADDRNOTAVAIL}, nil), "user pgtick_runner.REF), or buy the IPv4 add-on"},
		"two of IPv6":                        {dialed(t, direct, map[string]syscall.Errno{v6: syscall.ENETUNREACH, "2a05:d014::2": syscall.EHOSTUNREACH}, nil), "IPv6 address only"},
		"IPv4 as well, which refuses":        {dialed(t, "db.example.org", map[string]syscall.Errno{v6: syscall.ENETUNREACH, v4: syscall.ECONNREFUSED}, nil), "no way to db.example.org"},
		"IPv6, where nobody listens":         {dialed(t, direct, map[string]syscall.Errno{v6: syscall.ECONNREFUSED}, nil), "nothing listens there"},
		"IPv4, no network":                   {dialed(t, "db.example.org", map[string]syscall.Errno{v4: syscall.ENETUNREACH}, nil), "this machine has no way to db.example.org"},
		"a resolver that asks for IPv4 only": {dialed(t, direct, nil, notFound), "the name has an IPv6 address only and this machine asks for none: then take the session pooler's address"},
		"no such host":                       {dialed(t, "db.example.invalid", nil, notFound), "check the host in the URL"},
		"no answer":                          {dialed(t, "db.example.org", map[string]syscall.Errno{v4: syscall.ETIMEDOUT}, nil), "network restrictions"},
	} {
		require.Contains(t, Remedy(c.err), c.says, name)
		require.False(t, Passes(c.err), name)
	}
}

// Poolers give XX000 or 08P01 for everything; what they say, as found in their sources and in users' reports.
func TestRemedy_OfWhatPoolersSay(t *testing.T) {
	t.Parallel()
	for message, says := range map[string]string{
		"Tenant or user not found":                                                                            "write pgtick_runner.REF",
		"(ENOTFOUND) tenant/user pgtick_runner.abc not found":                                                 "write pgtick_runner.REF",
		"(ENOIDENTIFIER) no tenant identifier provided (external_id or sni_hostname required)":                "write pgtick_runner.REF",
		"(EADDRNOTALLOWED) address not in tenant allow_list: {203, 0, 113, 7}":                                "network restrictions keep this machine out",
		"(EMAXCONN) max client connections reached, limit: 200":                                               "raise the pool's size",
		"MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size": "raise the pool's size",
		"(EMAXCONNSESSION) max clients reached in session mode - max clients are limited to pool_size: 15":    "raise the pool's size",
		"Max client connections reached":                                                                      "raise the pool's size",
		"no more connections allowed (max_client_conn)":                                                       "raise the pool's size",
		"query_wait_timeout":                                           "lower --connections",
		"no such database: nowhere":                                    "on Supabase it is postgres",
		"unsupported startup parameter: statement_timeout":             "take that parameter out of the URL",
		"(ESSLREQUIRED) SSL connection is required for user: postgres": "write sslmode=require",
	} {
		err := refusedBy(t, &pgconn.PgError{Severity: "FATAL", Code: "XX000", Message: message})
		require.Contains(t, Remedy(err), says, message)
		require.Equal(t, says == "raise the pool's size" || says == "lower --connections", Passes(err), message)
	}
	err := refusedBy(t, &pgconn.PgError{Severity: "FATAL", Code: "28P01", Message: "password authentication failed"})
	require.Contains(t, Remedy(err), "write pgtick_runner.REF; and special characters")
}

// refusedBy is the error of a login at Supabase's pooler, without the project in the user's name.
func refusedBy(t *testing.T, pg *pgconn.PgError) error {
	t.Helper()
	cfg, err := pgx.ParseConfig("postgres://pgtick_runner:hunter2@aws-0-eu-central-1.pooler.supabase.com:5432/postgres?sslmode=disable")
	require.NoError(t, err)
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, pg }
	_, err = pgx.ConnectConfig(t.Context(), cfg)
	require.ErrorAs(t, err, new(*pgconn.PgError))
	return err
}

func TestRemedy_OfOtherErrors_IsNone(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		nil, errors.New("connection refused"), context.DeadlineExceeded, syscall.ECONNREFUSED, &net.DNSError{IsNotFound: true},
		&pgconn.PgError{Code: "TK009", Message: "this database belongs to another address"}, &pgconn.PgError{Code: "22023", Message: "no such thing"},
		fmt.Errorf("call: %w", &pgconn.PgError{Code: "P0001", Message: "out of stock"}),
	} {
		require.Empty(t, Remedy(err), "%v", err)
		require.False(t, Passes(err))
	}
}

func TestPasses_WhatWaitingMayHelp(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"53300", "57P03", "25006"} {
		require.True(t, Passes(fmt.Errorf("claim: %w", &pgconn.PgError{Code: code})), code)
	}
	require.True(t, Passes(fmt.Errorf("begin: %w", ErrReadOnly)))
	for _, code := range []string{"28P01", "3D000", "42501", "57P05"} {
		require.False(t, Passes(&pgconn.PgError{Code: code}), code)
	}
}

// Every row of the table has a text that is a whole sentence for one line, and no row is hidden behind another that fits all.
func TestRemedies_AreOneLineEach(t *testing.T) {
	t.Parallel()
	for _, r := range remedies {
		require.NotContains(t, r.text, "\n")
		require.NotEmpty(t, r.text)
		require.False(t, r.fits(failure{err: errors.New("something else")}), r.text)
	}
}
