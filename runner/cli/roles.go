package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// passwordEnv is where programs put the password; people are asked for it.
const passwordEnv = "PGTICK_ROLE_PASSWORD" //nolint:gosec // a name, no password

// loginRole is a role that pgtick migrate grants something to, and what a login with it should have set.
type loginRole struct {
	verb     string
	group    string // the role with the rights, which may itself be the login
	short    string
	long     string
	most     int // connections, where nothing else is said
	settings []roleSetting
	example  string // of a URL's use, after the SQL was run
}

type roleSetting struct{ name, value, why string }

var loginRoles = []loginRole{
	{
		verb: "runner", group: "pgtick_runner", most: 25,
		short: "The SQL of a runner's login, which may call only what a worker needs",
		long: `Print the SQL of the login with which runners connect. It may call the functions of the worker protocol, and neither reads nor writes a table.
A runner has five connections, so the limit of 25 is enough for five; --connection-limit sets another one.`,
		settings: []roleSetting{
			{"statement_timeout", "'0'", "each job has a timeout of its own, which the runner keeps"},
			{"idle_session_timeout", "'0'", "the connection that listens is silent for long"},
			{"idle_in_transaction_session_timeout", "'15min'", "the transaction of a task sets its own"},
			{"default_transaction_isolation", "'read committed'", "claims must see what others have just committed"},
			{"tcp_keepalives_idle", "'1min'", "of a runner that the network has lost, the server ends the sessions"},
			{"tcp_keepalives_interval", "'10s'", "after a minute and a half, not after the two hours that Linux takes"},
			{"tcp_keepalives_count", "'3'", "until then they take the place of others"},
		},
		example: "DATABASE_URL='postgres://%s:PASSWORD@HOST:5432/DATABASE' pgtick work",
	},
	{
		verb: "reader", group: "pgtick_reader", most: 10,
		short: "The SQL of a login for dashboards, which may only read",
		long: `Print the SQL of a login that reads pgtick's views, for dashboards and people who look. It may write nothing; its queries end after 30 seconds, and
its transactions when they are idle for a minute, so that a forgotten one does not hold back cleaning.`,
		settings: []roleSetting{
			{"default_transaction_read_only", "'on'", "its rights say so already; this says it at once"},
			{"statement_timeout", "'30s'", "a dashboard asks again"},
			{"lock_timeout", "'5s'", "it should wait for nobody for long"},
			{"idle_in_transaction_session_timeout", "'1min'", "an open transaction holds back cleaning"},
		},
		example: "psql 'postgres://%s:PASSWORD@HOST:5432/DATABASE' -c 'select * from pgtick.health'",
	},
	{
		verb: "operator", group: "pgtick_operator", most: 10,
		short: "The SQL of a login that reads, and acts on jobs, schedules and queues",
		long: `Print the SQL of a login that reads what a reader's does, and acts on jobs, schedules, queues and limits: for a dashboard whose operators act, and for
people who retry what failed. It writes no table, books no credits, and allows nobody anything.`,
		settings: []roleSetting{
			{"default_transaction_isolation", "'read committed'", "a retry must see what others have just committed"},
			{"statement_timeout", "'2min'", "many jobs at once take some time"},
			{"lock_timeout", "'10s'", "it should wait for nobody for long"},
			{"idle_in_transaction_session_timeout", "'1min'", "an open transaction holds back cleaning"},
		},
		example: "PGTICK_WEB_DATABASE_URL='postgres://%s:PASSWORD@HOST:5432/DATABASE' pgtick work",
	},
}

func rolesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "roles",
		Short: "Print the SQL of a login for runners, dashboards or operators",
		Long: `Print the SQL that makes a login for runners, for dashboards or for operators, and sets its password. Nothing is done with any database: look at it, and run it
as the owner of the schema. The password itself is not in it, only what PostgreSQL keeps of one (SCRAM-SHA-256).`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, role := range loginRoles {
		cmd.AddCommand(loginCommand(role))
	}
	return cmd
}

func loginCommand(role loginRole) *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   role.verb,
		Short: role.short,
		Long: role.long + `

The password is that of --password-file or of ` + passwordEnv + `; otherwise it is asked for on a terminal, and not shown, or read from the
input. It has at least 12 characters, since the SQL may be kept where others can try to guess it.`,
		Example: "  pgtick roles " + role.verb + " | psql \"$DATABASE_URL\"\n  pgtick roles " + role.verb + " --generate password.txt > login.sql",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printLogin(cmd, role, o)
		},
	}
	cmd.Flags().StringVar(&o.name, "name", role.group, "the login's name; another one than "+role.group+" becomes a member of that")
	cmd.Flags().StringVar(&o.file, "password-file", "", "read the password from this file")
	cmd.Flags().StringVar(&o.generate, "generate", "", "make a random password, and write it into this new file, which only you may read")
	cmd.Flags().IntVar(&o.most, "connection-limit", role.most, "connections at a time, 1 to 10000")
	return cmd
}

type loginOptions struct {
	name, file, generate string
	most                 int
}

func printLogin(cmd *cobra.Command, role loginRole, o loginOptions) error {
	if err := o.check(role); err != nil {
		return err
	}
	password, err := o.password(cmd)
	if err != nil {
		return err
	}
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(cmd.OutOrStdout(), loginSQL(role, o.name, o.most, verifier)); err != nil {
		return err
	}
	talk := cmd.ErrOrStderr()
	_, _ = fmt.Fprintln(talk, "Nothing is changed yet: run this SQL as the owner of the schema pgtick.")
	_, _ = fmt.Fprintf(talk, "Then: "+role.example+"\n", o.name)
	_, _ = fmt.Fprintf(talk, "In a URL special characters of the password are written as %%XX. On a pooler of Supabase the user is %s.PROJECT.\n", o.name)
	return nil
}

// loginName is what needs no quotes and cannot end a string: the name stands in SQL of several kinds.
var loginName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// othersRoles have a meaning of their own, which a login of ours would change.
var othersRoles = []string{"public", "none", "postgres", "anon", "authenticated", "service_role", "authenticator", "supabase_admin", "pgtick_runner", "pgtick_reader", "pgtick_operator"}

func (o loginOptions) check(role loginRole) error {
	switch {
	case !loginName.MatchString(o.name) || strings.HasPrefix(o.name, "pg_"):
		return usageError{fmt.Errorf("--name %q is no name for a login: small letters, digits and _, at most 63, not beginning with a digit or pg_", o.name)}
	case o.name != role.group && slices.Contains(othersRoles, o.name):
		return usageError{fmt.Errorf("--name %q is a role with a meaning of its own: choose another name", o.name)}
	case o.most < 1 || o.most > 10000:
		return usageError{fmt.Errorf("--connection-limit %d is not from 1 to 10000", o.most)}
	case o.file != "" && o.generate != "":
		return usageError{errors.New("--password-file and --generate are two passwords: give one of them")}
	}
	return nil
}

func (o loginOptions) password(cmd *cobra.Command) (string, error) {
	switch {
	case o.generate != "":
		return generatePassword(o.generate)
	case o.file != "":
		text, err := os.ReadFile(o.file)
		if err != nil {
			return "", usageError{fmt.Errorf("--password-file: %w", err)}
		}
		return checkedPassword(withoutLineEnd(string(text)), "--password-file "+o.file)
	}
	if value, ok := os.LookupEnv(passwordEnv); ok && value != "" {
		return checkedPassword(value, passwordEnv)
	}
	if input, ok := cmd.InOrStdin().(*os.File); ok && term.IsTerminal(int(input.Fd())) {
		return askPassword(cmd.Context(), input, cmd.ErrOrStderr())
	}
	text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<16))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return checkedPassword(withoutLineEnd(string(text)), "the input")
}

// withoutLineEnd takes off what editors and echo put behind the password. A second line stays, and is refused.
func withoutLineEnd(text string) string {
	return strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
}

func checkedPassword(password, from string) (string, error) {
	if err := checkPassword(password); err != nil {
		return "", usageError{fmt.Errorf("the password from %s %w", from, err)}
	}
	return password, nil
}

// generatePassword never overwrites: an earlier password may be in that file.
func generatePassword(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", usageError{fmt.Errorf("--generate: %s is there already: name a new file", path)}
	}
	if err != nil {
		return "", usageError{fmt.Errorf("--generate: %w", err)}
	}
	password := randomPassword()
	_, err = fmt.Fprintln(file, password)
	if err := cmp.Or(err, file.Close()); err != nil {
		return "", fmt.Errorf("--generate: write the password: %w", err)
	}
	return password, nil
}

// askPassword asks twice. A signal ends it, and gives the terminal its echo back.
func askPassword(ctx context.Context, input *os.File, talk io.Writer) (string, error) {
	first, err := askHidden(ctx, input, talk, "Password of the login: ")
	if err != nil {
		return "", err
	}
	if _, err := checkedPassword(first, "the terminal"); err != nil {
		return "", err
	}
	again, err := askHidden(ctx, input, talk, "The same again: ")
	if err == nil && first != again {
		err = usageError{errors.New("the two passwords differ: call it again")}
	}
	return first, err
}

func askHidden(ctx context.Context, input *os.File, talk io.Writer, question string) (string, error) {
	fd := int(input.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask for the password: %w", err)
	}
	_, _ = fmt.Fprint(talk, question)
	type answer struct {
		text []byte
		err  error
	}
	given := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		given <- answer{text, err}
	}()
	select {
	case a := <-given:
		_, _ = fmt.Fprintln(talk)
		if a.err != nil {
			return "", fmt.Errorf("ask for the password: %w", a.err)
		}
		return string(a.text), nil
	case <-ctx.Done():
		_, _ = fmt.Fprintln(talk)
		return "", cmp.Or(term.Restore(fd, before), errors.New("interrupted: nothing was printed"))
	}
}

// loginSQL is one transaction that may be run again: it then sets a new password, and all else as it says.
func loginSQL(role loginRole, name string, most int, verifier string) string {
	var b strings.Builder
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	p("-- pgtick roles %s: a login that owns nothing, with the rights that pgtick migrate has granted to %s.", role.verb, role.group)
	p("-- Run it as the owner of the schema pgtick. It holds no password, only what PostgreSQL keeps of one.")
	p("begin;")
	p("do $$")
	p("begin")
	for _, needed := range slices.Compact([]string{role.group, name}) {
		p("  if to_regrole('%s') is null then create role %q nologin; end if;", needed, needed)
	}
	p("  if exists (select from pg_catalog.pg_roles as r where r.rolname in ('%s', '%s')", role.group, name)
	p("    and (r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls))")
	p("  then")
	p("    raise exception 'role %s may do more than pgtick needs' using hint = 'Choose another --name, or take back what it may.';", name)
	p("  end if;")
	p("  if exists (select from pg_catalog.pg_shdepend as d where d.refobjid = to_regrole('%s')::oid and d.deptype = 'o') then", name)
	p("    raise exception 'role %s owns something, so it may do more than pgtick needs' using hint = 'Choose another --name.';", name)
	p("  end if;")
	p("  if not pg_catalog.has_database_privilege('%s', pg_catalog.current_database(), 'connect') then", name)
	p("    execute pg_catalog.format('grant connect on database %%I to %q', pg_catalog.current_database());", name)
	p("  end if;")
	p("end")
	p("$$;")
	p("alter role %q with login password '%s' connection limit %d;", name, verifier, most)
	if name != role.group {
		p("grant %q to %q;", role.group, name)
	}
	for _, s := range role.settings {
		p("alter role %q set %s = %s;  -- %s", name, s.name, s.value, s.why)
	}
	p("commit;")
	return b.String()
}
