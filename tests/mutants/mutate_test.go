package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const example = `create or replace function pgtick.example(p_id bigint)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if p_id is null or (p_id between 1 and 3) then perform pgtick.invalid('id', p_id::text, 'it is more than 3'); end if;
  perform pg_catalog.pg_advisory_xact_lock(p_id);
  perform from pgtick.live_jobs as j where j.id = p_id and j.args ->> 'a' is distinct from 'b' for no key update of j skip locked;   -- and not this
  if not found then raise exception using errcode = 'TK004', message = 'gone'; end if;
  update pgtick.live_jobs as j set losses = case when j.losses > 5 then 5 else j.losses + 1 end
  where (j.id, j.losses) is distinct from (p_id, 7);
exception when data_exception or program_limit_exceeded then null;
end
$$;
create or replace trigger example_made before insert on pgtick.live_jobs
  for each row when (new.id > 7 and new.task <> 'x') execute function pgtick.example_trigger();
`

const exampleGrants = `select pgtick.allow_rows('authenticated', array['pgtick.live_jobs'], 'owner_id = (select pgtick.user_id())');
select pgtick.allow_rows('pgtick_reader', array['pgtick.live_jobs'], 'true');
do $$
begin
  create policy ask on pgtick.requests for insert to authenticated with check (owner_id = (select pgtick.user_id()));
end
$$;
`

func names(all []mutant) (names []string) {
	for _, m := range all {
		names = append(names, m.Kind+" "+m.What)
	}
	return names
}

func TestMutate_TakesEachGuardAway_AndNothingElse(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, []string{
		"term p_id is null → false",
		"inverse p_id is null → not (p_id is null)",
		"term (p_id between 1 and 3) → false",
		"inverse (p_id between 1 and 3) → not ((p_id between 1 and 3))",
		"term j.id = p_id → true",
		"inverse j.id = p_id → not (j.id = p_id)",
		"term j.args ->> 'a' is distinct from 'b' → true",
		"inverse j.args ->> 'a' is distinct from 'b' → not (j.args ->> 'a' is distinct from 'b')",
		"term not found → true",
		"term not found → false",
		"term j.losses > 5 → true",
		"term j.losses > 5 → false",
		"term (j.id, j.losses) is distinct from (p_id, 7) → true",
		"term (j.id, j.losses) is distinct from (p_id, 7) → false",
		"bound p_id between 1 and 3: one less",
		"bound p_id between 1 and 3: one more",
		"bound j.losses > 5: > → >=",
		"column compared without j.id",
		"column compared without j.losses",
		"refusal perform pgtick.invalid('id', p_id::text, 'it is more than 3'); → null;",
		"refusal raise exception using errcode = 'TK004', message = 'gone'; → null;",
		"lock perform pg_catalog.pg_advisory_xact_lock(p_id); → null;",
		"lock for no key update of j skip locked →",
		"lock skip locked →",
		"trigger drop the trigger",
		"term (new.id > 7 and new.task <> 'x') → true",
		"term (new.id > 7 and new.task <> 'x') → false",
		"term new.id > 7 → true",
		"inverse new.id > 7 → not (new.id > 7)",
		"term new.task <> 'x' → true",
		"inverse new.task <> 'x' → not (new.task <> 'x')",
		"bound new.id > 7: > → >=",
	}, names(mutate([]sqlFile{{"30_example", example}})))
}

func TestMutate_OfGrants_OpensEachPolicyThatIsClosed(t *testing.T) {
	t.Parallel()
	all := mutate([]sqlFile{{"91_example", exampleGrants}})
	require.Len(t, all, 2)
	require.Contains(t, all[0].Text, "array['pgtick.live_jobs'], 'true');\nselect pgtick.allow_rows('pgtick_reader'")
	require.Contains(t, all[1].Text, "with check (true);")
}

func TestMutate_OfACheck_DropsItAndEachOfItsTerms(t *testing.T) {
	t.Parallel()
	all := ofCheck(check{"pgtick.t", "t_lawful", "CHECK (a > 0 AND (b IS NULL OR b <> 'AND'::text))", "alter table pgtick.t drop constraint t_lawful cascade"})
	require.Equal(t, []string{"constraint drop t_lawful", "constraint t_lawful: a > 0 → true", "constraint t_lawful: (b is null or b <> 'AND'::text) → true"}, names(all))
	require.Equal(t, "alter table pgtick.t drop constraint t_lawful; alter table pgtick.t add constraint t_lawful check (true and (b is null or b <> 'AND'::text)) not valid", all[1].SQL)
}

// What a function answers is for other tests, as long as nothing is changed by it.
func TestMutate_OfWhatOnlyReads_TakesItsRefusalsAlone(t *testing.T) {
	t.Parallel()
	text := strings.Replace(example[:strings.Index(example, "create or replace trigger")], "volatile", "stable", 1)
	all := names(mutate([]sqlFile{{"30_example", text}}))
	require.Contains(t, all, "term not found → true")
	require.Contains(t, all, "refusal raise exception using errcode = 'TK004', message = 'gone'; → null;")
	require.NotContains(t, all, "term j.id = p_id → true")
}

func TestMutants_OfTheFiles_HaveNamesOfTheirOwn_AndDiffer(t *testing.T) {
	t.Parallel()
	files, err := sqlFiles()
	require.NoError(t, err)
	all := mutate(files)
	require.Greater(t, len(all), 3000)
	text := map[string]string{}
	for _, f := range files {
		text[f.name] = f.text
	}
	named := map[string]bool{}
	for _, m := range all {
		require.False(t, named[m.name()], m.name())
		named[m.name()] = true
		require.NotEqual(t, text[m.file()], m.Text, m.name())
		require.True(t, m.Kind == policy || len(m.Calls) > 0, m.name())
	}
}

// Nearly all: what is cut out may leave no SQL, and such a mutant counts for nothing.
func TestMutants_AreSQL(t *testing.T) {
	t.Parallel()
	files, err := sqlFiles()
	require.NoError(t, err)
	db := pgtest.New(t)
	all := mutate(files)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var refused []string
	for _, m := range all[:150] {
		if _, err := db.Pool.Exec(context.Background(), "begin; "+m.SQL+"; rollback"); err != nil {
			refused = append(refused, m.name()+": "+err.Error())
			_, err = db.Pool.Exec(context.Background(), "rollback")
			require.NoError(t, err)
		}
	}
	require.Less(t, len(refused), 6, strings.Join(refused, "\n"))
}

// A reason for what is no mutant any more hides that the guard has changed.
func TestAccepted_AreMutantsStill_AndHaveAReasonEach(t *testing.T) {
	t.Parallel()
	files, err := sqlFiles()
	require.NoError(t, err)
	constraints, err := ofTables(context.Background(), pgtest.New(t).URL)
	require.NoError(t, err)
	require.Greater(t, len(constraints), 100)
	var every []string
	for _, m := range append(constraints, mutate(files)...) {
		every = append(every, m.name())
	}
	for line := range strings.Lines(accepted) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, " | ")
		require.NotEmpty(t, reason, line)
		require.True(t, slices.Contains(every, name), "no mutant: %s", name)
	}
}

func TestSample_IsDrawnFromEachFile_AndALargerOneHoldsTheSmaller(t *testing.T) {
	t.Parallel()
	files, err := sqlFiles()
	require.NoError(t, err)
	all := mutate(files)
	small, large := sampled(all, 200, 7), sampled(all, 600, 7)
	require.InDelta(t, 200, len(small), 60)
	for _, m := range small {
		require.True(t, slices.ContainsFunc(large, func(l mutant) bool { return l.name() == m.name() }), m.name())
	}
	require.Equal(t, names(small), names(sampled(all, 200, 7)))
	require.NotEqual(t, names(small), names(sampled(all, 200, 8)))
	for _, m := range all {
		require.True(t, slices.ContainsFunc(small, func(s mutant) bool { return s.file() == m.file() }), m.file())
	}
}

func TestReport_CountsASurvivorWithoutAReason(t *testing.T) {
	t.Parallel()
	m := func(what string) mutant { return mutant{Where: "30_x pgtick.x", What: what, Kind: term} }
	all := []mutant{m("a"), m("b"), m("c"), m("d"), m("e")}
	l := &lab{done: map[string]result{}}
	for i, outcome := range []string{killed, timeout, survived, doubtful} {
		l.done[all[i].name()] = result{mutant: all[i], Outcome: outcome}
	}
	var out strings.Builder
	require.Equal(t, 1, l.report(&out, all, reasons("30_x pgtick.x: c | it is nothing\n")))
	require.Contains(t, out.String(), "| 30_x | 4 | 2 | 1 | 1 | 1 | 66.7 % |")
	require.Contains(t, out.String(), "doubtful: 30_x pgtick.x: d")
}

func TestWhatFailed_IsReadFromTheOutput(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]struct {
		name string
		hung bool
	}{
		"--- FAIL: TestClaim_Once (0.05s)\n    --- FAIL: TestClaim_Once/x (0.05s)\n": {"TestClaim_Once", false},
		"panic: test timed out after 30s\n\trunning tests:\n\t\tTestMany (29s)\n":    {"TestMany", true},
		"panic: boom\n\ngoroutine 7\ngithub.com/x/y.TestLoud(0xc000)\n":              {"TestLoud", false},
		"PASS\n": {"", false},
	} {
		name, hung := whatFailed([]byte(said))
		require.Equal(t, want.name, name, said)
		require.Equal(t, want.hung, hung, said)
	}
}

func TestMutate_OfATermAtTheEnd_LeavesWhatIsBehindIt(t *testing.T) {
	t.Parallel()
	text := `create or replace function pgtick.say(p_id bigint)
returns void
language sql volatile parallel unsafe
as $$
  update pgtick.job_notes as n set note = (select j.task from pgtick.live_jobs as j where j.id = p_id offset 0) where n.job_id = p_id $$;
`
	var terms []string
	for _, m := range mutate([]sqlFile{{"35_example", text}}) {
		if m.Kind == "term" {
			terms = append(terms, m.What)
		}
	}
	require.Equal(t, []string{"j.id = p_id → true", "j.id = p_id → false", "n.job_id = p_id → true", "n.job_id = p_id → false"}, terms)
}
