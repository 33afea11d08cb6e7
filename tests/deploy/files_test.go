package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/pgtick/pgtick/runner/config"
)

// Docker and Fly do not run here. What can be seen without them: the files are whole, and name nothing that does not exist.

var ourSettings = regexp.MustCompile(`\b(PGTICK_[A-Z_]+|(LISTEN_)?DATABASE_URL|REDIS_URL)\b`)

func TestFiles_NameSettingsThatExist(t *testing.T) {
	t.Parallel()
	var known []string
	for _, s := range config.Table() {
		known = append(known, s.Env)
	}
	files, err := filepath.Glob(filepath.Join(root(t), "deploy", "*"))
	require.NoError(t, err)
	require.Greater(t, len(files), 5)
	named := 0
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.IsDir() { // the dashboard of Grafana, which knows no settings
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, name := range ourSettings.FindAllString(string(text), -1) {
			require.Contains(t, known, name, file)
			named++
		}
	}
	require.Greater(t, named, 10)
}

// requireCommand runs a command line of a file with --help behind it: a verb or flag that does not exist is refused.
func requireCommand(t *testing.T, where string, args ...string) {
	t.Helper()
	out, talk, code := call(t, program(t), nil, append(slices.Clone(args), "--help")...)
	require.Zero(t, code, "%s: pgtick %s: %s", where, strings.Join(args, " "), talk)
	require.Contains(t, out, "pgtick "+args[0], where)
}

func TestDockerfile_EndsInAnEmptyImage_WithoutRoot_ThatChecksItself(t *testing.T) {
	t.Parallel()
	text := strings.ReplaceAll(deployFile(t, "Dockerfile"), "\\\n", "")
	steps := map[string][]string{}
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "FROM" {
			base := steps["FROM"]
			steps = map[string][]string{"FROM": append(base, rest)} // what counts is the last stage
			continue
		}
		steps[word] = append(steps[word], rest)
	}
	require.Len(t, steps["FROM"], 2)
	require.Equal(t, "scratch", steps["FROM"][1])
	require.Regexp(t, `^[1-9][0-9]*:[1-9][0-9]*$`, steps["USER"][0], "a number, since there is no list of users")
	require.NotContains(t, steps, "RUN", "nothing is there that could")
	wanted := regexp.MustCompile(`(?m)^go (1\.[0-9]+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	require.Contains(t, steps["FROM"][0], "golang:"+wanted+"-", "the Go of go.mod")
	require.Contains(t, text, "-X github.com/pgtick/pgtick/runner/cli.version=")

	var health, entry, command []string
	_, check, _ := strings.Cut(steps["HEALTHCHECK"][0], " CMD ")
	require.NoError(t, json.Unmarshal([]byte(check), &health))
	require.NoError(t, json.Unmarshal([]byte(steps["ENTRYPOINT"][0]), &entry))
	require.NoError(t, json.Unmarshal([]byte(steps["CMD"][0]), &command))
	require.Equal(t, []string{"/pgtick"}, entry)
	require.Equal(t, "/pgtick", health[0])
	requireCommand(t, "HEALTHCHECK", health[1:]...)
	requireCommand(t, "CMD", command...)
	for _, from := range steps["COPY"] {
		require.Contains(t, from, "--from=build ")
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), name))
	require.NoError(t, err)
	return string(text)
}

type composeFile struct {
	Services map[string]struct {
		Command         []string
		Environment     map[string]string
		StopGracePeriod string `yaml:"stop_grace_period"`
		Build           struct{ Context, Dockerfile string }
		DependsOn       map[string]struct{ Condition string } `yaml:"depends_on"`
	}
	Networks map[string]struct {
		External bool
		Name     string
	}
}

func TestCompose_IsWhole(t *testing.T) {
	t.Parallel()
	var file composeFile
	require.NoError(t, yaml.Unmarshal([]byte(deployFile(t, "compose.yaml")), &file))
	require.Len(t, file.Services, 2)
	for name, service := range file.Services {
		requireCommand(t, name, service.Command...)
		require.NotEmpty(t, service.Environment["DATABASE_URL"], name)
		require.FileExists(t, filepath.Join(root(t), "deploy", service.Build.Context, service.Build.Dockerfile))
		for other := range service.DependsOn {
			require.Contains(t, file.Services, other)
		}
	}
	requireLongerThanAStop(t, file.Services["runner"].StopGracePeriod)
	require.True(t, file.Networks["supabase"].External)
}

// requireLongerThanAStop: the grace by default, 5 s for what is cancelled after it, 5 s for the last reports.
func requireLongerThanAStop(t *testing.T, text string) {
	t.Helper()
	patience, err := time.ParseDuration(text)
	require.NoError(t, err)
	for _, s := range config.Table() {
		if s.Flag == "grace" {
			grace, err := time.ParseDuration(s.Default)
			require.NoError(t, err)
			require.Greater(t, patience, grace+10*time.Second)
		}
	}
}

// The tests need Python anyway, and its library reads TOML.
func TestFly_IsWhole(t *testing.T) {
	t.Parallel()
	text := output(t, exec.CommandContext(t.Context(), "python3", "-c", "import json, sys, tomllib; json.dump(tomllib.load(open(sys.argv[1], 'rb')), sys.stdout)",
		filepath.Join(root(t), "deploy", "fly.toml")))
	var file struct {
		KillSignal  string `json:"kill_signal"`
		KillTimeout int    `json:"kill_timeout"`
		Env         map[string]string
		Processes   map[string]string
		Checks      map[string]struct {
			Port int
			Path string
		}
		Metrics struct {
			Port int
			Path string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &file))
	require.Equal(t, "SIGTERM", file.KillSignal)
	requireLongerThanAStop(t, (time.Duration(file.KillTimeout) * time.Second).String())
	for name, command := range file.Processes {
		requireCommand(t, name, strings.Fields(command)...)
	}
	require.Equal(t, "[::]:8640", file.Env["PGTICK_HTTP"])
	require.Equal(t, 8640, file.Checks["alive"].Port)
	require.Equal(t, "/healthz", file.Checks["alive"].Path)
	require.Equal(t, 8640, file.Metrics.Port)
	require.Equal(t, "/metrics", file.Metrics.Path)
}

// systemd itself judges the unit, without running.
func TestUnit_IsUnderstood_AndExposesLittle(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	require.NoError(t, err, "systemd-analyze is missing; as root: apt-get update && apt-get install -y --no-install-recommends systemd")
	unit := filepath.Join(root(t), "deploy", "pgtick.service")
	// In tenths: the threshold counts from 0 to 100.
	said, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=15", unit).CombinedOutput()
	require.NoError(t, err, string(said))
	require.Contains(t, string(said), "Overall exposure level for pgtick.service: 1.")

	text := deployFile(t, "pgtick.service")
	require.Contains(t, text, "ExecStart=/usr/local/bin/pgtick work\n")
	requireLongerThanAStop(t, regexp.MustCompile(`(?m)^TimeoutStopSec=(.*)$`).FindStringSubmatch(text)[1])
	requireCommand(t, "ExecStart", "work")
	installed := filepath.Join(t.TempDir(), "pgtick.service") // with a program that is there
	require.NoError(t, os.WriteFile(installed, []byte(strings.ReplaceAll(text, "/usr/local/bin/pgtick", program(t))), 0o600))
	said, err = exec.CommandContext(t.Context(), analyze, "verify", installed).CombinedOutput()
	require.NoError(t, err, string(said))
	require.Empty(t, string(said))
}
