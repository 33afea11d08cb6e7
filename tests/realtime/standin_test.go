package realtime

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// standIn answers supabase-js as a project's gateway does, as far as it is asked here, out of the real database: PostgREST (reads, inserts,
// function calls, under the role and claims of the token), Auth (who a token is), and Realtime (a private topic joined as its policies say,
// then the messages of the table).
type standIn struct {
	db     *pgtest.DB
	server *httptest.Server
	deaf   atomic.Bool  // answers no reads
	lost   atomic.Int32 // so many inserts are done, and not answered
}

func newStandIn(t *testing.T, db *pgtest.DB) *standIn {
	t.Helper()
	s := &standIn{db: db}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /auth/v1/user", s.user)
	mux.HandleFunc("GET /rest/v1/{relation}", s.read)
	mux.HandleFunc("POST /rest/v1/{relation}", s.insert)
	mux.HandleFunc("POST /rest/v1/rpc/{function}", s.call)
	mux.HandleFunc("GET /realtime/v1/websocket", s.listen)
	s.server = httptest.NewServer(mux)
	t.Cleanup(func() { s.server.CloseClientConnections(); s.server.Close() })
	return s
}

type claims struct {
	Role string `json:"role"`
	Sub  string `json:"sub,omitempty"`
	Exp  int64  `json:"exp"`
}

// token is a JWT that nobody has signed.
func token(role, user string) string {
	text, _ := json.Marshal(claims{role, user, 4102444800})
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(text) + ".c2lnbmF0dXJl"
}

func claimsOf(token string) (c claims, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	return c, err == nil && json.Unmarshal(text, &c) == nil
}

func bearer(r *http.Request) (claims, bool) {
	return claimsOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func complain(w http.ResponseWriter, status int, code, message, hint string) {
	answer(w, status, map[string]any{"code": code, "message": message, "details": nil, "hint": hint})
}

func (s *standIn) user(w http.ResponseWriter, r *http.Request) {
	if c, ok := bearer(r); ok && c.Sub != "" {
		answer(w, 200, map[string]any{"id": c.Sub, "aud": "authenticated", "role": c.Role})
		return
	}
	answer(w, 401, map[string]any{"code": 401, "error_code": "bad_jwt", "msg": "invalid JWT"})
}

// inSchema runs a statement that returns JSON as PostgREST does: as the token's role, with its claims, in an exposed schema.
func (s *standIn) inSchema(w http.ResponseWriter, r *http.Request, status int, sql func(schema string) (string, []any)) {
	schema := r.Header.Get(map[string]string{"GET": "Accept-Profile"}[r.Method])
	if r.Method == http.MethodPost {
		schema = r.Header.Get("Content-Profile")
	}
	if schema == "" {
		schema = "public"
	}
	c, ok := bearer(r)
	switch {
	case !ok:
		complain(w, 401, "PGRST301", "no JWT", "")
		return
	case schema != "public" && schema != "pgtick":
		complain(w, 406, "PGRST106", "Invalid schema: "+schema, "Only the following schemas are exposed: public, pgtick")
		return
	}
	query, args := sql(schema)
	var body *string
	err := pgx.BeginFunc(r.Context(), s.db.Pool, func(tx pgx.Tx) error {
		if err := become(r.Context(), tx, c); err != nil {
			return err
		}
		return tx.QueryRow(r.Context(), query, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...).Scan(&body)
	})
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && refused.Code == "42501":
		complain(w, 403, refused.Code, refused.Message, refused.Hint)
	case errors.As(err, &refused):
		complain(w, 400, refused.Code, refused.Message, refused.Hint)
	case err != nil:
		complain(w, 503, "PGRST001", err.Error(), "")
	case body == nil:
		w.WriteHeader(status)
	default:
		answer(w, status, json.RawMessage(*body))
	}
}

func become(ctx context.Context, tx pgx.Tx, c claims) error {
	text, _ := json.Marshal(c)
	_, err := tx.Exec(ctx, `select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)`, c.Role, string(text))
	return err
}

func (s *standIn) read(w http.ResponseWriter, r *http.Request) {
	if s.deaf.Load() {
		complain(w, 503, "PGRST001", "no answer", "")
		return
	}
	column, descending := strings.CutSuffix(r.FormValue("order"), ".desc")
	limit, err := strconv.Atoi(r.FormValue("limit"))
	if r.FormValue("select") != "*" || !descending || err != nil {
		complain(w, 400, "PGRST100", "not a question for this stand-in: "+r.URL.RawQuery, "")
		return
	}
	s.inSchema(w, r, 200, func(schema string) (string, []any) {
		return fmt.Sprintf(`select coalesce(json_agg(x), '[]')::text from (select * from %s order by %s desc limit %d) as x`,
			pgx.Identifier{schema, r.PathValue("relation")}.Sanitize(), pgx.Identifier{column}.Sanitize(), limit), nil
	})
}

func (s *standIn) insert(w http.ResponseWriter, r *http.Request) {
	var row map[string]json.RawMessage
	text, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(text, &row) != nil {
		complain(w, 400, "PGRST102", "Empty or invalid json", "")
		return
	}
	var columns []string
	for name := range row {
		columns = append(columns, pgx.Identifier{name}.Sanitize())
	}
	conflict := ""
	if target := r.FormValue("on_conflict"); target != "" && strings.Contains(strings.Join(r.Header.Values("Prefer"), ","), "resolution=ignore-duplicates") {
		conflict = "on conflict (" + pgx.Identifier{target}.Sanitize() + ") do nothing"
	}
	if s.lost.Add(-1) >= 0 {
		defer complain(w, 503, "PGRST001", "the answer was lost", "")
		w = httptest.NewRecorder()
	}
	s.inSchema(w, r, 201, func(schema string) (string, []any) {
		relation, list := pgx.Identifier{schema, r.PathValue("relation")}.Sanitize(), strings.Join(columns, ", ")
		return fmt.Sprintf(`with new as (insert into %s (%s) select %s from json_populate_record(null::%s, $1) %s returning 1) select null::text from (select count(*) from new) as n`,
			relation, list, list, relation, conflict), []any{string(text)}
	})
}

func (s *standIn) call(w http.ResponseWriter, r *http.Request) {
	var named map[string]any
	if json.NewDecoder(r.Body).Decode(&named) != nil {
		complain(w, 400, "PGRST102", "Empty or invalid json", "")
		return
	}
	s.inSchema(w, r, 200, func(schema string) (string, []any) {
		var list []string
		var args []any
		for name, value := range named {
			switch v := value.(type) {
			case string:
				args = append(args, v)
			default:
				text, _ := json.Marshal(v)
				args = append(args, string(text))
			}
			list = append(list, fmt.Sprintf("%s => $%d", pgx.Identifier{name}.Sanitize(), len(args)))
		}
		return fmt.Sprintf(`select to_json(%s(%s))::text`, pgx.Identifier{schema, r.PathValue("function")}.Sanitize(), strings.Join(list, ", ")), args
	})
}

// mayRead is Realtime's question at a join: it writes a message to the topic itself, becomes the user, and looks whether that is to be seen.
func mayRead(ctx context.Context, db *pgtest.DB, c claims, topic string) (reads bool, err error) {
	tx, err := db.Pool.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	var id string
	if err := tx.QueryRow(ctx, `insert into realtime.messages (topic, extension) values ($1, 'broadcast') returning id::text`, topic).Scan(&id); err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, `select set_config('realtime.topic', $1, true)`, topic); err != nil {
		return false, err
	}
	if err := become(ctx, tx, c); err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, `select exists (select from realtime.messages as m where m.id = $1::uuid)`, id).Scan(&reads)
	return reads, err
}

// frame is a message of Phoenix's protocol; version 2 writes it as an array.
type frame struct {
	JoinRef *string         `json:"join_ref,omitempty"`
	Ref     *string         `json:"ref"`
	Topic   string          `json:"topic"`
	Event   string          `json:"event"`
	Payload json.RawMessage `json:"payload"`
}

// socket is a browser's connection.
type socket struct {
	s      *standIn
	conn   net.Conn
	in     *bufio.Reader
	mu     sync.Mutex // of writing
	arrays bool
}

func (s *standIn) listen(w http.ResponseWriter, r *http.Request) {
	conn, in, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &socket{s: s, conn: conn, in: in.Reader, arrays: strings.HasPrefix(r.FormValue("vsn"), "2")}
	for {
		text, err := c.receive()
		if err != nil {
			return
		}
		if f, ok := c.parse(text); ok {
			c.handle(ctx, f)
		}
	}
}

func (c *socket) parse(text []byte) (f frame, ok bool) {
	if !c.arrays {
		return f, json.Unmarshal(text, &f) == nil
	}
	return f, json.Unmarshal(text, &[]any{&f.JoinRef, &f.Ref, &f.Topic, &f.Event, &f.Payload}) == nil
}

func (c *socket) handle(ctx context.Context, f frame) {
	reply := func(status string, response any) {
		payload, _ := json.Marshal(map[string]any{"status": status, "response": response})
		c.send(frame{f.JoinRef, f.Ref, f.Topic, "phx_reply", payload})
	}
	if f.Event != "phx_join" {
		if f.Event != "access_token" {
			reply("ok", struct{}{})
		}
		return
	}
	var join struct {
		Config      struct{ Private bool }
		AccessToken string `json:"access_token"`
	}
	_ = json.Unmarshal(f.Payload, &join)
	topic := strings.TrimPrefix(f.Topic, "realtime:")
	who, _ := claimsOf(join.AccessToken)
	reads, err := mayRead(ctx, c.s.db, who, topic)
	if err != nil || !reads || !join.Config.Private {
		reply("error", map[string]any{"reason": fmt.Sprintf("Unauthorized: You do not have permissions to read from this Channel topic: %s", topic)})
		return
	}
	from, err := c.s.after(ctx, topic, nil)
	if err != nil {
		return
	}
	reply("ok", map[string]any{"postgres_changes": []any{}})
	go c.tell(ctx, f, topic, len(from))
}

// after are the messages of a topic but for those that were told.
func (s *standIn) after(ctx context.Context, topic string, told []message) ([]message, error) {
	rows, err := s.db.Pool.Query(ctx, `select m.topic, m.event, m.extension, m.private, m.payload::text from realtime.messages as m
		where m.topic = $1 and m.private and m.extension = 'broadcast' order by m.inserted_at, m.ctid offset $2`, topic, len(told))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[message])
}

// tell goes on telling what is sent to a topic, from the joining on. (Realtime reads it from a replication slot.)
func (c *socket) tell(ctx context.Context, join frame, topic string, before int) {
	told := make([]message, before)
	looks := time.NewTicker(20 * time.Millisecond)
	defer looks.Stop()
	for ctx.Err() == nil {
		fresh, err := c.s.after(ctx, topic, told)
		if err != nil {
			return
		}
		for _, m := range fresh {
			payload, _ := json.Marshal(map[string]any{"type": "broadcast", "event": m.Event, "payload": m.Payload})
			c.send(frame{nil, nil, join.Topic, "broadcast", payload})
		}
		told = slices.Concat(told, fresh)
		<-looks.C
	}
}

// receive returns the next text; frames of a browser are masked.
func (c *socket) receive() ([]byte, error) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return nil, err
		}
		size := uint64(head[1] & 127)
		if size >= 126 {
			long := make([]byte, map[uint64]int{126: 2, 127: 8}[size])
			if _, err := io.ReadFull(c.in, long); err != nil {
				return nil, err
			}
			size = binary.BigEndian.Uint64(append(make([]byte, 8-len(long)), long...))
		}
		body := make([]byte, 4+size)
		if _, err := io.ReadFull(c.in, body); err != nil {
			return nil, err
		}
		for i := range body[4:] {
			body[4+i] ^= body[i%4]
		}
		switch head[0] & 15 {
		case 1:
			return body[4:], nil
		case 8:
			return nil, io.EOF
		}
	}
}

func (c *socket) send(f frame) {
	text, _ := json.Marshal(f)
	if c.arrays {
		text, _ = json.Marshal([]any{f.JoinRef, f.Ref, f.Topic, f.Event, f.Payload})
	}
	head := []byte{0x81, byte(len(text))}
	if len(text) > 125 {
		head = binary.BigEndian.AppendUint16([]byte{0x81, 126}, uint16(len(text)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.conn.Write(append(head, text...))
}
