package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/web"
)

// A runner answers from memory, so one that takes longer is not well. Container tools give a check some seconds in all.
const healthTimeout = 3 * time.Second

// health is what is printed, keys included.
type health struct {
	Check  string `json:"check"`  // alive or ready
	Status string `json:"status"` // ok or fail
	URL    string `json:"url"`
	Runner string `json:"runner,omitempty"`
	Why    string `json:"why,omitempty"`
}

func healthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the runner beside this whether it is well; exit 0 when it is (for containers)",
		Long: `Ask the runner that serves health at --http, and exit 0 when it is well, 1 when it is not or does not answer. Well means that it turns:
a database that is down makes no runner unwell, since to start it again would help nobody. With --ready: that it can run jobs now.

Only that one address is asked. A runner that finds its port taken moves to the next free one, so give each of several runners on one
machine a port of its own; with --name (or PGTICK_NAME) an answer of another runner counts as none.`,
		Example: "  pgtick health\n  pgtick health --http 127.0.0.1:8641 --name mail-2",
	}
	asJSON := jsonFlag(cmd)
	ready := cmd.Flags().Bool("ready", false, "whether it can run jobs now: registered, not stopping, the database answers")
	settings(cmd, "http", "name")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load(cmd, "http", "name")
		if err != nil {
			return err
		}
		host, err := healthHost(cfg.HTTP)
		if err != nil {
			return usageError{err}
		}
		name := ""
		if cmd.Flags().Changed("name") || os.Getenv("PGTICK_NAME") != "" {
			name = cfg.Name // what it is by default says little: all runners of a machine have that
		}
		return sayHealth(cmd.OutOrStdout(), askHealth(cmd.Context(), host, name, *ready), *asJSON)
	}
	return cmd
}

// healthHost is where to ask for what a runner serves at addr. One that serves at every address of the machine is asked at the loopback.
func healthHost(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", errors.New("PGTICK_HTTP (or --http) is off: this runner serves no health; give it an address such as 127.0.0.1:8640")
	}
	if port == "0" {
		return "", errors.New("PGTICK_HTTP (or --http) has port 0, which is another one each time: give the runner a fixed one")
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = map[bool]string{true: "::1", false: "127.0.0.1"}[ip.Is6()]
	}
	return net.JoinHostPort(host, port), nil
}

func askHealth(ctx context.Context, host, name string, ready bool) health {
	h := health{Check: "alive", Status: "ok", URL: "http://" + host + "/healthz"}
	if ready {
		h.Check, h.URL = "ready", "http://"+host+"/readyz"
	}
	if err := h.ask(ctx, host, name); err != nil {
		h.Status, h.Why = "fail", err.Error()
	}
	return h
}

func (h *health) ask(ctx context.Context, host, name string) error {
	ctx, end := context.WithTimeout(ctx, healthTimeout)
	defer end()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return fmt.Errorf("%s is no address to ask at: %w", host, err)
	}
	// What the environment says of proxies is not meant for this, and a runner sends nobody elsewhere.
	client := http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("no runner answers: %w", errors.Unwrap(err))
	}
	defer func() { _ = answer.Body.Close() }()
	h.Runner, _ = url.PathUnescape(answer.Header.Get(web.RunnerHeader))
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1000))
	switch {
	case h.Runner == "":
		return errors.New("what answers is no runner of pgtick; one that found the port taken has moved to the next free one and said so in its log")
	case name != "" && h.Runner != name:
		return fmt.Errorf("runner %s answers, not %s: give each runner of this machine a port of its own", h.Runner, name)
	case err != nil:
		return fmt.Errorf("its answer breaks off: %w", err)
	case answer.StatusCode != http.StatusOK:
		return errors.New(cmp.Or(strings.TrimSpace(string(text)), answer.Status))
	}
	return nil
}

func sayHealth(out io.Writer, h health, asJSON bool) error {
	if asJSON {
		if err := printJSON(out, h); err != nil {
			return err
		}
	} else if h.Why == "" {
		_, _ = fmt.Fprintf(out, "runner %s is %s\n", h.Runner, map[string]string{"alive": "well", "ready": "ready"}[h.Check])
	}
	if h.Why != "" {
		return fmt.Errorf("%s: %s", h.URL, h.Why)
	}
	return nil
}
