package tasks

import (
	"context"
	"fmt"
	"strings"
)

// All SQL of this package stands here.

// parameter is one of pgtick.enqueue that is not left to its default.
type parameter struct {
	name  string
	form  string
	value any
}

// Forms of parameters. The casts make them mean the same in each way that a statement can be sent, through a pooler as well.
const (
	asText     = "$%d::text"
	asTexts    = "$%d::text[]"
	asInt      = "$%d::int"
	asID       = "$%d::bigint"
	asIDs      = "$%d::bigint[]"
	asUUID     = "$%d::text::uuid"
	asJSON     = "$%d::text::jsonb"
	asJSONs    = "$%d::text[]::jsonb[]"
	asTime     = "$%d::timestamptz"
	asInterval = "pg_catalog.make_interval(secs => $%d::float8)"
	asDelay    = "pgtick.now() + pg_catalog.make_interval(secs => $%d::float8)"
)

func callEnqueue(ctx context.Context, db DB, task, args string, set []parameter) (id int64, err error) {
	call, values := callOf(append([]parameter{{"task", asText, task}, {"args", asJSON, args}}, set...))
	err = db.QueryRow(ctx, `select pgtick.enqueue(`+call+`)`, values...).Scan(&id)
	return id, err
}

func callEnqueueMany(ctx context.Context, db DB, task string, args []string, set []parameter) (ids []int64, err error) {
	call, values := callOf(append([]parameter{{"task", asText, task}, {"args", asJSONs, args}}, set...))
	err = db.QueryRow(ctx, `select pg_catalog.array_agg(e.id order by e.place) from pgtick.enqueue_many(`+call+`) with ordinality as e(id, place)`, values...).Scan(&ids)
	return ids, err
}

// callOf writes the parameters by name, so that a database that has more of them, or does not have those that nobody asks for, is right too.
func callOf(set []parameter) (call string, values []any) {
	parts := make([]string, len(set))
	for i, p := range set {
		parts[i] = "p_" + p.name + " => " + fmt.Sprintf(p.form, i+1)
		values = append(values, p.value)
	}
	return strings.Join(parts, ", "), values
}
