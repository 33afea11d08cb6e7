package cli

import (
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

// screen is where data goes: a terminal with its width and colours, or a file or pipe, which has neither.
type screen struct {
	io.Writer
	width    int // 0: lines may have any length
	height   int // 0: there may be any number of them
	colour   bool
	terminal bool
}

// newScreen also heeds COLUMNS, which whoever sets it means, and NO_COLOR.
func newScreen(out io.Writer) screen {
	s := screen{Writer: out}
	if isTerminal(out) {
		s.width, s.height, s.terminal = 80, 24, true
		if width, height, err := term.GetSize(int(out.(*os.File).Fd())); err == nil && width > 0 && height > 0 {
			s.width, s.height = width, height
		}
		s.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && columns > 0 {
		s.width = columns
	}
	return s
}

// The colours of this program, as terminals call them.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// paint colours a text, which has to make sense without it.
func (s screen) paint(colour, text string) string {
	if !s.colour || colour == "" || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// wrap breaks a sentence into lines that fit, and paints each.
func (s screen) wrap(colour, text string) []string {
	lines := wrapText(text, s.width)
	for i, line := range lines {
		lines[i] = s.paint(colour, line)
	}
	return lines
}

// table fits the width of a terminal by wrapping its cells, so that nothing is left out, or, where it is one of many rows that are looked
// over, by cutting them.
type table struct {
	titles []string
	rows   [][]cell
	cuts   bool
}

// cell is some text. Its parts stay together where there is room for all, or stand below one another.
type cell struct {
	parts  []string
	colour string
}

func text(parts ...string) cell { return cell{parts: parts} }

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// Between columns, and between the parts of a cell.
const gap = "  "

// narrow is the width below which no column is pressed.
const narrow = 10

func (t *table) print(s screen) error {
	head := make([]cell, len(t.titles))
	for i, title := range t.titles {
		head[i] = cell{[]string{title}, bold}
	}
	lines := append([][]cell{head}, t.rows...)
	least, write := narrow, wrapRow
	if t.cuts && s.terminal {
		least, write = 3, cutRow
	}
	widths := t.widths(lines, s.width, least)
	for _, row := range lines {
		if _, err := io.WriteString(s, write(s, row, widths)); err != nil {
			return err
		}
	}
	return nil
}

// cutRow is a row in one line.
func cutRow(s screen, row []cell, widths []int) string {
	line, blank := "", ""
	for i, c := range row {
		piece := shorten(c.line(), widths[i])
		if piece != "" {
			line += blank + s.paint(c.colour, piece)
			blank = ""
		}
		blank += strings.Repeat(" ", widths[i]-wide(piece)) + gap
	}
	return line + "\n"
}

// widths gives each column what its longest cell needs, and takes from the widest until the whole fits, or no column has more than least.
func (t *table) widths(lines [][]cell, most, least int) []int {
	widths := make([]int, len(t.titles))
	total := len(gap) * (len(widths) - 1)
	for _, row := range lines {
		for i, c := range row {
			widths[i] = max(widths[i], wide(c.line()))
		}
	}
	for _, w := range widths {
		total += w
	}
	for ; most > 0 && total > most; total-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= least {
			break
		}
		widths[widest]--
	}
	return widths
}

func wrapRow(s screen, row []cell, widths []int) string {
	columns, height := make([][]string, len(row)), 1
	for i, c := range row {
		columns[i] = c.wrap(widths[i])
		height = max(height, len(columns[i]))
	}
	var all strings.Builder
	for y := range height {
		line, blank := "", ""
		for i, column := range columns {
			piece := ""
			if y < len(column) {
				piece = column[y]
			}
			if piece != "" {
				line += blank + s.paint(row[i].colour, piece)
				blank = ""
			}
			blank += strings.Repeat(" ", widths[i]-wide(piece)) + gap
		}
		all.WriteString(line + "\n")
	}
	return all.String()
}

func (c cell) line() string { return printable(strings.Join(c.parts, gap)) }

// wrap breaks a cell into lines: between its parts, else between words, else anywhere.
func (c cell) wrap(width int) []string {
	if line := c.line(); wide(line) <= width {
		return []string{line}
	}
	var lines []string
	for _, part := range c.parts {
		part = printable(part)
		if n := len(lines); n > 0 && wide(lines[n-1]+gap+part) <= width {
			lines[n-1] += gap + part
			continue
		}
		lines = append(lines, wrapText(part, width)...)
	}
	return lines
}

func wrapText(text string, width int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case wide(*last)+1+wide(word) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
		for wide(lines[len(lines)-1]) > width {
			head, rest := cut(lines[len(lines)-1], width)
			lines = append(lines[:len(lines)-1], head, rest)
		}
	}
	return lines
}

// cut splits a text after at most so many columns, after a mark between words where one is beyond its first third.
func cut(text string, width int) (head, rest string) {
	at, mark, state, columns := 0, 0, -1, 0
	for left := text; left != ""; {
		var cluster string
		var w int
		cluster, left, w, state = uniseg.FirstGraphemeClusterInString(left, state)
		if columns += w; columns > width && at > 0 {
			break
		}
		at += len(cluster)
		if columns > width/3 && strings.Contains("-_/.,:", cluster) {
			mark = at
		}
	}
	if mark > 0 && at < len(text) {
		at = mark
	}
	return text[:at], text[at:]
}

// shorten cuts a text to so many columns, with a sign that it was longer.
func shorten(text string, width int) string {
	text = printable(text)
	if wide(text) <= width {
		return text
	}
	state, head := -1, ""
	for left := text; left != ""; {
		var cluster string
		cluster, left, _, state = uniseg.FirstGraphemeClusterInString(left, state)
		if wide(head+cluster) > width-1 {
			break
		}
		head += cluster
	}
	return head + "…"
}

func wide(text string) int { return uniseg.StringWidth(text) }

// printable takes out what would move the cursor, or turn the direction of writing, on somebody's terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, text)
}
