package fuzz

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// typ is a type of the server, as far as values of it are to be written.
type typ struct {
	OID      uint32
	Name     string // as SQL writes it
	Kind     string // of pg_type.typtype
	Category string
	Element  uint32 // of an array
	Typmod   int32  // of an attribute
	Fields   []field
}

type field struct {
	Name     string
	Type     uint32
	Typmod   int32
	NotNull  bool
	IsOutput bool // generated, or an identity
}

// types by oid: of all parameters and columns, and of what these are made of.
type types map[uint32]*typ

func readTypes(t *testing.T, conn *pgx.Conn) types {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		select t.oid, format_type(t.oid, null) as name, t.typtype::text as kind, t.typcategory::text as category, case when t.typcategory = 'A' then t.typelem else 0 end as element,
		  -1 as typmod, coalesce((select jsonb_agg(jsonb_build_object('Name', a.attname, 'Type', a.atttypid::bigint, 'Typmod', a.atttypmod) order by a.attnum)
		    from pg_attribute as a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped), '[]') as fields
		from pg_type as t where t.typtype in ('b', 'c', 'd', 'e', 'p')`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[typ])
	require.NoError(t, err)
	byOID := types{}
	for _, one := range found {
		byOID[one.OID] = one
	}
	return byOID
}

// function is one that may be called, with its input parameters.
type function struct {
	OID     uint32
	Name    string // with its schema
	Kind    string // f or p
	Params  []param
	ByOwner bool     // its comment says that it is for the owner
	Callers []string // roles that may execute it
	Trigger bool
	Strict  bool // not called with a null
	Told    bool `db:"-"` // a page of docs/ names it
}

type param struct {
	Name     string
	Type     uint32
	Optional bool
}

func readFunctions(t *testing.T, conn *pgx.Conn) []function {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		select p.oid, format('%I.%I', p.pronamespace::regnamespace, p.proname) as name, p.prokind::text as kind,
		  coalesce((select jsonb_agg(jsonb_build_object('Name', i.name, 'Type', i.type, 'Optional', i.n > p.pronargs - p.pronargdefaults) order by i.n) from (
		    select row_number() over (order by a.place) as n, a.name, a.type::bigint as type
		    from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes) with ordinality as a(type, name, mode, place)
		    where coalesce(a.mode, 'i') in ('i', 'b', 'v')) as i), '[]') as params,
		  coalesce(obj_description(p.oid, 'pg_proc'), '') ~* 'for the owner|only the owner may' as by_owner,
		  array(select r.rolname::text from pg_roles as r where r.rolname = any ($1) and has_function_privilege(r.oid, p.oid, 'execute') order by 1) as callers,
		  p.prorettype = 'trigger'::regtype as trigger, p.proisstrict as strict
		from pg_proc as p
		where p.pronamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace)
		order by p.proname collate "C", pg_get_function_identity_arguments(p.oid) collate "C"`, roles[:len(roles)-1])
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[function])
	require.NoError(t, err)
	require.Greater(t, len(found), 300)
	return found
}

// relation is a table or a view with its columns.
type relation struct {
	Name    string
	Kind    string
	Columns []field
}

func readRelations(t *testing.T, conn *pgx.Conn) []relation {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		select format('%I.%I', c.relnamespace::regnamespace, c.relname) as name, c.relkind::text as kind,
		  (select jsonb_agg(jsonb_build_object('Name', quote_ident(a.attname), 'Type', a.atttypid::bigint, 'Typmod', a.atttypmod, 'NotNull', a.attnotnull,
		    'IsOutput', a.attgenerated <> '' or a.attidentity <> '') order by a.attnum)
		    from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
		from pg_class as c
		where c.relnamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace) and c.relkind in ('r', 'v', 'p') and not c.relispartition
		order by c.relname collate "C"`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
	require.NoError(t, err)
	require.Greater(t, len(found), 40)
	return found
}
