package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// LoadRunner is Load for a program that works on one database or on several. Of several, the first takes the place of DATABASE_URL.
func LoadRunner(flags func(name string) (value string, given bool), env func(string) (string, bool)) (Config, error) {
	setting := tableRow("database")
	several, err := readDatabases(setting.value(flags, env), env)
	if err != nil {
		return Config{}, &Error{Setting: setting, Why: err.Error()}
	}
	if len(several) == 0 {
		return Load(flags, env)
	}
	first := several[0]
	c, err := Load(func(name string) (string, bool) {
		switch name {
		case "database-url":
			return first.url, true
		case "listen-database-url":
			return first.listen, true
		}
		return flags(name)
	}, env)
	if err != nil {
		return Config{}, err
	}
	if c.Web.Database == nil {
		c.Web.Database = first.addresses.Web
	}
	for _, s := range several[1:] {
		c.More = append(c.More, s.addresses)
	}
	return c, nil
}

func tableRow(flag string) Setting {
	rows := Table()
	return rows[slices.IndexFunc(rows, func(s Setting) bool { return s.Flag == flag })]
}

type severalOf struct {
	url, listen string
	addresses   Addresses
}

// readDatabases takes names of variables rather than URLs, whose passwords every list of processes would show.
func readDatabases(value string, env func(string) (string, bool)) (several []severalOf, err error) {
	seen := map[string]bool{}
	for name := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == '\n' }) {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			continue
		case strings.ContainsAny(name, "=:/@?"):
			return nil, fmt.Errorf("takes the name of an environment variable that holds a URL, not the URL itself: its password would be seen by all who list processes")
		case seen[name]:
			return nil, fmt.Errorf("names %q twice", name)
		}
		seen[name] = true
		s, err := readNamed(name, env)
		if err != nil {
			return nil, err
		}
		several = append(several, s)
	}
	return several, nil
}

func readNamed(name string, env func(string) (string, bool)) (s severalOf, err error) {
	var c Config
	s.url, _ = env(name)
	s.listen, _ = env(name + "_LISTEN")
	if s.url == "" {
		return s, fmt.Errorf("names %q, but there is no such variable in the environment: set %s to postgres://user:password@host:5432/name", name, name)
	}
	if err := database(func(c *Config) **pgx.ConnConfig { return &c.Database })(&c, s.url); err != nil {
		return s, fmt.Errorf("names %s, which %w", name, err)
	}
	if err := database(func(c *Config) **pgx.ConnConfig { return &c.Listen })(&c, s.listen); err != nil {
		return s, fmt.Errorf("goes with %s_LISTEN, which %w", name, err)
	}
	s.addresses = Addresses{Database: c.Database, Listen: c.Listen}
	if web, _ := env(name + "_WEB"); web != "" {
		if s.addresses.Web, err = parseDatabase(web); err != nil {
			return s, fmt.Errorf("goes with %s_WEB, which %w", name, err)
		}
	}
	return s, nil
}
