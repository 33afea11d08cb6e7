package cli

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"time"
)

//go:embed demo_seed.sql
var demoSeed string

// seed fills the credit ledger once for each private server, through the ledger's own functions.
func (d *dev) seed(ctx context.Context) error {
	mark := filepath.Join(d.dir, "seeded")
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	started := time.Now()
	filled := make(chan error, 1)
	go func() {
		_, err := d.pool.Exec(ctx, demoSeed)
		filled <- err
	}()
	err := d.await(ctx, "filling the credit ledger", func() (bool, error) {
		select {
		case err := <-filled:
			return true, err
		default:
			return false, nil
		}
	})
	if err != nil {
		return err
	}
	d.step(started, "10,000 accounts with some 100,000 transactions, expired holds and stale pending ones")
	return os.WriteFile(mark, nil, 0o600)
}
