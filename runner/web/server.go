// Package web serves a runner's health and metrics over HTTP, from memory alone, and the dashboard.
//
// Of the dashboard: nothing that a page shows comes from a statement that can write, or that reads more than it shows. What ten browsers watch
// costs the database no more than what one does. Only operators act, each action leaves a row in pgtick.audit, and no page runs a script or
// loads a file but those embedded here.
package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/engine"
)

// RunnerHeader goes with each answer and holds the runner's name, so that who asks knows whether it is a runner that answers, and which.
const RunnerHeader = "Pgtick-Runner"

// Server serves /healthz, /readyz and /metrics, and the dashboard if there is one.
type Server struct {
	http      *http.Server
	listener  net.Listener
	dashboard *Dashboard
}

// Engine is one that a runner has, for each database one.
type Engine struct {
	Database string // its address, or nothing where there is only one
	Status   func() engine.Status
}

// Start listens on addr, or, when its port is taken, on the next free one of the hundred after it, with a warning. name is the runner's. The
// dashboard, which may be nil, is closed by Stop.
func Start(addr, name string, engines []Engine, lease time.Duration, metrics prometheus.Gatherer, dashboard *Dashboard, log *logrus.Logger) (*Server, error) {
	listener, err := listen(addr, log)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", answer(of(engines, alive, lease)))
	mux.HandleFunc("GET /readyz", answer(of(engines, ready, lease)))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	if dashboard != nil {
		mux.Handle("/", dashboard)
	}
	s := &Server{listener: listener, dashboard: dashboard, http: &http.Server{Handler: named(name, mux), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}}
	go func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.WithError(err).Error("the HTTP server stopped")
		}
	}()
	return s, nil
}

func named(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(RunnerHeader, url.PathEscape(name))
		next.ServeHTTP(w, r)
	})
}

// URL is where it serves.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Stop ends it, letting running requests end within a second.
func (s *Server) Stop() {
	if s.dashboard != nil {
		s.dashboard.leave() // the streams, which would not end by themselves
		defer s.dashboard.Close()
	}
	ctx, end := context.WithTimeout(context.Background(), time.Second)
	defer end()
	_ = s.http.Shutdown(ctx)
}

func listen(addr string, log *logrus.Logger) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
		return listener, err
	}
	host, portText, _ := net.SplitHostPort(addr)
	port, convErr := strconv.Atoi(portText)
	if convErr != nil {
		return nil, err
	}
	for next := port + 1; next <= port+100; next++ {
		listener, nextErr := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(next)))
		if nextErr == nil {
			log.Warnf("port %d is taken; health and metrics are at http://%s", port, listener.Addr())
			return listener, nil
		}
	}
	return nil, err
}

func answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}

// of is a check of all engines: each that is not well is named.
func of(engines []Engine, check func(engine.Status, time.Duration) error, lease time.Duration) func() error {
	return func() error {
		var all []error
		for _, e := range engines {
			err := check(e.Status(), lease)
			if err != nil && e.Database != "" {
				err = fmt.Errorf("%s: %w", e.Database, err)
			}
			all = append(all, err)
		}
		return errors.Join(all...)
	}
}

// alive: the control loop turns. A database that is down does not make a runner dead; restarting it would help nobody.
func alive(s engine.Status, lease time.Duration) error {
	if s.LastTurn.IsZero() {
		return errors.New("starting")
	}
	if quiet := time.Since(s.LastTurn); quiet > max(2*lease, 30*time.Second) {
		return fmt.Errorf("the control loop has not turned for %s", quiet.Round(time.Second))
	}
	return nil
}

// ready: it can run jobs now.
func ready(s engine.Status, lease time.Duration) error {
	switch quiet := time.Since(s.LastContact); {
	case s.Stopping:
		return errors.New("stopping")
	case s.RunnerID == 0:
		return errors.New("not registered")
	case quiet > lease:
		return fmt.Errorf("no answer from the database for %s", quiet.Round(time.Second))
	}
	return nil
}
