package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc/grpclog"
)

// Limits of a connection. A client that dribbles is cut off, whatever it dribbles.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	idleTimeout       = 120 * time.Second
	headerBytesMax    = 16 << 10
)

func main() {
	settings, err := ReadSettings(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := newLog(os.Stdout)
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(discard{}, discard{}, discard{})) // its lines are not JSON; what matters is answered
	if err := run(ctx, settings, log, nil); err != nil {
		log.Error("stopped", "reason", err.Error())
		os.Exit(1)
	}
}

type discard struct{}

func (discard) Write(text []byte) (int, error) { return len(text), nil }

// run serves until ctx ends, then drains: /readyz says 503, after DrainDelay no connection is taken any more, and what is
// under way has the rest of Drain. listening, if given, is told the addresses once they are open.
func run(ctx context.Context, settings Settings, log *slog.Logger, listening func(rest, metrics net.Addr)) error {
	g, err := newGateway(settings, log)
	if err != nil {
		return err
	}
	defer g.close()
	// Answers take a deadline at most, after a body that took readTimeout at most.
	rest := newServer(g, readTimeout+settings.Deadline+5*time.Second)
	secure, err := settings.TLS.forClients()
	if err != nil {
		return err
	}
	door, err := net.Listen("tcp", settings.Address)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	rest.TLSConfig = secure
	go func() {
		if secure != nil {
			failed <- rest.ServeTLS(door, "", "")
			return
		}
		failed <- rest.Serve(door)
	}()
	defer rest.Close()

	metricsAddress := door.Addr()
	if settings.MetricsAddress != "" {
		metrics := newServer(g.operations(), 30*time.Second)
		second, err := net.Listen("tcp", settings.MetricsAddress)
		if err != nil {
			return err
		}
		metricsAddress = second.Addr()
		go func() { failed <- metrics.Serve(second) }()
		// Closed last: while the gateway drains, its metrics and readiness can still be read.
		defer metrics.Close()
	}
	log.Info("serving", "address", door.Addr().String(), "metrics_address", metricsAddress.String())
	if listening != nil {
		listening(door.Addr(), metricsAddress)
	}

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	g.draining.Store(true)
	log.Info("draining", "within_s", settings.Drain.Seconds())
	rest.SetKeepAlivesEnabled(false)
	last, cancel := context.WithTimeout(context.Background(), settings.Drain)
	defer cancel()
	if settings.DrainDelay > 0 {
		select {
		case err := <-failed:
			return err
		case <-time.After(settings.DrainDelay):
		}
	}
	if err := rest.Shutdown(last); err != nil {
		return fmt.Errorf("requests were still under way after %s: %w", settings.Drain, err)
	}
	log.Info("drained")
	return nil
}

func newServer(handler http.Handler, writeTimeout time.Duration) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytesMax,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // says what strangers sent
	}
}

// operations serves what operators read, on a door of its own.
func (g *gateway) operations() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", g.scrape)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", g.ready)
	return mux
}
