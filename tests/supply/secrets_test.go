package supply

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// Conditions are looked at this often, and waited for that long.
const (
	every  = 20 * time.Millisecond
	within = 2 * time.Minute
)

// The secrets that are planted. Each holds characters that URLs, JSON and shells write otherwise.
var planted = map[string]string{
	"the database's password": "pl4nted-Db/p@ss:w%rd?1",
	"a wrong password":        "pl4nted-Wrong&p=ss#2",
	"Redis's password":        "pl4nted-Redis+p ss3",
	"a secret of the task":    `pl4nted-Api"key\4`,
	"a signing key":           "whsec_" + base64.StdEncoding.EncodeToString([]byte("pl4nted-Hook-5-and-more-of-it")),
	"the sync key":            "pl4nted-Sync-6.eyJhbGciOiJIUzI1NiJ9",
	"a vault's secret":        "pl4nted-Vault-7",
	"a login's password":      "pl4nted-Login-8-long",
	"the operators' token":    "pl4nted-Operator-9+of/32letters=or-more",
	"the readers' token":      "pl4nted-Reader-10+of/32letters=or-more",
	"the sessions' key":       "pl4nted-Key-11+of/32letters=or-more-x",
	"the JWTs' secret":        "pl4nted-Jwt-12+of/32letters=or-more-x",
	"a wrong token":           "pl4nted-Guess-13+of/32letters=or-more",
}

// forms are the ways in which a secret may be written.
func forms(secret string) []string {
	quoted, _ := json.Marshal(secret)
	key := strings.TrimPrefix(secret, "whsec_")
	return []string{secret, url.QueryEscape(secret), url.PathEscape(secret), url.UserPassword("", secret).String()[1:], string(quoted[1 : len(quoted)-1]), fmt.Sprintf("%q", secret), key,
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret))}
}

// shown is what of the secrets is in a text, or nothing.
func shown(text string) string {
	for what, secret := range planted {
		for _, form := range forms(secret) {
			if at := strings.Index(text, form); at >= 0 {
				return fmt.Sprintf("%s: …%s…", what, text[max(0, at-200):min(len(text), at+len(form)+50)])
			}
		}
	}
	if at := strings.Index(text, "pl4nted-"); at >= 0 { // a part that was cut off
		return fmt.Sprintf("the beginning of one: …%s…", text[max(0, at-200):min(len(text), at+100)])
	}
	return ""
}

func requireNone(t *testing.T, where, text string) {
	t.Helper()
	require.Empty(t, shown(text), "a secret is in %s", where)
}

func TestSecrets_InWhateverForm_AreFound(t *testing.T) {
	t.Parallel()
	for what, secret := range planted {
		for _, form := range forms(secret) {
			require.NotEmpty(t, shown("before "+form+" after"), "%s as %s", what, form)
		}
	}
	require.NotEmpty(t, shown("cut off: pl4nted-Db"))
	require.Empty(t, shown("pgtick: DATABASE_URL: is not a PostgreSQL URL"))
}

// world is a database on a server that logs all it is told, a Redis with a password, and a site that says back what it was sent.
type world struct {
	server *localpg.Server
	db     *pgtest.DB
	redis  *pgtest.RedisServer
	site   *httptest.Server
	env    []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{server: pgtest.ServerWith(t, localpg.Options{Settings: map[string]string{"log_connections": "on", "log_disconnections": "on", "log_parameter_max_length_on_error": "-1", "log_error_verbosity": "verbose"}})}
	w.db = pgtest.NewOn(t, w.server)
	w.db.Quiet(t)
	w.login(t)
	do(t, w.db, `create schema vault; create table vault.decrypted_secrets (name text, decrypted_secret text);
		insert into vault.decrypted_secrets values ('VAULTED', '`+planted["a vault's secret"]+`');
		grant usage on schema vault to pgtick_runner; grant select on vault.decrypted_secrets to pgtick_runner;
		alter database `+w.db.Name+` set log_statement = 'all'; alter database `+w.db.Name+` set log_min_duration_statement = 0`)
	w.redis = pgtest.RedisWith(t, pgtest.RedisOptions{Password: planted["Redis's password"]})
	w.site = httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(func() { w.site.CloseClientConnections(); w.site.Close() })
	w.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "DATABASE_URL=" + pgtest.URLAs(w.db, "planted", planted["the database's password"]), "REDIS_URL=" + w.redis.URL,
		"PGTICK_SECRET_API=" + planted["a secret of the task"], "PGTICK_SECRET_HOOK=" + planted["a signing key"], "PGTICK_SYNC_TARGET=" + w.site.URL, "PGTICK_SYNC_KEY=" + planted["the sync key"],
		"PGTICK_HTTP_ALLOW=127.0.0.1", "PGTICK_LOG_LEVEL=debug", "PGTICK_LOG_FORMAT=json", "PGTICK_HTTP=127.0.0.1:0", "PGTICK_ROLE_PASSWORD=" + planted["a login's password"],
		"PGTICK_WEB_DATABASE_URL=" + pgtest.URLAs(w.db, "planted", planted["the database's password"]), "PGTICK_WEB_TOKEN=" + planted["the operators' token"], "PGTICK_WEB_READ_TOKEN=" + planted["the readers' token"],
		"PGTICK_WEB_KEY=" + planted["the sessions' key"], "PGTICK_WEB_JWT_SECRET=" + planted["the JWTs' secret"], "PGTICK_WEB_ISSUER=https://issuer.example", "PGTICK_WEB_AUDIENCE=ops", "PGTICK_WEB_ROLE_CLAIM=ops", "PGTICK_WEB_OPERATOR_ROLE=operator"}
	return w
}

// login makes the runner's login with what pgtick roles prints, as docs/install.md says: so that the server's log sees no password either.
func (w *world) login(t *testing.T) {
	t.Helper()
	sql, talk, err := call(t, []string{"PATH=" + os.Getenv("PATH"), "PGTICK_ROLE_PASSWORD=" + planted["the database's password"]}, "roles", "runner", "--name", "planted")
	require.NoError(t, err, talk)
	requireNone(t, "what pgtick roles prints", sql+talk)
	_, err = w.db.Pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

// echo refuses with all that it was sent, over and over, so that a cut may fall into the middle of a secret.
func echo(out http.ResponseWriter, in *http.Request) {
	body, _ := io.ReadAll(in.Body)
	var said strings.Builder
	for name, values := range in.Header {
		out.Header()["X-"+name] = values
		said.WriteString(name + ": " + strings.Join(values, ", ") + "\n")
	}
	switch in.URL.Path {
	case "/ok":
	case "/later":
		out.WriteHeader(http.StatusServiceUnavailable)
	default:
		out.WriteHeader(http.StatusForbidden)
	}
	_, _ = io.WriteString(out, strings.Repeat(said.String()+string(body)+"\n", 300))
}

func do(t *testing.T, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func texts(t *testing.T, db *pgtest.DB, sql string, args ...any) string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err, sql)
	return strings.Join(all, "\n")
}

// call runs a command to its end.
func call(t *testing.T, env []string, words ...string) (out, talk string, err error) {
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	ctx, end := context.WithTimeout(t.Context(), within)
	defer end()
	cmd := exec.CommandContext(ctx, path, words...)
	var said, data bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &data, &said
	err = cmd.Run()
	require.NoError(t, ctx.Err(), "pgtick %v does not end", words)
	return data.String(), said.String(), err
}

// with is an environment in which some settings are other ones.
func with(env []string, settings ...string) []string {
	return append(append([]string(nil), env...), settings...)
}

// No secret that a runner or a command was given is in anything that it says, shows or writes, nor in what the database's server writes down.
func TestSecrets_AreInNothingThatIsSaidOrWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("of a runner at work", w.atWork)
	t.Run("of a Redis that refuses", w.refusedByRedis)
	t.Run("of commands that fail", w.failing)
}

func (w *world) atWork(t *testing.T) {
	r := w.work(t, w.env)
	w.jobs(t)
	require.Eventually(t, func() bool {
		return texts(t, w.db, "select count(*)::text from pgtick.jobs where task in ('http', 'credits.sync_credit_usage_with_supabase') and last_error is null and result is null") == "0"
	}, within, every, "each job has been tried")
	for _, page := range []string{"/metrics", "/healthz", "/readyz", "/", "/jobs", "/login", "/nowhere"} {
		for _, token := range []string{"", "the operators' token", "the readers' token", "a wrong token"} {
			requireNone(t, page+" with "+token, r.get(t, page, planted[token]))
		}
	}
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.cmd.Process.Pid))
	if err == nil { // on Linux
		requireNone(t, "the list of processes", string(title))
	}
	requireNone(t, "pg_stat_activity", texts(t, w.db, "select concat_ws(' ', a.query, a.application_name, a.usename) from pg_stat_activity as a"))
	r.stop(t)
	requireNone(t, "the runner's log", r.said())
	for _, table := range strings.Fields(texts(t, w.db, `select c.oid::regclass::text from pg_class as c where c.relnamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace)
		and c.relkind in ('r', 'p', 'v') and not c.relispartition`)) {
		requireNone(t, table, texts(t, w.db, "select coalesce(x::text, '') from "+table+" as x"))
	}
	requireNone(t, "the server's log", w.serverLog(t))
}

// serverLog is what the database's server wrote: all statements with their values.
func (w *world) serverLog(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(w.server.LogFile())
	require.NoError(t, err)
	require.Contains(t, string(log), "pgtick.claim", "the log has the statements")
	return string(log)
}

// jobs makes calls that are answered with what they have sent, ones that go wrong before that, and a hand-over to a target that refuses it.
func (w *world) jobs(t *testing.T) {
	t.Helper()
	headers := `"headers": {"Authorization": "Bearer {{secret:API}}", "X-Vault": "{{secret:VAULTED}}"}, "response": {"headers": ["X-Authorization", "X-X-Vault", "X-Webhook-Signature"]}, "sign": {"secrets": ["HOOK"]}`
	for _, args := range []string{
		`{"url": "` + w.site.URL + `/ok", "body": {"a": 1}, ` + headers + `}`,
		`{"url": "` + w.site.URL + `/later", "body": {"a": 1}, ` + headers + `}`,
		`{"url": "` + w.site.URL + `/refused", ` + headers + `}`,
		`{"url": "http://127.0.0.1:1/", ` + headers + `}`,
		`{"url": "http://10.255.255.1/", ` + headers + `}`,
		`{"url": "` + w.site.URL + `/ok", "headers": {"X": "{{secret:MISSING}}"}}`,
		`{"url": "` + w.site.URL + `/ok", "sign": {"secrets": ["API"]}}`,
	} {
		do(t, w.db, "select pgtick.enqueue('http', $1::jsonb, p_max_attempts => 1)", args)
	}
	do(t, w.db, "select credits.open_account('00000000-0000-4000-8000-00000000000a'), credits.grant('00000000-0000-4000-8000-00000000000a', 5, 'g')")
	do(t, w.db, "select pgtick.enqueue('credits.sync_credit_usage_with_supabase', p_max_attempts => 1), pgtick.set_limit('http', 1000, '1 second')")
}

// runner is a program that goes on.
type runner struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	talk strings.Builder
}

func (w *world) work(t *testing.T, env []string) *runner {
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	r := &runner{cmd: exec.Command(path, "work"), done: make(chan struct{})}
	r.cmd.Env = env
	pipe, err := r.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, r.cmd.Start())
	go func() {
		lines := bufio.NewReader(pipe)
		for {
			line, err := lines.ReadString('\n')
			r.mu.Lock()
			r.talk.WriteString(line)
			r.mu.Unlock()
			if err != nil {
				break
			}
		}
		_ = r.cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() { _ = r.cmd.Process.Kill(); <-r.done })
	require.Eventually(t, func() bool { return strings.Contains(r.said(), "notifications arrive") }, within, every)
	return r
}

func (r *runner) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.talk.String()
}

func (r *runner) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.done:
	case <-time.After(within):
		require.Fail(t, "the runner does not end", r.said())
	}
}

var served = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// get is an answer with its headers.
func (r *runner) get(t *testing.T, page, token string) string {
	t.Helper()
	var at string
	for line := range strings.Lines(r.said()) {
		if strings.Contains(line, "health and metrics") {
			at = served.FindString(line)
		}
	}
	require.NotEmpty(t, at, r.said())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+page, nil)
	require.NoError(t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return fmt.Sprint(response.Header) + string(body)
}

// pasted are passwords put into URLs as they are, or at the wrong place.
func pasted(address, password string) []string {
	u, _ := url.Parse(address)
	raw := u.Scheme + "://someone:" + password + "@" + u.Host + u.Path
	return []string{raw, strings.Replace(raw, "://", ":", 1), strings.TrimPrefix(raw, u.Scheme+"://"), raw + "?sslmode=nonsense", raw + "?" + password, u.Scheme + "://" + u.Host + "/" + password + "?x", password, "mysql" + raw[len(u.Scheme):],
		u.Scheme + "://someone:4711/" + password + "@" + u.Host + u.Path, u.Scheme + "://someone:4711?" + password + "@" + u.Host + u.Path}
}

// failing: every command that takes a secret, given one that is wrong, misplaced or of no use.
func (w *world) failing(t *testing.T) {
	wrong := planted["a wrong password"]
	refused := pgtest.URLAs(w.db, "planted", wrong)
	nobody := (&url.URL{Scheme: "postgres", User: url.UserPassword("planted", wrong), Host: "127.0.0.1:1", Path: "/app"}).String()
	commands := [][]string{{"work"}, {"doctor"}, {"migrate", "status"}, {"jobs", "list"}, {"queues", "list"}, {"schedules", "list"}, {"credits", "balance", "00000000-0000-4000-8000-00000000000a"}, {"bench"}, {"adopt"}}
	for _, address := range []string{refused, nobody} {
		for _, command := range commands {
			w.fails(t, with(w.env, "DATABASE_URL="+address), command...)
		}
	}
	for _, address := range pasted(w.db.URL, wrong) {
		w.fails(t, with(w.env, "DATABASE_URL="+address, "PGCONNECT_TIMEOUT=1"), "work")
		w.fails(t, with(w.env, "PGTICK_DATABASES="+address), "work")
		w.fails(t, with(w.env, "PGTICK_SYNC_TARGET="+address), "work")
		w.fails(t, with(w.env, "LISTEN_DATABASE_URL="+address, "DATABASE_URL="+nobody), "doctor")
	}
	for _, address := range pasted(w.redis.URL, wrong) {
		w.fails(t, with(w.env, "REDIS_URL="+address, "DATABASE_URL="+nobody), "work")
	}
	for _, settings := range [][]string{{"PGTICK_SYNC_TARGET=local"}, {"PGTICK_SYNC_KEY=" + planted["the sync key"] + "\nx"}, {"PGTICK_SYNC_TARGET=https://u:" + wrong + "@x.example"}, {"PGTICK_SYNC_TARGET=https://x.example?apikey=" + wrong}, {"PGTICK_SYNC_TARGET=" + wrong},
		{"PGTICK_SYNC_TARGET=" + nobody, "PGTICK_SYNC_KEY=", "DATABASE_URL=" + nobody}} {
		w.fails(t, with(w.env, settings...), "work")
	}
	w.fails(t, with(w.env, "PGTICK_ROLE_PASSWORD=pl4nted-9"), "roles", "runner")
	w.fails(t, with(w.env, "PGTICK_ROLE_PASSWORD=pl4nted-\x01-and-more"), "roles", "reader")
	w.fails(t, with(w.env, "PGTICK_HTTP=127.0.0.1:1"), "health")
	for _, settings := range [][]string{{"PGTICK_WEB_TOKEN=pl4nted-short"}, {"PGTICK_WEB_KEY=" + planted["the sessions' key"] + "\nx"}, {"PGTICK_WEB_READ_TOKEN=" + planted["the operators' token"]}, {"PGTICK_WEB_DATABASE_URL=postgres://u:47/" + wrong + "@h/app"}} {
		w.fails(t, with(w.env, settings...), "work")
	}
}

// fails runs a command that shall fail, and looks at all that it says.
func (w *world) fails(t *testing.T, env []string, command ...string) {
	t.Helper()
	out, talk, err := call(t, env, command...)
	exit := new(exec.ExitError)
	require.True(t, errors.As(err, &exit), "pgtick %v was to fail: %s%s", command, out, talk)
	requireNone(t, "what pgtick "+strings.Join(command, " ")+" says", out+talk)
	require.NotEmpty(t, strings.TrimSpace(out+talk), "pgtick %v fails without a word", command)
	require.NotContains(t, out+talk, "goroutine ", strconv.Itoa(exit.ExitCode()))
}

// refusedByRedis: a Redis that does not let the runner in is in the log with what it says, and without what it was told.
func (w *world) refusedByRedis(t *testing.T) {
	u, err := url.Parse(w.redis.URL)
	require.NoError(t, err)
	u.User = url.UserPassword("default", planted["a wrong password"])
	env := with(w.env, "REDIS_URL="+u.String())
	r := w.work(t, env)
	require.Eventually(t, func() bool { return strings.Contains(r.said(), "Redis does not answer") }, within, every)
	requireNone(t, "the metrics", r.get(t, "/metrics", ""))
	out, talk, _ := call(t, env, "doctor")
	requireNone(t, "what doctor says", out+talk)
	r.stop(t)
	requireNone(t, "the runner's log", r.said())
}
