package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/pgtick/pgtick/migrations"
)

// zombieForm is a way to write a task with one of the libraries. Plain means that the effect has a transaction of its own, and the library
// reports done when the task returns. Context ignored: by code that does not look at its context's end, as that which calls what knows none.
type zombieForm struct {
	side, version, form, settings string
	worker                        string // its name for the worker's process
	command                       func(role, point string) *osexec.Cmd
	install                       func(context.Context, *pgxpool.Pool) error
	enqueue                       func(ctx context.Context, pool *pgxpool.Pool, jobs int) error
	done                          string // how many jobs it knows as done
	record                        string // what it keeps of each job: its id, and all columns as text
	right                         string // of how many jobs that tells of one lost attempt and a good one
	rescue                        string // what an operator does meanwhile, again and again
}

func (f *zombieForm) start(pool *pgxpool.Pool, role, point string) (*puppet, error) {
	cmd := f.command(role, point)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+pool.Config().ConnString())
	return startPuppet(cmd)
}

func zombieForms(ctx context.Context) ([]*zombieForm, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	forms := append(pgtickForms(), riverForms()...)
	for _, f := range forms {
		f.command = func(role, point string) *osexec.Cmd {
			return osexec.Command(self, "zombie-worker", f.worker, role, point)
		}
	}
	node, err := findNode(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "graphile-worker and pg-boss are left out:", err)
		return forms, nil
	}
	others, err := nodeForms(node)
	return append(forms, others...), err
}

func pgtickForms() (forms []*zombieForm) {
	for _, f := range [][2]string{
		{"pgtick-tx", "RegisterTx"},
		{"pgtick-tx-late", "RegisterTx, context ignored"},
		{"pgtick-check", "job.InTx, which calls check_claim"},
		{"pgtick-check-late", "job.InTx, which calls check_claim, context ignored"},
		{"pgtick-plain", "plain"},
		{"pgtick-plain-late", "plain, context ignored"},
	} {
		forms = append(forms, &zombieForm{
			side: "pgtick", version: "this checkout", worker: f[0], form: f[1], settings: fmt.Sprintf("lease %s; job's timeout 5 min, the default", zombieLease),
			install: func(ctx context.Context, pool *pgxpool.Pool) error {
				if _, err := migrations.Up(ctx, pool.Config().ConnConfig, migrations.Options{}); err != nil {
					return err
				}
				return exec(ctx, pool, `delete from pgtick.schedule_changes`, `delete from pgtick.schedule_defs`)
			},
			enqueue: func(ctx context.Context, pool *pgxpool.Pool, jobs int) error {
				return exec(ctx, pool, fmt.Sprintf(`select count(*) from pgtick.enqueue_many('effect', array_fill('{}'::jsonb, array[%d]))`, jobs))
			},
			done:   `select count(*) from pgtick.jobs where state = 'done'`,
			record: `select j.id::text, to_jsonb(j)::text from pgtick.jobs as j`,
			right: `select count(*) from pgtick.jobs as j where j.state = 'done'
				and (select array_agg(a.runner || ' ' || a.outcome order by a.started_at) = '{zombie lost,second done}' from pgtick.attempts as a where a.job_id = j.id)`,
		})
	}
	return forms
}

func riverForms() (forms []*zombieForm) {
	for _, f := range [][2]string{
		{"river-tx", "JobCompleteTx"},
		{"river-tx-late", "JobCompleteTx, context ignored"},
		{"river-plain", "plain"},
		{"river-plain-late", "plain, context ignored"},
	} {
		forms = append(forms, &zombieForm{
			side: "River", version: moduleVersion("github.com/riverqueue/river"), worker: f[0], form: f[1],
			settings: fmt.Sprintf("RescueStuckJobsAfter %s, JobTimeout %s", riverZombieRescue, riverZombieTimeout),
			install: func(ctx context.Context, pool *pgxpool.Pool) error {
				migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
				if err != nil {
					return err
				}
				_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
				return err
			},
			enqueue: riverZombieJobs,
			done:    `select count(*) from river_job where state = 'completed'`,
			record:  `select j.id::text, to_jsonb(j)::text from river_job as j`,
			right:   `select count(*) from river_job where state = 'completed' and attempt = 2 and cardinality(errors) = 1`,
		})
	}
	return forms
}

func riverZombieJobs(ctx context.Context, pool *pgxpool.Pool, jobs int) error {
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{})
	if err != nil {
		return err
	}
	batch := make([]river.InsertManyParams, jobs)
	for i := range batch {
		batch[i].Args = riverZombieArgs{}
	}
	_, err = client.InsertManyFast(ctx, batch)
	return err
}

func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return "unknown"
}

func nodeForms(node string) (forms []*zombieForm, err error) {
	for _, f := range [][2]string{
		{"graphile-plain", "plain"},
		{"pgboss-transactional", "transactional: true"},
		{"pgboss-transactional-expire", "transactional: true, found by expireInSeconds"},
		{"pgboss-checked", "complete(queue, job, null, {db}), affected checked"},
		{"pgboss-complete", "complete(queue, job.id, null, {db})"},
		{"pgboss-plain", "plain"},
		{"pgboss-plain-expire", "plain, found by expireInSeconds"},
	} {
		form := &zombieForm{side: "pg-boss", worker: f[0], form: f[1], settings: "heartbeatSeconds 10, supervised every 2 s; expireInSeconds 900, the default",
			done:   `select count(*) from pgboss.job where name = 'effect' and state = 'completed'`,
			record: `select j.id::text, to_jsonb(j)::text from pgboss.job as j where name = 'effect'`,
			right:  `select count(*) from pgboss.job where name = 'effect' and state = 'completed' and retry_count = 1`,
		}
		if strings.HasPrefix(f[0], "graphile") {
			graphileRecords(form)
		}
		if strings.HasSuffix(f[0], "expire") {
			form.settings = "expireInSeconds 10, supervised every 2 s; no heartbeat, the default"
		}
		form.command = func(role, point string) *osexec.Cmd {
			return osexec.Command(node, filepath.Join("node", "zombies.mjs"), f[0], role, point, strconv.Itoa(zombieSlots))
		}
		form.install = func(ctx context.Context, pool *pgxpool.Pool) error { return form.enqueue(ctx, pool, 0) }
		form.enqueue = func(_ context.Context, pool *pgxpool.Pool, jobs int) error {
			cmd := form.command("enqueue", strconv.Itoa(jobs))
			cmd.Env = append(os.Environ(), "DATABASE_URL="+pool.Config().ConnString())
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
		if form.version, err = packageVersion(form.side); err != nil {
			return nil, err
		}
		forms = append(forms, form)
	}
	return forms, nil
}

// graphileRecords: it deletes what is done. Its four hours cannot be set, so what its documentation names is done by hand: to clear the
// columns of the lock, here when it is ten seconds old.
func graphileRecords(form *zombieForm) {
	form.side, form.settings = "graphile-worker", "locked_at and locked_by cleared after 10 s, in place of its 4 hours"
	form.done = `select count(distinct e.job_id) from effects as e where not exists (select from graphile_worker._private_jobs as j where j.id::text = e.job_id)`
	form.record = `select j.id::text, to_jsonb(j)::text from graphile_worker._private_jobs as j`
	form.right = `select 0` // there is none
	form.rescue = `update graphile_worker._private_jobs set locked_at = null, locked_by = null where locked_at < now() - interval '10 seconds'`
}

func packageVersion(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join("node", "node_modules", name, "package.json"))
	if err != nil {
		return "", err
	}
	var about struct{ Version string }
	err = json.Unmarshal(text, &about)
	return about.Version, err
}
