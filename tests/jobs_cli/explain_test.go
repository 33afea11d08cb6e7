package jobscli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
)

// explaining is a connection that also keeps the plan of each query, and how many rows it really read.
type explaining struct {
	jobs.DB
	t     *testing.T
	plans []plan
}

// plan is a step of a query, as EXPLAIN tells it.
type plan struct {
	Type       string  `json:"Node Type"`
	Relation   string  `json:"Relation Name"`
	ActualRows float64 `json:"Actual Rows"`
	Removed    float64 `json:"Rows Removed by Filter"`
	Loops      float64 `json:"Actual Loops"`
	Plans      []plan  `json:"Plans"`
}

func (p plan) walk(see func(plan)) {
	see(p)
	for _, below := range p.Plans {
		below.walk(see)
	}
}

func (e *explaining) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var text []byte
	require.NoError(e.t, e.DB.QueryRow(ctx, "explain (analyze, format json) "+strings.TrimSpace(sql), append([]any{pgx.QueryExecModeExec}, args...)...).Scan(&text), sql)
	var found []struct {
		Plan plan `json:"Plan"`
	}
	require.NoError(e.t, json.Unmarshal(text, &found))
	e.plans = append(e.plans, found[0].Plan)
	return e.DB.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
}
