package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func restartServer(t *testing.T, n int) *world {
	server := pgtest.Server(t)
	w := busy(t, pgtest.NewOn(t, server))
	w.fleet(2)
	w.ready()
	for range n {
		port := server.Port()
		require.NoError(t, server.Crash())
		require.NoError(t, server.Restart(t.Context()))
		require.Equal(t, port, server.Port(), "somebody took its port meanwhile")
		w.probe()
	}
	return w
}

// killBackends ends one process of the server without a chance to tidy up: the postmaster then ends all the others, and recovers.
func killBackends(t *testing.T, n int) *world {
	server := pgtest.Server(t)
	w := busy(t, pgtest.NewOn(t, server))
	w.fleet(2)
	w.ready()
	for range n {
		began := ask[time.Time](w, "select min(a.backend_start) from pg_stat_activity as a where a.backend_type = 'checkpointer'")
		pid := ask[int](w, `select a.pid from pg_stat_activity as a where a.pid <> pg_backend_pid()
			and (a.datname = $1 or a.backend_type in ('checkpointer', 'background writer', 'walwriter')) order by random() limit 1`, w.db.Name)
		if err := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) { // it may have ended just now
			require.NoError(t, err)
			w.becomes(`select coalesce(min(a.backend_start) > $1, false) from pg_stat_activity as a where a.backend_type = 'checkpointer'`, began)
		}
		w.probe()
	}
	return w
}

// fillDisk runs the server on a small file system, and takes all that is free there. Where even the log of what is to be written finds no
// room, the server ends itself; with room again it is started, as an operator would.
func fillDisk(t *testing.T, n int) *world {
	at, err := os.MkdirTemp("", "pgtick-small-disk-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(at, 0o755))
	if err := mountSmall(at, "400m"); err != nil {
		_ = os.Remove(at)
		t.Skip("a small file system can't be mounted here: ", err)
	}
	t.Cleanup(func() { require.NoError(t, errors.Join(unmount(at), os.Remove(at))) })
	server := pgtest.ServerWith(t, localpg.Options{Temp: at, Settings: map[string]string{"max_wal_size": "64MB", "min_wal_size": "32MB"}})
	w := busy(t, pgtest.NewOn(t, server))
	w.fleet(2)
	w.ready()
	for i := range n {
		ballast := filepath.Join(at, "ballast")
		require.ErrorIs(t, fill(ballast), syscall.ENOSPC)
		// Again and again something finds no place, in turn for tables and for the log: the server says so, or is gone.
		more := []string{"create table if not exists public.more (n bigint); insert into public.more select i from generate_series(1, 50000) as i",
			"select pg_logical_emit_message(false, 'more', repeat('x', 8000000))"}[i%2]
		refused := 0
		w.until("the disk is full", func(ctx context.Context) bool {
			if _, err := w.db.Pool.Exec(ctx, more); err != nil {
				refused++
			}
			return refused == 30
		})
		require.NoError(t, os.Remove(ballast))
		w.until("there is room again", func(ctx context.Context) bool {
			if server.Pid() == 0 {
				w.note("the server had ended itself")
				require.NoError(t, server.Restart(t.Context()))
			}
			_, err := w.db.Pool.Exec(ctx, "drop table if exists public.more")
			return w.fine(err)
		})
		w.probe()
	}
	return w
}

func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(file, zeros{})
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// takeConnections lets strangers have every connection, and ends a session of a runner, which finds no other.
func takeConnections(t *testing.T, n int) *world {
	server := pgtest.ServerWith(t, localpg.Options{Settings: map[string]string{"max_connections": "30", "superuser_reserved_connections": "8"}})
	db := pgtest.NewOn(t, server)
	w := busy(t, db)
	w.do("create role crowd login password 'crowd'")
	w.fleet(2)
	w.ready()
	for range n {
		var crowd []*pgx.Conn
		take := func() {
			for {
				conn, err := pgx.Connect(t.Context(), pgtest.URLAs(db, "crowd", "crowd"))
				if err != nil {
					require.Equal(t, "53300", codeOf(err))
					return
				}
				crowd = append(crowd, conn)
			}
		}
		take()
		for range 3 {
			w.do(`select pg_terminate_backend(x.pid) from (select a.pid from pg_stat_activity as a where a.usename = 'pgtick_runner' order by random() limit 1) as x`)
			take()
		}
		for _, conn := range crowd {
			require.NoError(t, conn.Close(t.Context()))
		}
		w.probe()
	}
	return w
}

// lockRows keeps rows locked for longer than the runners' statements may wait or take.
func lockRows(t *testing.T, n int) *world {
	db := pgtest.New(t)
	w := busy(t, db)
	w.do("alter role pgtick_runner in database " + db.Name + " set statement_timeout = '100ms'")
	w.do("alter role pgtick_runner in database " + db.Name + " set lock_timeout = '100ms'")
	w.fleet(2)
	w.ready()
	for range n {
		tables := []string{"pgtick.live_jobs", "pgtick.runner_leases", "pgtick.limit_places", "pgtick.sleepers", "pgtick.schedule_defs", "credits.accounts"}
		sql := fmt.Sprintf("select from %s as x where random() < 0.5 for update skip locked", tables[rand.IntN(len(tables))])
		require.NoError(t, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), "select pg_sleep(0.25)")
			return err
		}))
		w.probe()
	}
	return w
}

// promoteStandby loses the primary's machine, n times, and goes on with the standby, which then gets one of its own.
func promoteStandby(t *testing.T, n int) *world {
	primary := pgtest.Server(t)
	db := pgtest.NewOn(t, primary)
	way := proxy.Start(t, primary.URL(db.Name))
	w := newWorld(t, db)
	w.args, w.runners = usual, way.URL(w.runners)
	w.produce(way.URL(db.URL), pace())
	w.fleet(2)
	w.ready()
	for range n {
		standby := pgtest.StandbyOf(t, primary, localpg.Options{})
		w.do("alter system set synchronous_standby_names = '*'")
		w.do("select pg_reload_conf()")
		w.becomes("select exists (select from pg_stat_replication as r where r.sync_state = 'sync')")
		w.becomes("select current_setting('synchronous_standby_names') = '*'")
		w.probe()
		lost := primary
		require.NoError(t, lost.Kill())
		way.Cut()
		t.Cleanup(func() {
			require.NoError(t, lost.Restart(context.Background()), "so that the shared memory it left goes as well")
		})
		way.SwitchTo(standby.URL(db.Name))
		require.NoError(t, standby.Promote(t.Context()))
		primary = standby
		w.db = db.At(t, standby)
		// Nobody follows it yet, and its own commits must not wait for anybody.
		w.do("alter system reset synchronous_standby_names")
		w.do("select pg_reload_conf()")
		w.probe()
	}
	return w
}
