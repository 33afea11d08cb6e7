package cli

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/runner/jobs"
)

// errLooked rolls back what was only a look.
var errLooked = errors.New("only a look")

// declareSQL runs the file as a whole, and where it fails finds the line.
func (a *apply) declareSQL(ctx context.Context, tx pgx.Tx) error {
	err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error { return jobs.DeclareInSQL(ctx, sp, a.content) })
	var pg *pgconn.PgError
	if err == nil || !errors.As(err, &pg) {
		return err
	}
	if pg.Hint == "" && (pg.Code == "0A000" || pg.Code == "2D000") {
		pg.Hint = "A file is one transaction, which ends with the file: leave begin, commit and the like out."
	}
	a.at = "" // what it says the second time is known
	line := lineAt(a.content, pg)
	if line == 0 {
		line = a.findLine(ctx, tx, pg)
	}
	return inFile{a.file, line, err}
}

// lineAt is known where the server points at the text itself: for what it could not read or has never heard of.
func lineAt(content string, pg *pgconn.PgError) int {
	if pg.InternalQuery != content || pg.InternalPosition <= 0 {
		return 0
	}
	characters := []rune(content)
	return 1 + strings.Count(string(characters[:min(int(pg.InternalPosition)-1, len(characters))]), "\n")
}

// findLine runs the statements one by one, up to the one with the same error: what a function raises comes without a place. It is for the
// message alone. Where it cuts statements otherwise than the server does, another error comes, and the line stays unknown.
func (a *apply) findLine(ctx context.Context, tx pgx.Tx, wanted *pgconn.PgError) (line int) {
	_ = pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error {
		for _, s := range statements(a.content) {
			err := jobs.DeclareInSQL(ctx, sp, s.text)
			if err == nil {
				continue
			}
			var pg *pgconn.PgError
			if errors.As(err, &pg) && pg.Code == wanted.Code && pg.Message == wanted.Message {
				line = s.line
			}
			break
		}
		return errLooked
	})
	return line
}

// statement is one of a file, with the line on which it begins.
type statement struct {
	text string
	line int
}

// statements cuts a text at each semicolon that is outside of quotes and comments.
func statements(content string) (all []statement) {
	for start, at := 0, 0; at < len(content); {
		length := token(content[at:])
		if content[at] == ';' || at+length >= len(content) {
			text := content[start : at+length]
			begin := start + blank(text)
			if begin < at+length {
				all = append(all, statement{text, 1 + strings.Count(content[:begin], "\n")})
			}
			start = at + length
		}
		at += length
	}
	return all
}

// blank is the length of the blanks and comments with which a text begins.
func blank(text string) (n int) {
	for n < len(text) {
		length := token(text[n:])
		first, _ := utf8.DecodeRuneInString(text[n:])
		if comment := strings.HasPrefix(text[n:], "--") || strings.HasPrefix(text[n:], "/*"); !comment && !unicode.IsSpace(first) {
			break
		}
		n += length
	}
	return n
}

// token is the length of what a text begins with: something quoted, a comment, a word, or one character.
func token(text string) int {
	switch {
	case strings.HasPrefix(text, "--"):
		return through(text, 2, "\n")
	case strings.HasPrefix(text, "/*"):
		return nested(text)
	case text[0] == '"' || text[0] == '\'':
		return through(text, 1, text[:1])
	case text[0] == '$':
		tag := dollarTag(text)
		return through(text, len(tag), tag)
	case len(text) > 1 && (text[0] == 'e' || text[0] == 'E') && text[1] == '\'':
		return escaped(text)
	}
	word := 0
	for word < len(text) && (text[word] == '_' || text[word] >= utf8.RuneSelf || unicode.IsLetter(rune(text[word])) || unicode.IsDigit(rune(text[word]))) {
		word++
	}
	return max(word, 1)
}

// through is the length up to and with the next end, after so many bytes.
func through(text string, from int, end string) int {
	if at := strings.Index(text[from:], end); at >= 0 && end != "" {
		return from + at + len(end)
	}
	return len(text)
}

// dollarTag is what opens and closes a text in dollars; where a dollar opens nothing it is the dollar.
func dollarTag(text string) string {
	for i := 1; i < len(text); i++ {
		switch c := rune(text[i]); {
		case c == '$':
			return text[:i+1]
		case c != '_' && !unicode.IsLetter(c) && (!unicode.IsDigit(c) || i == 1) && c < utf8.RuneSelf:
			return ""
		}
	}
	return ""
}

// nested is the length of a comment, those within it included.
func nested(text string) int {
	for at, depth := 0, 0; at < len(text); {
		switch {
		case strings.HasPrefix(text[at:], "/*"):
			depth++
			at += 2
		case strings.HasPrefix(text[at:], "*/"):
			at += 2
			if depth--; depth == 0 {
				return at
			}
		default:
			at++
		}
	}
	return len(text)
}

// escaped is the length of a text in which a backslash hides what follows.
func escaped(text string) int {
	for at := 2; at < len(text); at++ {
		switch text[at] {
		case '\\':
			at++
		case '\'':
			return at + 1
		}
	}
	return len(text)
}
