package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// nodePeer is a side that runs in Node: one process enqueues, another works. Its settings are in node/peers.mjs; they are those at which
// it was found fastest on two cores.
type nodePeer struct {
	side     string
	table    string
	waiting  string // the condition of a job that is not completed
	pool     *pgxpool.Pool
	start    func() (*nodeProcess, error)
	producer *nodeProcess
	spare    *nodeProcess // up, and with nothing to do yet: Node's own start is not what is measured
}

// nodePeers are graphile-worker and pg-boss, or none, with a word of why, where there is no Node to run them.
func nodePeers(ctx context.Context, pool *pgxpool.Pool) ([]*nodePeer, error) {
	node, err := findNode(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "graphile-worker and pg-boss are left out:", err)
		return nil, nil
	}
	peers := []*nodePeer{
		{side: "graphile", table: "graphile_worker._private_jobs", waiting: "true"},
		{side: "pgboss", table: "pgboss.job", waiting: "state < 'completed'"},
	}
	for _, p := range peers {
		p.pool = pool
		p.start = func() (*nodeProcess, error) { return startNode(node, p.side, pool.Config().ConnString()) }
		if err := p.open(); err != nil {
			return nil, fmt.Errorf("%s: %w", p.side, err)
		}
	}
	return peers, nil
}

func (n *nodePeer) open() (err error) {
	if n.producer, err = n.start(); err != nil {
		return err
	}
	if _, err = n.producer.ask(order{Do: "setup"}); err != nil {
		return err
	}
	n.spare, err = n.start()
	return err
}

func (n *nodePeer) close() {
	for _, p := range []*nodeProcess{n.producer, n.spare} {
		p.end()
		p.gone()
	}
}

func (n *nodePeer) name() string { return n.side }

func (n *nodePeer) clear(ctx context.Context) error {
	return exec(ctx, n.pool, `truncate `+n.table+` cascade`)
}

func (n *nodePeer) settle(ctx context.Context) error {
	return exec(ctx, n.pool, `analyze `+n.table, `checkpoint`)
}

func (n *nodePeer) bulk(_ context.Context, jobs int) error {
	_, err := n.producer.ask(order{Do: "bulk", Jobs: jobs})
	return err
}

func (n *nodePeer) produce(_ context.Context, l load) (produced, error) {
	a, err := n.producer.ask(order{Do: "produce", Clients: l.clients, Milliseconds: milliseconds(l.lasts), Every: milliseconds(l.every), Stamped: l.stamped})
	return produced{a.Jobs, time.Duration(a.Milliseconds * float64(time.Millisecond))}, err
}

func (n *nodePeer) work(_ context.Context, c *counter) (stop func(), err error) {
	worker := n.spare
	if _, err := worker.ask(order{Do: "work"}); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() { worker.follow(c); close(done) }()
	return func() {
		worker.end()
		<-done
		worker.gone()
		if n.spare, err = n.start(); err != nil {
			fmt.Fprintln(os.Stderr, n.side, "does not start again:", err)
		}
	}, nil
}

func (n *nodePeer) left(ctx context.Context) (jobs int, err error) {
	err = n.pool.QueryRow(ctx, `select count(*) from `+n.table+` where `+n.waiting).Scan(&jobs)
	return jobs, err
}
