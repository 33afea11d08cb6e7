package library_test

import (
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

const day = 24 * time.Hour

// What Go refuses, the database would refuse too: by the same rule, and only later.
func TestEnqueue_WithABadOption_NamesFieldAndValue_BeforeTheDatabaseIsAsked(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	rows := map[string]struct {
		option tasks.Option
		says   string
		sql    string // the same in SQL, where there is such a thing
	}{
		"a priority below 0":       {tasks.Priority(-1), `priority "-1" is refused: it goes from 0 (first) to 9 (last)`, `p_priority => -1`},
		"a priority over 9":        {tasks.Priority(10), `priority "10" is refused`, `p_priority => 10`},
		"no queue":                 {tasks.Queue(""), `queue "" is refused`, `p_queue => ''`},
		"no attempts":              {tasks.MaxAttempts(0), `max_attempts "0" is refused`, `p_max_attempts => 0`},
		"too many attempts":        {tasks.MaxAttempts(1001), `max_attempts "1001" is refused`, `p_max_attempts => 1001`},
		"no timeout":               {tasks.Timeout(0), `timeout "0s" is refused`, `p_timeout => '0'`},
		"a timeout over a week":    {tasks.Timeout(7*day + time.Microsecond), `timeout "168h0m0.000001s" is refused`, `p_timeout => '7 days 1 microsecond'`},
		"a zero time":              {tasks.RunAt(time.Time{}), `run_at "0001-01-01 00:00:00 +0000 UTC" is refused`, ``},
		"a delay into the past":    {tasks.Delay(-time.Second), `delay "-1s" is refused`, ``},
		"an owner that is no UUID": {tasks.OwnerID("ann"), `owner_id "ann" is refused: it is a UUID`, ``},
		"unique for no time":       {tasks.UniqueFor(0), `unique_for "0s" is refused`, `p_unique_key => 'k', p_unique_for => '0'`},
		"unique for too long":      {tasks.UniqueFor(400*day + time.Second), `unique_for "9600h0m1s" is refused`, `p_unique_key => 'k', p_unique_for => '400 days 1 second'`},
		"states without ready":     {tasks.UniqueStates("done"), `unique_states "[done]" is refused`, `p_unique_key => 'k', p_unique_states => '{done}'`},
		"a conflict unheard of":    {tasks.OnConflict("fight"), `on_conflict "fight" is refused`, `p_unique_key => 'k', p_on_conflict => 'fight'`},
		"keys for one job":         {tasks.UniqueKeys("a", "b"), `unique_keys "[a b]" is refused`, ``},
		"a policy of nothing":      {tasks.Retries(tasks.RetryPolicy{}), `retry_policy "" is refused: make it with Exponential, Linear or Delays`, `p_retry_policy => '{}'`},
		"a failure unheard of":     {tasks.SequenceFailure("cry"), `sequence_failure "cry" is refused: stop or skip`, ``},
		"an outcome unheard of":    {tasks.AfterOutcome("good"), `after_outcome "good" is refused: done or any`, ``},
	}
	for name, row := range rows {
		require.NoError(t, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
			_, err := tasks.Enqueue(t.Context(), tx, "mail", greeting{"ann"}, row.option)
			require.ErrorIs(t, err, tasks.ErrBadValue, name)
			require.ErrorContains(t, err, `enqueue a job of task "mail": a value was refused: `+row.says, name)
			_, err = tasks.Enqueue(t.Context(), tx, "after", nil)
			return err // the transaction goes on
		}), name)
		if row.sql != "" {
			_, err := db.Pool.Exec(t.Context(), `select pgtick.enqueue('mail', '{"name": "ann"}', `+row.sql+`)`)
			requireCode(t, err, "TK000")
		}
	}
	require.Empty(t, db.Jobs(t, "mail"))
	require.Len(t, db.Jobs(t, "after"), len(rows))
}

func TestEnqueue_WithAValueAtTheLimit_IsTaken(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	for _, options := range [][]tasks.Option{
		{tasks.Priority(0)}, {tasks.Priority(9)}, {tasks.MaxAttempts(1)}, {tasks.MaxAttempts(1000)}, {tasks.Timeout(time.Microsecond)}, {tasks.Timeout(7 * day)},
		{tasks.Delay(0)}, {tasks.UniqueKey("k"), tasks.UniqueFor(time.Microsecond)}, {tasks.UniqueKey("l"), tasks.UniqueFor(400 * day)},
		{tasks.RunAt(time.Unix(0, 0))}, {tasks.After()},
		{tasks.Retries(tasks.Exponential(0, 0, 0))}, {tasks.Retries(tasks.Exponential(time.Millisecond, 10, 30*day).Jitter(1))},
		{tasks.Retries(tasks.Linear(30*day, 30*day))}, {tasks.Retries(tasks.Delays(time.Second, 1500*time.Millisecond))},
	} {
		db.Enqueue(t, "mail", nil, options...)
	}
}

// The database knows more than Go does; what it refuses comes with its remedy.
func TestEnqueue_ThatTheDatabaseRefuses_SaysWhatHelps(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	rows := map[string]struct {
		args    any
		options []tasks.Option
		says    []string
	}{
		"args that are a list":    {[]string{"a"}, nil, []string{"args", "args are a JSON object", "Wrap the value"}},
		"args that are a number":  {7, nil, []string{"args", "args are a JSON object"}},
		"args that are null":      {(*greeting)(nil), nil, []string{"args", "args are a JSON object"}},
		"a period without a key":  {nil, []tasks.Option{tasks.UniqueFor(time.Hour)}, []string{"unique_for", "it needs a unique_key", "Give the key too"}},
		"a policy with no step":   {nil, []tasks.Option{tasks.Retries(tasks.Linear(0, 0))}, []string{"retry_policy.step", "0 seconds"}},
		"a policy that is bolder": {nil, []tasks.Option{tasks.Retries(tasks.Exponential(0, 99, 0))}, []string{"retry_policy.factor", "99", "from 1 to 10"}},
	}
	for name, row := range rows {
		_, err := tasks.Enqueue(t.Context(), db.Pool, "mail", row.args, row.options...)
		require.ErrorIs(t, err, tasks.ErrBadValue, name)
		requireCode(t, err, "TK000")
		for _, part := range row.says {
			require.ErrorContains(t, err, part, name)
		}
	}
}

func TestEnqueue_OfArgsThatAreNoJSON_IsRefused(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	_, err := tasks.Enqueue(t.Context(), db.Pool, "mail", map[string]any{"rate": math.NaN()})
	require.ErrorIs(t, err, tasks.ErrBadValue)
	_, err = tasks.EnqueueMany(t.Context(), db.Pool, "mail", []any{greeting{"ann"}, make(chan int)})
	require.ErrorIs(t, err, tasks.ErrBadValue)
	require.ErrorContains(t, err, "args of job 1")
	require.ErrorContains(t, err, "chan int")
	require.Empty(t, db.Jobs(t, "mail"))
}

func TestEnqueueMany_WithKeysThatDoNotFit_IsRefused(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	for says, option := range map[string]tasks.Option{
		`unique_key "k" is refused: it would let one job pass`:         tasks.UniqueKey("k"),
		`unique_keys "[a b c]" is refused: one for each of the 2 jobs`: tasks.UniqueKeys("a", "b", "c"),
	} {
		_, err := tasks.EnqueueMany(t.Context(), db.Pool, "mail", []greeting{{"a"}, {"b"}}, option)
		require.ErrorIs(t, err, tasks.ErrBadValue)
		require.ErrorContains(t, err, says)
	}
}

func TestEnqueue_WherePgtickIsMissing_SaysHowToInstallIt(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	_, err := tasks.Enqueue(t.Context(), db.Pool, "mail", nil)
	require.ErrorContains(t, err, "run pgtick migrate")
}
