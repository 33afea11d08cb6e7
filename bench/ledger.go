package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The bare side of the ledger: accounts and entries without a rule, a chain or an index but for their keys.
const bareLedger = `create schema bare;
	create table bare.accounts (user_id uuid primary key, balance bigint not null, held bigint not null default 0) with (fillfactor = 50);
	create table bare.transactions (id bigint generated always as identity primary key, user_id uuid not null, type text not null, amount bigint not null,
		balance_after bigint, period date, status text not null default 'COMPLETED', synced boolean not null default false, created_at timestamptz not null default now());
	create table bare.holds (id bigint primary key, user_id uuid not null, amount bigint not null, expires_at timestamptz not null, status text not null) with (fillfactor = 70);
	create table bare.credit_usage (transaction_id bigint primary key, user_id uuid not null, type text not null, amount bigint not null, balance_after bigint, created_at timestamptz not null)`

// account is the n-th user's id, on both sides.
const account = `('00000000-0000-4000-8000-' || lpad(to_hex(%s), 12, '0'))::uuid`

// ledger is a store with so many accounts, rich enough, on both sides.
func (b *bench) ledger(ctx context.Context, name string, accounts int) (*store, error) {
	s, err := b.store(ctx, name)
	if err != nil {
		return nil, err
	}
	return s, exec(ctx, s.pool, bareLedger,
		fmt.Sprintf(`insert into credits.accounts (user_id, tier, created_at) select `+account+`, 'standard', now() - interval '1 year' from generate_series(0, %d) as i`, "i", accounts-1),
		`insert into bare.accounts (user_id, balance) select a.user_id, 1000000000 from credits.accounts as a`, `vacuum (analyze) credits.accounts, bare.accounts`)
}

// rich gives every account more than a run can spend.
func (s *store) rich(ctx context.Context) error {
	return exec(ctx, s.pool, `select count(credits.grant(a.user_id, 1000000000, 'opening')) from credits.accounts as a`, `vacuum (analyze) credits.accounts, credits.transactions`, `checkpoint`)
}

// proven fails where the ledger breaks a rule.
func (s *store) proven(ctx context.Context) error {
	n, err := number[int](ctx, s, `select count(*) from credits.violations`)
	if err == nil && n > 0 {
		err = fmt.Errorf("credits.violations has %d rows", n)
	}
	return err
}

const (
	chargers    = 8
	chargeBatch = 5000
	ledgerUsers = 10000
	bareCharge  = `with moved as (update bare.accounts as a set balance = a.balance - 1 where a.user_id = ` + accountOfArg + ` returning a.user_id, a.balance)
		insert into bare.transactions (user_id, type, amount, balance_after) select m.user_id, 'deduction', -1, m.balance from moved as m`
	accountOfArg = `('00000000-0000-4000-8000-' || lpad(to_hex($1::integer), 12, '0'))::uuid`
)

// flatOut has so many connections do one thing after the other for some seconds, and says how many they did in one.
func flatOut(ctx context.Context, pool *pgxpool.Pool, connections, seconds int, one func(context.Context, *pgxpool.Conn, int) error) (rate float64, err error) {
	var done atomic.Int64
	problems := make([]error, connections)
	var group sync.WaitGroup
	started := time.Now()
	end := started.Add(time.Duration(seconds) * time.Second)
	for c := range connections {
		group.Go(func() {
			conn, err := pool.Acquire(ctx)
			if err != nil {
				problems[c] = err
				return
			}
			defer conn.Release()
			for time.Now().Before(end) && problems[c] == nil {
				if problems[c] = one(ctx, conn, c); problems[c] == nil {
					done.Add(1)
				}
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(started).Seconds(), errors.Join(problems...)
}

// charges are single charges by eight connections, over 10,000 accounts and over one.
func (b *bench) charges(ctx context.Context, taken samples) error {
	s, err := b.ledger(ctx, "charges", ledgerUsers)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	if err := s.rich(ctx); err != nil {
		return err
	}
	ours := func(users int) func(context.Context, *pgxpool.Conn, int) error {
		return func(ctx context.Context, conn *pgxpool.Conn, _ int) error {
			_, err := conn.Exec(ctx, `select credits.charge(`+accountOfArg+`, 1, $2)`, rand.IntN(users), key())
			return err
		}
	}
	bare := func(users int) func(context.Context, *pgxpool.Conn, int) error {
		return func(ctx context.Context, conn *pgxpool.Conn, _ int) error {
			_, err := conn.Exec(ctx, bareCharge, rand.IntN(users))
			return err
		}
	}
	pair := func(ctx context.Context, conn *pgxpool.Conn, _ int) error {
		_, err := conn.Exec(ctx, `select credits.capture(credits.hold(`+accountOfArg+`, 2, '1 hour', $2), 1)`, rand.IntN(ledgerUsers), key())
		return err
	}
	for range b.size.runs {
		for _, f := range []struct {
			figure, side string
			one          func(context.Context, *pgxpool.Conn, int) error
		}{
			{"charge", "pgtick", ours(ledgerUsers)}, {"charge", "bare", bare(ledgerUsers)},
			{"charge_hot", "pgtick", ours(1)}, {"charge_hot", "bare", bare(1)}, {"hold_capture", "pgtick", pair},
		} {
			rate, err := flatOut(ctx, s.pool, chargers, b.size.charges, f.one)
			if err != nil {
				return err
			}
			taken.add(f.figure, f.side, rate)
			fmt.Fprintf(os.Stderr, "%-8s %s %8.0f/s\n", f.side, f.figure, rate)
		}
	}
	return s.proven(ctx)
}

// key is one that was never used before.
func key() string { return fmt.Sprintf("%x", rand.Uint64()) }

// chargeMany is a usage feed of 5,000 rows a call, from one connection, and from two with accounts of their own.
func (b *bench) chargeMany(ctx context.Context, taken samples) error {
	s, err := b.ledger(ctx, "charge_many", ledgerUsers)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	if err := s.rich(ctx); err != nil {
		return err
	}
	feed := func(connections int) func(context.Context, *pgxpool.Conn, int) error {
		return func(ctx context.Context, conn *pgxpool.Conn, c int) error {
			users, keys := make([]int32, chargeBatch), make([]string, chargeBatch)
			for i := range users {
				users[i], keys[i] = int32(rand.IntN(ledgerUsers/connections)*connections+c), key()
			}
			var charged int
			err := conn.QueryRow(ctx, `select count(*) filter (where c.outcome = 'charged') from credits.charge_many(
				array(select ('00000000-0000-4000-8000-' || lpad(to_hex(u.n), 12, '0'))::uuid from unnest($1::integer[]) with ordinality as u(n, place) order by u.place),
				array_fill(1::bigint, array[cardinality($1)]), $2) as c`, users, keys).Scan(&charged)
			if err == nil && charged != chargeBatch {
				err = fmt.Errorf("%d of %d were charged", charged, chargeBatch)
			}
			return err
		}
	}
	for range b.size.runs {
		for figure, connections := range map[string]int{"charge_many": 1, "charge_many_two": 2} {
			rate, err := flatOut(ctx, s.pool, connections, b.size.charges, feed(connections))
			if err != nil {
				return err
			}
			taken.add(figure, "pgtick", rate*chargeBatch)
			fmt.Fprintf(os.Stderr, "pgtick   %s %8.0f charges/s\n", figure, rate*chargeBatch)
		}
		if err := exec(ctx, s.pool, `vacuum (analyze) credits.accounts, credits.transactions`, `checkpoint`); err != nil {
			return err
		}
	}
	return s.proven(ctx)
}
