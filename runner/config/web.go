package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Web says who may see what in the dashboard. A wrong value never opens anything: it is an error.
type Web struct {
	Off          bool
	Database     *pgx.ConnConfig // nil: that of the runner
	Token        string
	ReadToken    string
	Key          string
	JWKS         string
	Secret       string
	Issuer       string
	Audience     string
	RoleClaim    string
	OperatorRole string
	ReaderRole   string
	Hide         string // as web.ParseHidden reads it
	ReadersSee   bool
}

// JWT tells whether tokens of an identity provider are taken.
func (w Web) JWT() bool { return w.JWKS != "" || w.Secret != "" }

// webTable lists the dashboard's settings, those that others stand on first.
func webTable() []Setting {
	return []Setting{
		{"web", "PGTICK_WEB", "on", "on: the dashboard is served at the address of http; off: health and metrics alone. Where others can reach the address, only with something to log in with", readWeb},
		{"web-database-url", "PGTICK_WEB_DATABASE_URL", "", "the same database by a login that may read all and, for actions, is an operator's or the owner's; default: DATABASE_URL. Of several databases, APP_URL_WEB goes with APP_URL", readWebDatabase},
		{"web-token", "PGTICK_WEB_TOKEN", "", "what operators log in to the dashboard with, 32 letters or more; better in the environment, where no list of processes shows it", secretText(func(c *Config) *string { return &c.Web.Token })},
		{"web-read-token", "PGTICK_WEB_READ_TOKEN", "", "what those log in with who may look, but not act", secretText(func(c *Config) *string { return &c.Web.ReadToken })},
		{"web-key", "PGTICK_WEB_KEY", "", "what sessions of the dashboard are signed with, 32 letters or more, the same for all runners behind one address; default: made at the start, so that all log in again after it", secretText(func(c *Config) *string { return &c.Web.Key })},
		{"web-jwks-url", "PGTICK_WEB_JWKS_URL", "", "the public keys of an identity provider whose JWTs are taken, such as https://REF.supabase.co/auth/v1/.well-known/jwks.json", readJWKS},
		{"web-jwt-secret", "PGTICK_WEB_JWT_SECRET", "", "in its place or besides, the secret of JWTs signed by HS256, as older Supabase projects have it", secretText(func(c *Config) *string { return &c.Web.Secret })},
		{"web-issuer", "PGTICK_WEB_ISSUER", "", "the issuer that those JWTs must name, such as https://REF.supabase.co/auth/v1", ofJWT(func(c *Config) *string { return &c.Web.Issuer })},
		{"web-audience", "PGTICK_WEB_AUDIENCE", "", "the audience that they must name, such as authenticated", ofJWT(func(c *Config) *string { return &c.Web.Audience })},
		{"web-role-claim", "PGTICK_WEB_ROLE_CLAIM", "role", "the claim that holds the role, or a list of roles; dots lead into objects: app_metadata.pgtick", readClaim},
		{"web-reader-role", "PGTICK_WEB_READER_ROLE", "", "the role of those who may look", readRole(func(c *Config) *string { return &c.Web.ReaderRole })},
		{"web-operator-role", "PGTICK_WEB_OPERATOR_ROLE", "", "the role of those who may act", readOperatorRole},
		{"web-hide", "PGTICK_WEB_HIDE", "", "what nobody sees of jobs, as task:key with * for any letters, separated by commas: mail.send:address, *:iban. Passwords, tokens and the like are hidden besides, unless the list has the word none", readHide},
		{"web-readers-see-args", "PGTICK_WEB_READERS_SEE_ARGS", "0", "1: those who may look see arguments, results, notes and errors of jobs too, but for what is hidden", readReadersSee},
	}
}

func readWeb(c *Config, value string) error {
	if value != "on" && value != "off" {
		return fmt.Errorf("%q is not on or off", value)
	}
	c.Web.Off = value == "off"
	return nil
}

func readWebDatabase(c *Config, value string) error {
	if value == "" {
		return nil
	}
	parsed, err := parseDatabase(value)
	c.Web.Database = parsed
	return err
}

// leastSecret is how many letters a secret has that nobody finds by trying.
const leastSecret = 32

func secretText(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		value = strings.TrimSpace(value)
		switch {
		case value == "":
			return nil
		case len(value) < leastSecret:
			return fmt.Errorf("has %d letters, and %d are the least that nobody finds by trying: openssl rand -base64 33", len(value), leastSecret)
		case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
			return fmt.Errorf("holds a blank, a line break or a letter that is not ASCII: openssl rand -base64 33 makes one without")
		case value == c.Web.Token && field(c) == &c.Web.ReadToken:
			return fmt.Errorf("is the same as PGTICK_WEB_TOKEN: who may look could act")
		}
		*field(c) = value
		return nil
	}
}

// readJWKS takes http only where nobody is between: whoever is could send keys of their own.
func readJWKS(c *Config, value string) error {
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("is not the URL of a list of keys: write https://REF.supabase.co/auth/v1/.well-known/jwks.json")
	case u.User != nil:
		return fmt.Errorf("holds a user or a password: the keys are public, leave them out")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return fmt.Errorf("would fetch keys that somebody between could change: write https://%s", u.Host)
	}
	c.Web.JWKS = value
	return nil
}

// ofJWT is a setting that JWTs need, and nothing else does.
func ofJWT(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		switch value = strings.TrimSpace(value); {
		case value == "" && c.Web.JWT():
			return fmt.Errorf("is not set, and without it a JWT that somebody else was given for something else would be taken: give what the provider's tokens hold")
		case value != "" && !c.Web.JWT():
			return fmt.Errorf("is set, but neither PGTICK_WEB_JWKS_URL nor PGTICK_WEB_JWT_SECRET: set one of those too, or leave it out")
		}
		*field(c) = value
		return nil
	}
}

func readClaim(c *Config, value string) error {
	if slices.Contains(strings.Split(value, "."), "") {
		return fmt.Errorf("%q is not a claim such as role or app_metadata.pgtick", value)
	}
	c.Web.RoleClaim = value
	return nil
}

// readRole refuses the roles that Supabase gives to everybody who signs up.
func readRole(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		if value = strings.TrimSpace(value); c.Web.RoleClaim == "role" && (value == "authenticated" || value == "anon") {
			return fmt.Errorf("is %s, the role of every user of the app: put a claim of its own into app_metadata, and name it by PGTICK_WEB_ROLE_CLAIM", value)
		}
		if value != "" && !c.Web.JWT() {
			return fmt.Errorf("is set, but neither PGTICK_WEB_JWKS_URL nor PGTICK_WEB_JWT_SECRET: set one of those too, or leave it out")
		}
		*field(c) = value
		return nil
	}
}

func readOperatorRole(c *Config, value string) error {
	if err := readRole(func(c *Config) *string { return &c.Web.OperatorRole })(c, value); err != nil {
		return err
	}
	if c.Web.JWT() && c.Web.OperatorRole == "" && c.Web.ReaderRole == "" {
		return fmt.Errorf("is not set, nor PGTICK_WEB_READER_ROLE: no JWT would be let in")
	}
	return nil
}

// readHide leaves the parts to the dashboard, which knows how it matches names.
func readHide(c *Config, value string) error {
	c.Web.Hide = value
	return nil
}

func readReadersSee(c *Config, value string) error {
	if value != "0" && value != "1" {
		return fmt.Errorf("%q is not 0 or 1", value)
	}
	c.Web.ReadersSee = value == "1"
	return nil
}

// Web tells whether a setting is the dashboard's.
func (s Setting) Web() bool { return strings.HasPrefix(s.Flag, "web") }
