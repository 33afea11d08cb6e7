package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// check is a constraint or a unique index, as the catalog has it.
type check struct{ Table, Name, Definition, Drop string }

// ofTables drops each constraint and unique index, and takes each term of a check to hold. Constraints of a partition are its table's, and not null
// is no row of pg_constraint before PostgreSQL 18.
func ofTables(ctx context.Context, url string) ([]mutant, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `
		select c.conrelid::regclass::text, c.conname, case c.contype when 'c' then replace(pg_get_constraintdef(c.oid, true), 'timestamp with time zone', 'timestamptz') else 'check ' end,
			format('alter table %s drop constraint %I cascade', c.conrelid::regclass, c.conname)
		from pg_constraint as c
		where c.connamespace = any ('{pgtick,credits,analytics}'::regnamespace[]) and c.contype in ('c', 'u', 'p', 'f') and c.conparentid = 0 and c.conislocal
			and c.conrelid <> 0 and c.conrelid <> coalesce(to_regclass('pgtick.goose_db_version'), 0)
		union all
		select i.indrelid::regclass::text, i.indexrelid::regclass::text, 'check ', 'drop index ' || i.indexrelid::regclass
		from pg_index as i join pg_class as t on t.oid = i.indrelid
		where t.relnamespace = any ('{pgtick,credits,analytics}'::regnamespace[]) and i.indisunique
			and not exists (select from pg_constraint as c where c.conindid = i.indexrelid) and not exists (select from pg_inherits as p where p.inhrelid = i.indexrelid)
		order by 1, 2`)
	if err != nil {
		return nil, err
	}
	checks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[check])
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, c := range checks {
		all = append(all, ofCheck(c)...)
	}
	return all, nil
}

func ofCheck(c check) []mutant {
	where := "migrations " + c.Table
	all := []mutant{{Where: where, What: "drop " + c.Name, Kind: constraint, SQL: c.Drop}}
	s := newSource(where, lowered(c.Definition), len("check "), len(c.Definition), map[string]int{})
	s.operands(anywhere)
	for _, m := range s.mutants {
		// Turned round it would refuse every row, which is not worth a look. Not valid: the rows that are there were lawful before.
		if strings.Contains(m.What, "→ true") {
			m.SQL = fmt.Sprintf("alter table %s drop constraint %s; alter table %s add constraint %s %s not valid", c.Table, c.Name, c.Table, c.Name, m.SQL)
			m.What, m.Kind = c.Name+": "+m.What, constraint
			all = append(all, m)
		}
	}
	for i := range all {
		all[i].Table = c.Table
	}
	return all
}

// lowered writes the words outside of strings in lower case, as our own SQL has them.
func lowered(text string) string {
	parts := strings.Split(text, "'")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = strings.ToLower(parts[i])
	}
	return strings.Join(parts, "'")
}
