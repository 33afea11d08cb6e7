package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tasks/credits"
)

// answerWithin is how long what is beside the database may take.
const answerWithin = 5 * time.Second

func redisAnswers(ctx context.Context, e *exam) error {
	var rates int
	err := e.reading(ctx, func(tx pgx.Tx) (err error) {
		if rates, err = countRates(ctx, tx); err != nil {
			return err
		}
		return e.ask(ctx, tx, withoutRedisSQL)
	})
	if err != nil && e.opt.Redis == nil {
		return err
	}
	if e.opt.Redis == nil {
		switch {
		case rates > 0:
			e.warn("give all runners the same one: `export REDIS_URL=redis://:password@host:6379/0`", "tasks have %d rates, and REDIS_URL is not set", rates)
		case len(e.found) == 0:
			e.ok("no task has a rate, so none is needed")
		}
		return nil
	}
	short, end := context.WithTimeout(ctx, answerWithin)
	defer end()
	began := time.Now()
	if probed := limit.Probe(short, e.opt.Redis, "pgtick:"+migrations.Address(e.opt.Database)+":"); probed != nil {
		e.warn("see that it runs, takes writes and scripts, and that REDIS_URL is right: `redis-cli -u \"$REDIS_URL\" ping`", "the Redis of REDIS_URL does not decide: %s", probed)
	} else if len(e.found) == 0 && err == nil {
		e.ok("it decided within %s; tasks have %d rates", time.Since(began).Round(time.Microsecond*10), rates)
	}
	return err
}

// Where secrets are kept in the environment, as docs/http-tasks.md says.
const secretPrefix = "PGTICK_SECRET_" //nolint:gosec // the beginning of names, no secret

func secrets(ctx context.Context, e *exam) error {
	var names []string
	if err := e.reading(ctx, func(tx pgx.Tx) (err error) { names, err = secretNames(ctx, tx); return err }); err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		value, _ := e.opt.Env(secretPrefix + name)
		return value != ""
	})
	var kept []string
	if len(missing) > 0 {
		if err := e.reading(ctx, func(tx pgx.Tx) (err error) { kept, err = inVault(ctx, tx, missing); return err }); err != nil {
			return err
		}
	}
	for _, name := range missing {
		if !slices.Contains(kept, name) {
			e.warn(fmt.Sprintf("in the environment of each runner, and here: `export %s%s=…`; or in the vault: %s", secretPrefix, name, putInVault(name)),
				"secret %s, which calls name, is neither in this environment nor in a vault that %s may read", name, e.opt.Database.User)
		}
	}
	switch {
	case len(names) == 0:
		e.ok("no call names one")
	case len(e.found) == 0:
		e.ok("the %d that calls name are there", len(names))
	}
	return nil
}

func syncTarget(ctx context.Context, e *exam) error {
	if e.opt.Sync == credits.Local() {
		err := e.reading(ctx, func(tx pgx.Tx) error { return credits.Look(ctx, e.opt.Sync, tx.Conn()) })
		if err == nil {
			e.ok("%s can be read", e.opt.Sync)
		}
		return err
	}
	short, end := context.WithTimeout(ctx, 2*answerWithin)
	defer end()
	if err := credits.Look(short, e.opt.Sync, nil); err != nil {
		e.fail("see docs/credits-sync.md; the difference afterwards: `pgtick credits reconcile`", "%s", err)
		return nil
	}
	e.ok("%s answers", e.opt.Sync)
	return nil
}

const (
	scarce = 10 << 30 // bytes free, and less than a tenth of the disk: a warning
	spent  = 1 << 30  // and less than a twentieth: a failure
)

func disk(ctx context.Context, e *exam) error {
	var database, own int64
	var folder string
	if err := e.reading(ctx, func(tx pgx.Tx) (err error) { database, own, folder, err = sizes(ctx, tx); return err }); err != nil {
		return err
	}
	used := fmt.Sprintf("this database takes %s, pgtick %s of it", size(database), size(own))
	var room unix.Statfs_t
	if folder == "" || !isHere(e.opt.Database.Host) || unix.Statfs(folder, &room) != nil {
		e.ok("%s; how much is free can't be seen from here: see the server, or its dashboard", used)
		return nil
	}
	block := int64(room.Bsize)                                      //nolint:unconvert // not of the same type everywhere
	free, all := int64(room.Bavail)*block, int64(room.Blocks)*block //nolint:gosec // no disk has 2^63 blocks
	seen := fmt.Sprintf("%s of %s free at %s; %s", size(free), size(all), folder, used)
	remedy := "make room, or the disk larger; finished jobs are kept for less time by " + keepLess + ", which counts for those that end from then on"
	switch {
	case free < spent && free < all/20:
		e.fail(remedy, "%s", seen)
	case free < scarce && free < all/10:
		e.warn(remedy, "%s", seen)
	default:
		e.ok("%s", seen)
	}
	return nil
}

// isHere: by such a host this very machine is meant.
func isHere(host string) bool {
	ip, err := netip.ParseAddr(host)
	return isSocket(host) || host == "localhost" || err == nil && ip.IsLoopback()
}

func size(bytes int64) string {
	units := strings.Fields("bytes KiB MiB GiB TiB PiB")
	n, unit := float64(bytes), 0
	for ; n >= 1024 && unit < len(units)-1; unit++ {
		n /= 1024
	}
	digits := map[bool]int{true: 1, false: 0}[n < 10 && unit > 0]
	return fmt.Sprintf("%.*f %s", digits, n, units[unit])
}
