package httptask

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/tasks"
)

// secretPrefix stands before a secret's name in the environment.
const secretPrefix = "PGTICK_SECRET_" //nolint:gosec // the beginning of names, no secret

const secretNameRule = "the name of a secret: 1 to 200 letters, digits, _, - and ." //nolint:gosec // a rule, no secret

var (
	secretName  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,200}$`)
	placeholder = regexp.MustCompile(`\{\{secret:([^{}]*)\}\}`)
)

// checkPlaceholders says what a value should be, when it holds something that looks like a secret and is none.
func checkPlaceholders(value string) error {
	for _, found := range placeholder.FindAllStringSubmatch(value, -1) {
		if !secretName.MatchString(found[1]) {
			return fmt.Errorf("one with %s", secretNameRule)
		}
	}
	if strings.Contains(placeholder.ReplaceAllString(value, ""), "{{") {
		return errors.New("one with secrets written as {{secret:NAME}}")
	}
	return nil
}

// secretNames are those that a call needs, each once.
func (c *call) secretNames() []string {
	names := slices.Clone(c.sign)
	for _, value := range c.headers {
		for _, found := range placeholder.FindAllStringSubmatch(value, -1) {
			names = append(names, found[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// secrets are the values that a call uses, by name.
type secrets struct {
	byName  map[string]string
	hide    *strings.Replacer
	longest int // bytes, of what hide looks for
}

// secrets looks in the runner's environment, and for what is not there in the database's vault.
func (c *caller) secrets(ctx context.Context, handle *tasks.Handle, names []string) (secrets, error) {
	found := map[string]string{}
	var elsewhere []string
	for _, name := range names {
		if value, ok := c.env(secretPrefix + name); ok && value != "" {
			found[name] = value
		} else {
			elsewhere = append(elsewhere, name)
		}
	}
	if len(elsewhere) > 0 {
		if err := fromVault(ctx, handle, elsewhere, found); err != nil {
			return secrets{}, err
		}
	}
	return newSecrets(found), nil
}

func fromVault(ctx context.Context, handle *tasks.Handle, names []string, into map[string]string) error {
	var kept map[string]string
	err := handle.WithConn(ctx, func(conn *pgx.Conn) (err error) {
		kept, err = readVault(ctx, conn, names)
		return err
	})
	vault := "Supabase Vault (vault.decrypted_secrets)"
	if missing := new(noVault); errors.As(err, &missing) {
		vault += ", " + missing.why
	} else if err != nil {
		return err
	}
	for _, name := range names {
		if kept[name] == "" {
			return tasks.Permanent(fmt.Errorf("secret %s is neither in the runner's environment, as %s%s, nor in %s", name, secretPrefix, name, vault))
		}
		into[name] = kept[name]
	}
	return nil
}

// newSecrets prepares to hide what may come back: a value as it is, as JSON writes it, and as a URL does. The longest are looked for first,
// so that one that is part of another leaves nothing of that.
func newSecrets(byName map[string]string) secrets {
	type pair struct{ find, put string }
	var pairs []pair
	for name, value := range byName {
		quoted, _ := json.Marshal(value) // a string: it can't fail
		key := strings.TrimPrefix(value, signingPrefix)
		for _, form := range []string{value, strings.TrimSpace(value), key, string(quoted[1 : len(quoted)-1]), url.QueryEscape(value), url.PathEscape(value)} {
			if form != "" {
				pairs = append(pairs, pair{form, "{{secret:" + name + "}}"})
			}
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(len(b.find), len(a.find)), cmp.Compare(a.find, b.find), cmp.Compare(a.put, b.put))
	})
	s := secrets{byName: byName}
	var list []string
	for _, p := range pairs {
		list = append(list, p.find, p.put)
		s.longest = max(s.longest, len(p.find))
	}
	s.hide = strings.NewReplacer(list...)
	return s
}

// fill puts the values in their places.
func (s secrets) fill(value string) (string, error) {
	var bad error
	filled := placeholder.ReplaceAllStringFunc(value, func(place string) string {
		name := placeholder.FindStringSubmatch(place)[1]
		if !isHeaderValue(s.byName[name]) {
			bad = fmt.Errorf("secret %s is not one line of text: store it without a line break", name)
		}
		return s.byName[name]
	})
	return filled, bad
}

func (s secrets) values(names []string) []string {
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = s.byName[name]
	}
	return values
}
