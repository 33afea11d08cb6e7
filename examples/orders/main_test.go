package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestReceipt_NamesItsOrder(t *testing.T) {
	t.Parallel()
	ran := pgtest.RunFunc(t, receipt, Order{ID: 7})
	require.NoError(t, ran.Err)
	require.JSONEq(t, `{"order": 7}`, string(ran.Result))
}

func TestPay_MarksTheOrder_AndSendsOneReceipt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool.Exec(t.Context(), `create table public.orders (id bigint primary key, paid_at timestamptz)`)
	require.NoError(t, err)
	_, err = db.Pool.Exec(t.Context(), `insert into public.orders values (7)`)
	require.NoError(t, err)
	for range 2 { // the second call finds the first one's job
		_, err := Pay.Enqueue(t.Context(), db.Pool, Order{ID: 7})
		require.NoError(t, err)
	}

	require.Equal(t, 2, db.Work(t, registry()))

	var paid bool
	require.NoError(t, db.Pool.QueryRow(t.Context(), `select paid_at is not null from public.orders`).Scan(&paid))
	require.True(t, paid)
	require.Len(t, db.Jobs(t, "order.receipt"), 1)
}
