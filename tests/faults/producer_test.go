package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// asked is what the producer knows of a job: what it asked for, and the answer.
type asked struct {
	kind    string
	ordered bool  // together with a row of faults.orders
	id      int64 // 0: no answer came, so there may be a job or not
}

// producer asks for jobs one after the other, and keeps its record in its own memory, which no fault touches.
type producer struct {
	w      *world
	url    string
	pace   time.Duration
	most   int // jobs that may wait before it asks for more
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	record []asked // by token - 1
}

// kinds come in this order.
var kinds = []string{"fault.effect", "fault.plain", "fault.limited", "fault.ledger", "fault.effect", "fault.long", "fault.ledger_plain", "fault.limited", "fault.effect",
	"fault.failing", "fault.plain"}

// produce begins to ask for jobs, so many a second, over a URL that may lead through a proxy.
func (w *world) produce(url string, each time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	w.producer = &producer{w: w, url: url, pace: each, most: 150, cancel: cancel, ended: make(chan struct{})}
	go w.producer.run(ctx)
	w.t.Cleanup(w.producer.stop)
}

func (p *producer) stop() {
	p.cancel()
	<-p.ended
}

func (p *producer) run(ctx context.Context) {
	defer close(p.ended)
	again := time.NewTicker(p.pace)
	defer again.Stop()
	for ctx.Err() == nil {
		if conn, err := p.connect(ctx); err == nil {
			for err == nil && ctx.Err() == nil {
				<-again.C
				err = p.once(ctx, conn)
			}
			_ = conn.PgConn().Conn().Close()
		}
		<-again.C
	}
}

func (p *producer) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, end := context.WithTimeout(ctx, 5*time.Second)
	defer end()
	cfg, err := pgx.ParseConfig(p.url)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = producerName
	return pgx.ConnectConfig(ctx, cfg)
}

const producerName = "producer"

// once asks for a job, unless enough wait.
func (p *producer) once(ctx context.Context, conn *pgx.Conn) error {
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // what is begun is brought to its end
	defer end()
	var waiting int
	if err := conn.QueryRow(ctx, "select count(*) from (select from pgtick.live_jobs limit $1) as j", p.most).Scan(&waiting); err != nil || waiting >= p.most {
		return err
	}
	token := p.next()
	id, err := p.enqueue(ctx, conn, token)
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.record[token-1].id = id
	}
	return err
}

// next writes down what will be asked for before it is.
func (p *producer) next() (token int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.record)
	p.record = append(p.record, asked{kind: kinds[n%len(kinds)], ordered: n%4 == 3})
	return n + 1
}

func (p *producer) enqueue(ctx context.Context, conn *pgx.Conn, token int) (id int64, err error) {
	one := p.of(token)
	const sql = `select pgtick.enqueue($1, jsonb_build_object('token', $2::bigint, 'ms', $3::int, 'steps', 3, 'fails', 2,
		'user_id', '00000000-0000-4000-8000-' || lpad($4::text, 12, '0')), p_max_attempts => 500, p_timeout => '20 seconds')`
	args := []any{one.kind, int64(token), 5 + token%4*15, fmt.Sprint(1 + token%users)}
	if !one.ordered {
		return id, conn.QueryRow(ctx, sql, args...).Scan(&id)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into faults.orders (token) values ($1)", token); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, args...).Scan(&id)
	})
	return id, err
}

// goOn returns when the producer has asked for so many more jobs. It asks for none while many wait, so that the others have been worked off.
func (w *world) goOn(jobs int) {
	w.t.Helper()
	first := w.producer.asked()
	w.until("work goes on", func(context.Context) bool { return w.producer.asked() >= first+jobs })
}

func (p *producer) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.record)
}

func (p *producer) of(token int) asked {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record[token-1]
}

// store puts the record into the database that is to be checked.
func (p *producer) store() {
	w := p.w
	w.t.Helper()
	w.do("create table faults.record (token bigint primary key, kind text not null, ordered boolean not null, job_id bigint)")
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := w.db.Pool.CopyFrom(w.t.Context(), pgx.Identifier{"faults", "record"}, []string{"token", "kind", "ordered", "job_id"},
		pgx.CopyFromSlice(len(p.record), func(i int) ([]any, error) {
			one := p.record[i]
			var id *int64
			if one.id != 0 {
				id = &one.id
			}
			return []any{int64(i + 1), one.kind, one.ordered, id}, nil
		}))
	require.NoError(w.t, err)
}

func codeOf(err error) string {
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// passes: the server is away, full (of notifications, too), locked or read-only just now.
func passes(code string) bool {
	for _, class := range []string{"08", "25006", "40", "53", "54000", "55P03", "57", "58"} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}
