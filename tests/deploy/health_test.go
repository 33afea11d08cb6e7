package deploy

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// silentPort is one that this test has and that nobody listens at.
func silentPort(t *testing.T) string {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Close(socket) })
	require.NoError(t, syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := syscall.Getsockname(socket)
	require.NoError(t, err)
	return strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
}

var serves = regexp.MustCompile(`health and metrics at http://([0-9.:]+)"`)

func TestHealth_OfARunner_IsThatOfItsAddress(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	// Short lease, so that it is soon seen to be cut off.
	runner := start(t, program(t), []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)}, "work", "--http", "127.0.0.1:0", "--name", "höre zu", "--lease", "1s")
	runner.says("notifications arrive")
	address := serves.FindStringSubmatch(runner.said())[1]
	beside := []string{"PGTICK_HTTP=" + address} // no DATABASE_URL: a container's check needs none
	out, talk, code := call(t, program(t), beside, "health")
	require.Zero(t, code, talk)
	require.Equal(t, "runner höre zu is well\n", out)
	require.Empty(t, talk)
	out, _, code = call(t, program(t), nil, "health", "--http", address, "--ready", "--json", "--name", "höre zu")
	require.Zero(t, code)
	require.JSONEq(t, `{"check": "ready", "status": "ok", "url": "http://`+address+`/readyz", "runner": "höre zu"}`, out)

	out, talk, code = call(t, program(t), append(beside, "PGTICK_NAME=another"), "health", "--json")
	require.Equal(t, 1, code)
	require.Contains(t, talk, "runner höre zu answers, not another")
	var said map[string]string
	require.NoError(t, json.Unmarshal([]byte(out), &said))
	require.Equal(t, "fail", said["status"])

	// Without its database a runner is alive, but not ready.
	require.NoError(t, disallow(t, db))
	require.Eventually(t, func() bool {
		_, talk, code = call(t, program(t), beside, "health", "--ready")
		return code == 1
	}, within, every*5)
	require.Regexp(t, "no answer from the database for|not registered", talk)
	_, talk, code = call(t, program(t), beside, "health")
	require.Zero(t, code, talk)

	// A frozen one does not answer in time.
	require.NoError(t, runner.cmd.Process.Signal(syscall.SIGSTOP))
	_, talk, code = call(t, program(t), beside, "health")
	require.Equal(t, 1, code)
	require.Contains(t, talk, "no runner answers")
}

// disallow ends the runner's sessions and lets it have no new one.
func disallow(t *testing.T, db *pgtest.DB) error {
	t.Helper()
	do(t, db, `revoke connect on database `+db.Name+` from public`)
	_, err := db.Pool.Exec(t.Context(), `select pg_terminate_backend(a.pid) from pg_stat_activity as a where a.datname = current_database() and a.usename = 'pgtick_runner'`)
	return err
}

func TestHealth_OfSomethingElse_SaysThatItIsNoRunner(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }))
	defer other.Close()
	_, talk, code := call(t, program(t), nil, "health", "--http", other.Listener.Addr().String())
	require.Equal(t, 1, code)
	require.Contains(t, talk, "what answers is no runner of pgtick")
}

func TestHealth_WithoutAnAddressToAsk_IsWrongUsage(t *testing.T) {
	t.Parallel()
	for address, says := range map[string]string{
		"off":           "is off: this runner serves no health",
		"127.0.0.1:0":   "has port 0, which is another one each time",
		"somewhere":     `"somewhere" is not an address such as 127.0.0.1:8640, nor off`,
		"127.0.0.1:x y": "is no address to ask at",
	} {
		_, talk, code := call(t, program(t), []string{"PGTICK_HTTP=" + address}, "health")
		require.Contains(t, talk, says)
		require.Equal(t, map[bool]int{true: 1, false: 2}[address == "127.0.0.1:x y"], code, address)
	}
}

// A container serves at all of its addresses; the check beside it asks the loopback.
func TestHealth_WhereNobodyListens_SaysWhereItAsked(t *testing.T) {
	t.Parallel()
	port := silentPort(t)
	for address, asked := range map[string]string{"127.0.0.1:": "127.0.0.1:", "0.0.0.0:": "127.0.0.1:", ":": "127.0.0.1:", "[::]:": "[::1]:"} {
		out, talk, code := call(t, program(t), []string{"PGTICK_HTTP=" + address + port}, "health")
		require.Equal(t, 1, code)
		require.Empty(t, out)
		require.Contains(t, talk, "http://"+asked+port+"/healthz: no runner answers: ")
	}
}
