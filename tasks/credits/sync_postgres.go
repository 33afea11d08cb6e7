package credits

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sendWithin is how long a target may take for one answer.
const sendWithin = 30 * time.Second

// Postgres is analytics.credit_usage in another database.
func Postgres(cfg *pgx.ConnConfig) Target {
	cfg = cfg.Copy()
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // any pooler will do
	cfg.RuntimeParams["application_name"] = "sync of pgtick"
	return postgres{cfg}
}

type postgres struct{ cfg *pgx.ConnConfig }

func (p postgres) String() string {
	return fmt.Sprintf("postgres://%s:%d/%s", p.cfg.Host, p.cfg.Port, p.cfg.Database)
}

func (p postgres) connect(ctx context.Context) (table, error) {
	conn, err := pgx.ConnectConfig(ctx, p.cfg)
	if err != nil { // its text may name host and user, never the password
		return table{}, fmt.Errorf("sync target %s can't be reached: %w", p, err)
	}
	return table{name: p.String(), conn: conn, own: true}, nil
}

func (p postgres) open(ctx context.Context) (session, error) {
	t, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	return remote{name: t.name, sink: t}, nil
}

func (p postgres) read(ctx context.Context, _ *pgx.Conn) (reader, error) { return p.connect(ctx) }

// table is analytics.credit_usage behind a session.
type table struct {
	name string
	conn *pgx.Conn
	own  bool // the session is the table's alone
}

func (t table) close() {
	if t.own {
		ctx, end := context.WithTimeout(context.Background(), 5*time.Second)
		defer end()
		_ = t.conn.Close(ctx)
	}
}

func (t table) send(ctx context.Context, entries []entry) ([]int64, error) {
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithTimeout(ctx, sendWithin)
	defer end()
	inserted, err := insertUsage(ctx, t.conn, string(text))
	return inserted, t.judge(err)
}

// judge tells what is wrong with an entry from what is wrong with the target, and that from what may be well another time.
func (t table) judge(err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil || t.name == "": // or of the ledger's own database
		return err
	case !errors.As(err, &pg):
		return fmt.Errorf("sync target %s: %w", t.name, err)
	case pg.Code == "42P01" || pg.Code == "3F000":
		return targetFault(t.name, "has no table analytics.credit_usage: create it there, as docs/credits-sync.md shows (%w)", err)
	case pg.Code == "42501":
		return targetFault(t.name, "gives this login no right to analytics.credit_usage: grant select, insert and update, as docs/credits-sync.md shows (%w)", err)
	case pg.Code[:2] == "42":
		return targetFault(t.name, "has another table analytics.credit_usage than the one that docs/credits-sync.md shows: %w", err)
	case isAboutRows(pg.Code):
		return refuse(fmt.Sprintf("%s (%s)", pg.Message, pg.Code))
	}
	return fmt.Errorf("sync target %s: %w", t.name, err)
}

// isAboutRows: bad data, a constraint, a check option, or what a trigger raised.
func isAboutRows(code string) bool {
	switch code[:2] {
	case "22", "23", "44", "P0":
		return true
	}
	return false
}

func (t table) total(ctx context.Context, after int64, upto *int64) (total, bool, error) {
	sum, err := usageTotal(ctx, t.conn, after, upto)
	return sum, true, t.judge(err)
}

// pageRows is how many entries are read from a table at a time.
const pageRows = 5000

func (t table) page(ctx context.Context, after int64, upto *int64) ([]entry, error) {
	entries, err := usageRange(ctx, t.conn, after, upto, pageRows)
	return entries, t.judge(err)
}
