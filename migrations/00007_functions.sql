-- Which functions of the owner's the task sql may call.
-- +goose Up

create table pgtick.allowed_functions (
  name text primary key,
  function text not null,
  as_role name not null,
  allowed_at timestamptz not null,
  allowed_by text not null
);
comment on table pgtick.allowed_functions is 'Functions and procedures that jobs of the task sql may call. Write through pgtick.allow_function and disallow_function.';
comment on column pgtick.allowed_functions.name is 'schema.name, as args.function has it.';
comment on column pgtick.allowed_functions.function is 'The same with the types of its parameters: as text, so that it outlives a function that is dropped and made anew.';
comment on column pgtick.allowed_functions.as_role is 'The role that it runs as.';
