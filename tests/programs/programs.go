// Package programs builds the programs that tests run. Under "make test" each is built once, for all packages; otherwise by each package for itself.
package programs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FolderEnv names the folder in which "make test" keeps the programs of one run. Nothing in it is older than the run, so nothing is stale.
const FolderEnv = "PGTICK_TEST_PROGRAMS"

// The programs that tests run.
const (
	Pgtick     = "runner/cmd/pgtick" // as "make build" makes it, but for its version
	TestRunner = "tests/testrunner"  // pgtick with some tasks more
)

// Env is the environment in which the go command compiles as "make build" does: with other settings it would compile everything once more.
func Env() []string { return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") }

// Build returns the path of a program, which is built into folder unless this run of the tests has it already.
func Build(folder, program string) (string, error) {
	return build(folder, program, filepath.Base(program), Env(), "-buildvcs=false")
}

// BuildRace builds with the race detector, otherwise as "make test" compiles the tests that have it: with -trimpath, say, all would be compiled once more.
func BuildRace(folder, program string) (string, error) {
	return build(folder, program, filepath.Base(program)+"-race", append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS="), "-race", "-buildvcs=false")
}

func build(folder, program, name string, env []string, flags ...string) (string, error) {
	compile := func(path string) error {
		command := exec.Command("go", append(append([]string{"build"}, flags...), "-o", path, "github.com/pgtick/pgtick/"+program)...)
		command.Env = env
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, out)
		}
		return nil
	}
	if path, err := Shared(name, compile); path != "" || err != nil {
		return path, err
	}
	path := filepath.Join(folder, name)
	return path, compile(path)
}

// Shared returns the path of what a run of "make test" makes once for all its packages: name, in the run's folder, made by who wants it first.
// Outside such a run it returns "".
func Shared(name string, fill func(path string) error) (string, error) {
	folder := os.Getenv(FolderEnv)
	if folder == "" {
		return "", nil
	}
	path := filepath.Join(folder, name)
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := fill(path); err != nil {
		return "", errors.Join(err, os.RemoveAll(path))
	}
	return path, nil
}

// lock keeps packages, which are processes, from building the same at once.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FolderEnv, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}
