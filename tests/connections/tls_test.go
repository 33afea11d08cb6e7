package connections

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	file string // its own certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.crt")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var der []byte
	a.key, der = a.sign(template, template, nil)
	var err error
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	require.NoError(a.t, err)
	return key, der
}

// certify gives a server a certificate for an address, or a name, that ends at a moment, and puts it in force.
func (a *authority) certify(db *pgtest.DB, server *localpg.Server, name string, until time.Time) {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: until.Add(-48 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	key, der := a.sign(template, a.cert, a.key)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	give(a.t, server, "server.crt", "CERTIFICATE", der)
	give(a.t, server, "server.key", "PRIVATE KEY", secret)
	do(a.t, db, "alter system set ssl = on")
	reload(a.t, db)
}

// reload returns when the server has read its settings again: new sessions are children of the process that admits them, and know when it did.
func reload(t *testing.T, db *pgtest.DB) {
	t.Helper()
	before := inNewSession(t, db.URL)
	do(t, db, "select pg_reload_conf()")
	require.Eventually(t, func() bool { return inNewSession(t, db.URL).After(before) }, within, every)
}

func inNewSession(t *testing.T, url string) (loaded time.Time) {
	t.Helper()
	conn := session(t, url)
	defer conn.Close(t.Context())
	require.NoError(t, conn.QueryRow(t.Context(), "select pg_conf_load_time()").Scan(&loaded))
	return loaded
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// give puts a file into the server's folder, as its account wants it.
func give(t *testing.T, server *localpg.Server, name, kind string, der []byte) {
	t.Helper()
	path := filepath.Join(server.DataDir(), name)
	writePEM(t, path, kind, der)
	own(t, server, path)
}

func own(t *testing.T, server *localpg.Server, path string) {
	t.Helper()
	info, err := os.Stat(filepath.Join(server.DataDir(), "PG_VERSION"))
	require.NoError(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	require.NoError(t, os.Chown(path, int(owner.Uid), int(owner.Gid)))
}

// admitOnly sets the lines of the server's pg_hba.conf.
func admitOnly(t *testing.T, db *pgtest.DB, server *localpg.Server, lines ...string) {
	t.Helper()
	path := filepath.Join(server.DataDir(), "pg_hba.conf")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	own(t, server, path)
	reload(t, db)
}

// fails runs a command that must fail, and returns what it said: what went wrong in one line, and the hint in another.
func fails(t *testing.T, url string, args ...string) (what, hint string) {
	t.Helper()
	out, talk, code := call(t, url, args...)
	require.NotZero(t, code)
	require.Empty(t, out)
	what, hint, _ = strings.Cut(strings.TrimSpace(talk), "\n  hint: ")
	require.NotContains(t, hint, "\n", "%s: one line, and the hint", talk)
	return what, hint
}

func TestTLS_EachMistakeOfSSLMode_NamesItsRemedy(t *testing.T) {
	t.Parallel()
	server := pgtest.ServerWith(t, localpg.Options{})
	db := pgtest.NewOn(t, server)
	plain := pgtest.RunnerURL(t, db)
	ca := newAuthority(t)
	full := "?sslmode=verify-full&sslrootcert=" + ca.file

	what, hint := fails(t, plain+"?sslmode=require", "work")
	require.Contains(t, what, "server refused TLS connection")
	require.Contains(t, hint, "the server has no TLS: switch it on there, or, in a network that you trust, write sslmode=disable")

	ca.certify(db, server, "127.0.0.1", time.Now().Add(24*time.Hour))
	for _, mode := range []string{"", "?sslmode=disable", "?sslmode=prefer", "?sslmode=require", full, "?sslmode=verify-ca&sslrootcert=" + ca.file} {
		_, talk, code := call(t, db.URL+mode, "schedules", "list")
		require.Zero(t, code, "%s: %s", mode, talk)
	}

	what, hint = fails(t, plain+"?sslmode=verify-full", "work")
	require.Contains(t, what, "certificate signed by unknown authority")
	require.Contains(t, hint, "download the project's CA")
	require.Contains(t, hint, "sslrootcert=FILE")
	_, hint = fails(t, plain+"?sslmode=verify-full&sslrootcert="+newAuthority(t).file, "migrate", "status")
	require.Contains(t, hint, "download the project's CA")

	what, _ = fails(t, plain+"?sslmode=verify-full&sslrootcert=/nowhere/ca.crt", "work")
	require.Contains(t, what, "names the file /nowhere/ca.crt, which can't be read: no such file or directory")
	what, _ = fails(t, plain+"?sslmode=verify-full&sslrootcert="+filepath.Join(server.DataDir(), "PG_VERSION"), "work")
	require.Contains(t, what, "names an sslrootcert that holds no certificate")
	what, _ = fails(t, plain+"?sslmode=on", "work")
	require.Contains(t, what, "has an sslmode that does not exist: write disable, allow, prefer, require, verify-ca or verify-full")

	ca.certify(db, server, "db.example.org", time.Now().Add(24*time.Hour))
	_, hint = fails(t, plain+full, "work")
	require.Contains(t, hint, "the server's certificate is for another name than 127.0.0.1")
	require.Contains(t, hint, "sslmode=verify-ca")

	ca.certify(db, server, "127.0.0.1", time.Now().Add(-time.Hour))
	what, hint = fails(t, plain+full, "work")
	require.Contains(t, what, "certificate has expired")
	require.Contains(t, hint, "renew it on the server")

	ca.certify(db, server, "127.0.0.1", time.Now().Add(24*time.Hour))
	admitOnly(t, db, server, "hostssl all all 127.0.0.1/32 scram-sha-256")
	what, hint = fails(t, plain+"?sslmode=disable", "work")
	require.Contains(t, what, "no encryption")
	require.Contains(t, hint, "write sslmode=require")
	admitOnly(t, db, server, "hostssl all postgres 127.0.0.1/32 scram-sha-256")
	_, hint = fails(t, plain+"?sslmode=require", "work")
	require.Contains(t, hint, "pg_hba.conf does not let this user in")
}

// With the project's CA, all of a runner's connections are verified: control, tasks and the listener.
func TestTLS_WithTheProjectsCA_ARunnerWorks_AndEveryConnectionIsVerified(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	db := pgtest.NewOn(t, server)
	furnish(t, db)
	ca := newAuthority(t)
	ca.certify(db, server, "127.0.0.1", time.Now().Add(24*time.Hour))
	admitOnly(t, db, server, "hostssl all all 127.0.0.1/32 scram-sha-256")
	p := work(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db) + "?sslmode=verify-full&sslrootcert=" + ca.file})
	p.says("notifications arrive")
	enqueue(t, db, "test.effect", "{}", 20)
	nothingLost(t, db, 20)
	require.Zero(t, ask[int](t, db, `select count(*) from pg_stat_activity as a join pg_stat_ssl as s using (pid) where a.usename = 'pgtick_runner' and not s.ssl`))
	p.stops()
}
