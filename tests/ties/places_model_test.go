package ties

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// One session does at random what there is to do with jobs under limits, and after each step all that is written down about places must be what the
// jobs themselves show: of two tasks and two keys each, so that what is of the one and is taken for the other's is seen.
func TestMaxRunning_WhateverIsDoneInTurn_PlacesAreOfThoseThatRun(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			m := &placesModel{T: t, db: db, random: rand.New(rand.NewPCG(seed, 1)), runners: []runner{register(t, db.Pool), register(t, db.Pool)}}
			for range 150 {
				m.step()
				m.check()
			}
			m.drain()
		})
	}
}

type placesModel struct {
	*testing.T
	db      *pgtest.DB
	random  *rand.Rand
	runners []runner
	held    []heldClaim
	did     string
}

type heldClaim struct {
	runner
	claim
}

var limitedTasks = []string{"limited", "other", "echo"}

func (m *placesModel) of(list ...string) string { return list[m.random.IntN(len(list))] }

func (m *placesModel) exec(sql string, args ...any) {
	m.Helper()
	m.did = fmt.Sprint(sql, " ", args)
	exec(m.T, m.db.Pool, sql, args...)
}

func (m *placesModel) step() {
	m.Helper()
	switch n := m.random.IntN(100); {
	case n < 35:
		m.exec(fmt.Sprintf("select pgtick.enqueue('%s', p_priority => %s, p_limit_key => %s)", m.of(limitedTasks...), m.of("1", "5"), m.of("null", "'a'", "'b'")))
	case n < 55:
		m.claim(m.random.IntN(4) + 1)
	case n < 60:
		m.claimAll()
	case n < 80:
		m.end(m.of("done", "error", "snoozed", "released", "failed"))
	case n < 83:
		m.exec("select pgtick.cancel(id) from (select id from pgtick.live_jobs where runner_id is null order by hashint8(id + $1) limit 1) as j", m.random.IntN(1000))
	case n < 92:
		m.exec(fmt.Sprintf("select pgtick.set_limit('%s', p_max_running => %d, p_per_key => %s)", m.of(limitedTasks[:2]...), m.random.IntN(3)+1, m.of("true", "false")))
	case n < 94:
		m.exec(fmt.Sprintf("select pgtick.remove_limit('%s', %s)", m.of(limitedTasks[:2]...), m.of("true", "false")))
	case n < 97:
		m.exec("update pgtick.live_jobs set losses = 2 where id in (select id from pgtick.live_jobs where runner_id is null and blocked_by is null order by hashint8(id + $1) limit 1)", m.random.IntN(1000))
	default:
		rescue(m.T, m.db.Pool)
		m.did = "rescue"
	}
}

func (m *placesModel) claim(n int) {
	m.Helper()
	m.did = fmt.Sprint("claim ", n)
	r := m.runners[m.random.IntN(2)]
	for _, c := range r.claim(m.T, m.db.Pool, n, limitedTasks...) {
		m.held = append(m.held, heldClaim{r, c})
		require.Empty(m, m.exceededBy(c.fence), "after %s", m.did)
	}
}

// exceededBy are the limits of which more run than may, and some by this claim. (Who sets a lower one while more run exceeds it, too.)
func (m *placesModel) exceededBy(fence int64) []string {
	return all[string](m.T, m.db.Pool, `select concat_ws(' ', d.task, r.key, r.n)
		from pgtick.limit_defs as d
		cross join lateral (select coalesce(case when d.per_key then j.limit_key end, '') as key, count(*) as n, count(*) filter (where j.fence = $1) as new
			from pgtick.live_jobs as j where j.task = d.task and j.runner_id is not null and (j.limit_key is not null or not d.per_key) group by 1) as r
		where r.n > d.max_running and r.new > 0`, fence)
}

// claimAll leaves nothing that is due and may run.
func (m *placesModel) claimAll() {
	m.Helper()
	for _, r := range m.runners { // each takes one suspect
		for _, c := range r.claim(m.T, m.db.Pool, 1000, limitedTasks...) {
			m.held = append(m.held, heldClaim{r, c})
		}
	}
	m.did = "claim all"
	require.Empty(m, all[int64](m.T, m.db.Pool, `select j.id from pgtick.live_jobs as j
		where j.runner_id is null and j.blocked_by is null and j.run_at <= pgtick.now() and j.losses < 2 and not exists (
			select from pgtick.limit_defs as d where d.task = j.task and (not d.per_key or j.limit_key is not null) and d.max_running <= (
				select count(*) from pgtick.live_jobs as r where r.task = j.task and r.runner_id is not null and (not d.per_key or r.limit_key = j.limit_key)))`), "is due, may run, and was left")
}

func (m *placesModel) end(outcome string) {
	m.Helper()
	if len(m.held) == 0 {
		return
	}
	i := m.random.IntN(len(m.held))
	h := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	m.did = fmt.Sprint(outcome, " of ", h.claim.id)
	h.finish(m.T, m.db.Pool, h.claim, outcome)
}

func (m *placesModel) check() {
	m.Helper()
	require.Empty(m, all[string](m.T, m.db.Pool, `
		with running as (
			select d.task, coalesce(case when d.per_key then j.limit_key end, '') as key, array_agg(j.id order by j.id) as ids
			from pgtick.limit_defs as d join pgtick.live_jobs as j on j.task = d.task and j.runner_id is not null and (j.limit_key is not null or not d.per_key)
			where d.max_running is not null group by 1, 2
		), noted as (
			select p.task, p.key, array(select h from unnest(p.holders) as h order by h) as ids from pgtick.limit_places as p where p.holders <> '{}'
		)
		select format('%s run of %s "%s", noted are %s', r.ids, coalesce(r.task, n.task), coalesce(r.key, n.key), n.ids)
		from running as r full join noted as n on n.task = r.task and n.key = r.key where r.ids is distinct from n.ids
		union all
		select format('job %s of %s is blocked, and its key %s has room', j.id, j.task, j.limit_key)
		from pgtick.live_jobs as j left join pgtick.limit_defs as d on d.task = j.task and d.per_key
		where j.blocked_by = 'limit' and (d.max_running is null or d.max_running > (
			select count(*) from pgtick.live_jobs as o where o.task = j.task and o.limit_key = j.limit_key and (o.runner_id is not null or o.blocked_by is null)))
		union all
		select format('job %s is blocked from %s, wanted at %s', j.id, j.run_at, j.wanted_at) from pgtick.live_jobs as j where (j.blocked_by = 'limit') <> (j.run_at = 'infinity' and j.wanted_at is not null)
		union all
		select format('left to rescue: %s %s', u.kind, u.what) from pgtick.unsettled as u`), "after %s", m.did)
}

// drain does all that is left, without a sweep.
func (m *placesModel) drain() {
	m.Helper()
	for round := 0; one[int](m.T, m.db.Pool, "select count(*) from pgtick.live_jobs") > 0; round++ {
		require.Less(m, round, 500, "never comes to an end")
		m.claimAll()
		for len(m.held) > 0 {
			m.end("done")
			m.check()
		}
	}
}
