package pgtest

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// RedisEnv names the server program where it shall not be the redis-server on the PATH: of another version, or a valkey-server.
const RedisEnv = "PGTICK_TEST_REDIS"

// RedisServer is a redis-server of one test, on a loopback port, which keeps nothing on disk.
type RedisServer struct {
	URL    string         // as REDIS_URL takes it
	Roots  *x509.CertPool // who signed its certificate; nil without TLS
	Folder string         // where its files are; with TLS ca.pem, and cert.pem and key.pem, which a client may show it

	t       testing.TB
	flags   []string
	process *localpg.Process
	pid     int
}

// RedisOptions of a server; the zero value is one without any.
type RedisOptions struct {
	Password   string
	TLS        bool // only: there is no port without
	ClientCert bool // with TLS: who shows no certificate is not let in
	Cluster    bool // it can be a node of a cluster
	Sentinel   bool
	Settings   []string // more lines for its configuration
}

// Redis starts a redis-server for one test. It ends with the test.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	return RedisWith(t, RedisOptions{})
}

// RedisWith is Redis with options.
func RedisWith(t testing.TB, opt RedisOptions) *RedisServer {
	t.Helper()
	s := &RedisServer{t: t, Folder: t.TempDir()}
	port := strconv.Itoa(freePort(t))
	if opt.Cluster {
		port = strconv.Itoa(clusterPort(t))
	}
	where := url.URL{Scheme: "redis", Host: net.JoinHostPort("127.0.0.1", port)}
	config := "bind 127.0.0.1\ndir " + s.Folder + "\n"
	if opt.Sentinel { // it looks by access(2) whether it may write its file, so its account must be able to enter all folders above
		s.flags = []string{"--sentinel"}
		require.NoError(t, os.Chmod(filepath.Dir(s.Folder), 0o711))
	} else {
		config += "save \"\"\n"
	}
	if opt.Cluster {
		config += "cluster-enabled yes\n"
	}
	if opt.TLS {
		where.Scheme = "rediss"
		config += "port 0\ntls-port " + port + "\ntls-auth-clients " + yesNo(opt.ClientCert) + "\n" + s.certify()
	} else {
		config += "port " + port + "\n"
	}
	if opt.Password != "" {
		where.User = url.UserPassword("default", opt.Password)
		config += fmt.Sprintf("requirepass %q\n", opt.Password)
	}
	write(t, s.Folder, "redis.conf", config+strings.Join(append(opt.Settings, ""), "\n"))
	s.URL = where.String()
	s.Start()
	t.Cleanup(func() {
		s.signal(syscall.SIGCONT) // a server that was paused would take no notice
		require.NoError(t, s.process.Stop())
	})
	return s
}

// Start lets it run again after Kill, at the same address, and empty.
func (s *RedisServer) Start() {
	s.t.Helper()
	process, err := localpg.Supervise(s.Folder, "TERM", slices.Concat([]string{findRedis(s.t), filepath.Join(s.Folder, "redis.conf")}, s.flags)...)
	require.NoError(s.t, err)
	s.process = process
	where, err := url.Parse(s.URL)
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool { return s.opens(where.Host) && s.readPid() }, 20*time.Second, 10*time.Millisecond,
		"redis-server does not let us in; its log is %s/log", s.Folder)
}

// opens: go-redis writes a line to stderr for each try that fails.
func (s *RedisServer) opens(address string) bool {
	conn, err := net.Dial("tcp", address)
	return err == nil && conn.Close() == nil
}

// Kill ends it at once, and returns when it is gone.
func (s *RedisServer) Kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	require.NoError(s.t, s.process.Stop())
}

// Pause stops it without ending it: connections stay, and nobody answers, until Resume.
func (s *RedisServer) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets it go on after Pause.
func (s *RedisServer) Resume() { s.signal(syscall.SIGCONT) }

// Do sends a command, such as flushall, and returns its reply.
func (s *RedisServer) Do(args ...any) any {
	s.t.Helper()
	client := s.connect()
	defer func() { _ = client.Close() }()
	reply, err := client.Do(context.Background(), args...).Result()
	require.NoError(s.t, err)
	return reply
}

func (s *RedisServer) connect() *redis.Client {
	options, err := redis.ParseURL(s.URL)
	require.NoError(s.t, err)
	if options.TLSConfig != nil {
		options.TLSConfig.RootCAs = s.Roots
		own, err := tls.LoadX509KeyPair(filepath.Join(s.Folder, "cert.pem"), filepath.Join(s.Folder, "key.pem"))
		require.NoError(s.t, err)
		options.TLSConfig.Certificates = []tls.Certificate{own}
	}
	options.DialerRetries, options.MaxRetries = 1, -1
	return redis.NewClient(options)
}

var processID = regexp.MustCompile(`process_id:(\d+)`)

// readPid finds out whom signals must go to: our process is the supervisor.
func (s *RedisServer) readPid() bool {
	client := s.connect()
	defer func() { _ = client.Close() }()
	said, err := client.Info(context.Background(), "server").Result()
	found := processID.FindStringSubmatch(said)
	if err != nil || found == nil {
		return false
	}
	s.pid, err = strconv.Atoi(found[1])
	return err == nil
}

func (s *RedisServer) signal(signal syscall.Signal) { _ = syscall.Kill(s.pid, signal) }

// certify makes a certificate for the loopback address, signed by an authority of its own, and returns the settings that name it.
func (s *RedisServer) certify() string {
	authority, server := newKey(s.t), newKey(s.t)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pgtest"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	rootDER := s.sign(root, root, &authority.PublicKey, authority)
	leafDER := s.sign(leaf, root, &server.PublicKey, authority)
	keyDER, err := x509.MarshalECPrivateKey(server)
	require.NoError(s.t, err)
	s.Roots = x509.NewCertPool()
	require.True(s.t, s.Roots.AppendCertsFromPEM(asPEM("CERTIFICATE", rootDER)))
	write(s.t, s.Folder, "ca.pem", string(asPEM("CERTIFICATE", rootDER)))
	write(s.t, s.Folder, "cert.pem", string(asPEM("CERTIFICATE", leafDER)))
	write(s.t, s.Folder, "key.pem", string(asPEM("EC PRIVATE KEY", keyDER)))
	_, err = tls.X509KeyPair(asPEM("CERTIFICATE", leafDER), asPEM("EC PRIVATE KEY", keyDER))
	require.NoError(s.t, err)
	return fmt.Sprintf("tls-ca-cert-file %[1]s/ca.pem\ntls-cert-file %[1]s/cert.pem\ntls-key-file %[1]s/key.pem\n", s.Folder)
}

func (s *RedisServer) sign(certificate, parent *x509.Certificate, public *ecdsa.PublicKey, by *ecdsa.PrivateKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, certificate, parent, public, by)
	require.NoError(s.t, err)
	return der
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func asPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// findRedis fails where there is none: without Redis nothing is known of the limits.
func findRedis(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath(cmp.Or(os.Getenv(RedisEnv), "redis-server"))
	if err != nil {
		require.FailNow(t, "redis-server is not installed", "on Debian: apt-get install --no-install-recommends redis-server; or %s names another: %s", RedisEnv, err)
	}
	return path
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// clusterPort is free, as is the one that nodes speak to each other by.
func clusterPort(t testing.TB) int {
	t.Helper()
	for {
		port := freePort(t)
		if listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+10000))); err == nil {
			require.NoError(t, listener.Close())
			return port
		}
	}
}
