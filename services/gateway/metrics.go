package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Answers are promised within 500 ms and aimed at within 25 ms at the 95th percentile; the deadline is 5 s.
var latencyBuckets = []float64{0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5}

// Metrics of the gateway. Labels are bounded: routes are templates, methods those of the contract.
type meters struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	inFlight    prometheus.Gauge
	rateLimited *prometheus.CounterVec
}

func newMeters() *meters {
	m := &meters{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests answered, by method, route and status",
		}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Requests from arrival to answer", Buckets: latencyBuckets,
		}, []string{"method", "route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "http_requests_in_flight", Help: "Requests under way",
		}),
		rateLimited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rate_limit_exceeded_total", Help: "Calls refused by a rate limit",
		}, []string{"scope"}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.inFlight, m.rateLimited,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// newLog writes one JSON line an event, with the field names that the services use too.
func newLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) > 0:
		case a.Key == slog.MessageKey:
			a.Key = "event"
		case a.Key == slog.LevelKey:
			a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
		case a.Key == slog.TimeKey:
			a.Value = slog.StringValue(a.Value.Time().UTC().Format("2006-01-02T15:04:05.000000Z"))
		}
		return a
	}})).With("process", "gateway")
}

// A recorder notes the status and size of an answer on its way.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(text []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(text)
	r.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// finish counts and logs a request that was answered. The path is not logged, since it may carry a GSTIN (the SKU of
// goods received does); the route is.
func (g *gateway) finish(w *recorder, r *http.Request, x *exchange) {
	if defect := recover(); defect != nil {
		if defect == http.ErrAbortHandler {
			panic(defect)
		}
		// The value of a panic may hold a request; where it came from does not.
		g.log.Error("panic", "trace_id", x.traceID, "request_id", x.requestID, "stack", string(debug.Stack()))
		if w.status == 0 {
			refuse("INTERNAL", "internal error; request_id finds the log line").write(w, r)
		}
	}
	method, name := "other", "none"
	switch {
	case x.route != nil:
		method, name = x.route.method, x.route.template
	case ownPaths[r.URL.Path]:
		method, name = http.MethodGet, r.URL.Path
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	took := time.Since(x.started)
	g.meters.requests.WithLabelValues(method, name, strconv.Itoa(w.status)).Inc()
	g.meters.seconds.WithLabelValues(method, name).Observe(took.Seconds())
	if x.route == nil && ownPaths[r.URL.Path] && w.status < http.StatusBadRequest {
		return // probes and scrapes, several a second
	}
	level := slog.LevelInfo
	if w.status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	fields := []slog.Attr{
		slog.String("trace_id", x.traceID), slog.String("span_id", x.spanID), slog.String("request_id", x.requestID),
		slog.String("method", method), slog.String("route", name), slog.Int("status", w.status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000), slog.Int("bytes", w.bytes),
	}
	if x.keyHash != "" {
		fields = append(fields, slog.String("key", x.keyHash))
	}
	if x.reason != "" {
		fields = append(fields, slog.String("reason", x.reason))
	}
	g.log.LogAttrs(context.Background(), level, "request", fields...)
}
