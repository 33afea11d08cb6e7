// Command record writes down what the Go code of a release asks the database: each statement of its queries.go files that is constant. The
// tests of rolling upgrades then ask a database of the present code the same.
//
//	go run ./tests/deploy/record REVISION >tests/deploy/testdata/last-release.sql
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: record REVISION")
		os.Exit(2)
	}
	text, err := record(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}

func record(revision string) (string, error) {
	commit, err := git("rev-parse", "--verify", revision+"^{commit}")
	if err != nil {
		return "", err
	}
	commit = strings.TrimSpace(commit)
	files, err := git("ls-tree", "-r", "--name-only", commit)
	if err != nil {
		return "", err
	}
	schema, statements := 0, ""
	for _, name := range strings.Fields(files) {
		if found := migration.FindStringSubmatch(name); found != nil {
			number, _ := strconv.Atoi(found[1])
			schema = max(schema, number)
		}
		if path.Base(name) != "queries.go" || strings.HasPrefix(name, "runner/doctor/") { // a doctor looks at a database of its own release
			continue
		}
		text, err := git("show", commit+":"+name)
		if err != nil {
			return "", err
		}
		found, err := statementsOf(name, text)
		if err != nil {
			return "", err
		}
		statements += found
	}
	return fmt.Sprintf(head, revision, commit, schema) + statements, nil
}

var migration = regexp.MustCompile(`^migrations/([0-9]{5})_[a-z0-9_]+\.sql$`)

const head = `-- What the Go code of the last release asks the database; written anew at each release: go run ./tests/deploy/record %s
-- commit %s
-- schema %d
`

func git(args ...string) (string, error) {
	out, err := exec.Command("git", args...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

var asksUs = regexp.MustCompile(`(?is)^\s*(select|with|insert|update|delete|call)\s.*\b(pgtick|credits|analytics)\.`)

// statementsOf finds the constant statements of a file: literals, and sums of literals and constants.
func statementsOf(name, text string) (all string, err error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	constants := constantsOf(file)
	ast.Inspect(file, func(node ast.Node) bool {
		expression, ok := node.(ast.Expr)
		if !ok {
			return true
		}
		value, constant := valueOf(expression, constants)
		if _, named := expression.(*ast.Ident); constant && !named && asksUs.MatchString(value) {
			all += fmt.Sprintf("\n-- %s\n%s;\n", name, strings.TrimSpace(value))
			return false
		}
		return !isSum(expression) // of a sum that is not constant, no part is a statement
	})
	return all, nil
}

func isSum(expression ast.Expr) bool {
	_, yes := expression.(*ast.BinaryExpr)
	return yes
}

func constantsOf(file *ast.File) map[string]string {
	constants := map[string]string{}
	ast.Inspect(file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
			for i := range spec.Names {
				if value, ok := valueOf(spec.Values[i], constants); ok {
					constants[spec.Names[i].Name] = value
				}
			}
		}
		return true
	})
	return constants
}

func valueOf(expression ast.Expr, constants map[string]string) (string, bool) {
	switch e := expression.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			value, err := strconv.Unquote(e.Value)
			return value, err == nil
		}
	case *ast.Ident:
		value, ok := constants[e.Name]
		return value, ok
	case *ast.BinaryExpr:
		left, ok := valueOf(e.X, constants)
		right, also := valueOf(e.Y, constants)
		return left + right, ok && also && e.Op == token.ADD
	}
	return "", false
}
