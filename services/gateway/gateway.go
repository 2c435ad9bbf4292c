// Invochain-gateway serves the gRPC contract of InvoChain as REST with JSON: headers.go says what reaches a service,
// json.go and inspect.go what a body must be, errors.go how a refusal is told.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"

	inventoryv1 "invochain/gateway/gen/invochain/api/inventory/v1"
	invoicev1 "invochain/gateway/gen/invochain/api/invoice/v1"
	merchantv1 "invochain/gateway/gen/invochain/api/merchant/v1"
	operatorv1 "invochain/gateway/gen/invochain/api/operator/v1"
)

// A body may be as large as a message of gRPC (API section 9).
const bodyBytesMax = 4 << 20

// Paths that the gateway answers itself.
var ownPaths = map[string]bool{"/healthz": true, "/readyz": true, "/metrics": true, "/openapi.json": true, "/docs": true}

// A gateway answers HTTP requests by calling the services.
type gateway struct {
	settings  Settings
	backends  []*backend
	mux       *runtime.ServeMux
	meters    *meters
	scrape    http.Handler
	log       *slog.Logger
	ip, auth  *limiter
	slots     chan struct{}
	reference *reference
	// Set when the process was told to stop: /readyz says so, while requests are still answered.
	draining atomic.Bool
}

// newGateway builds the gateway; nothing is called yet.
func newGateway(settings Settings, log *slog.Logger) (*gateway, error) {
	g := &gateway{
		settings: settings, log: log, meters: newMeters(),
		ip:    newLimiter("ip", settings.IPLimit, time.Now),
		auth:  newLimiter("auth", settings.AuthLimit, time.Now),
		slots: make(chan struct{}, settings.InFlightMax),
	}
	g.scrape = promhttp.HandlerFor(g.meters.registry, promhttp.HandlerOpts{})
	var err error
	if g.reference, err = newReference(); err != nil {
		return nil, err
	}
	g.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, codec{}),
		runtime.WithIncomingHeaderMatcher(nothingMatches),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		runtime.WithOutgoingTrailerMatcher(nothingMatches),
		runtime.WithForwardResponseOption(describe),
		runtime.WithErrorHandler(answerError),
		runtime.WithRoutingErrorHandler(answerLost),
		runtime.WithMiddlewares(g.admit),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
	)
	secure, err := settings.TLS.forServices()
	if err != nil {
		return nil, err
	}
	for _, room := range []struct {
		name, address string
		register      func(context.Context, *runtime.ServeMux, grpc.ClientConnInterface) error
	}{
		{"merchant", settings.Merchant, func(ctx context.Context, mux *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return merchantv1.RegisterMerchantServiceHandlerClient(ctx, mux, merchantv1.NewMerchantServiceClient(c))
		}},
		{"inventory", settings.Inventory, func(ctx context.Context, mux *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return inventoryv1.RegisterInventoryServiceHandlerClient(ctx, mux, inventoryv1.NewInventoryServiceClient(c))
		}},
		{"invoice", settings.Invoice, func(ctx context.Context, mux *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return invoicev1.RegisterInvoiceServiceHandlerClient(ctx, mux, invoicev1.NewInvoiceServiceClient(c))
		}},
	} {
		b, err := dial(room.name, room.address, secure, settings.Connections)
		if err != nil {
			g.close()
			return nil, err
		}
		g.backends = append(g.backends, b)
		if err := room.register(context.Background(), g.mux, b); err != nil {
			g.close()
			return nil, err
		}
	}
	rooms := operatorv1.NewOperatorServiceClient(byRoom(g.backends))
	if err := operatorv1.RegisterOperatorServiceHandlerClient(context.Background(), g.mux, rooms); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *gateway) close() {
	for _, b := range g.backends {
		b.close()
	}
}

// ServeHTTP answers one request: own paths at once, all others by a service.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := newExchange(r, g.settings.TrustedProxies)
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	noted := &recorder{ResponseWriter: w}
	defer g.finish(noted, r, x)
	x.secure(noted.Header())
	if g.own(noted, r) {
		return
	}
	if !g.within(g.ip, noted, r) {
		return
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		p := refuse("BULKHEAD_FULL", "%d requests are under way already; repeat later", g.settings.InFlightMax)
		p.retryAfter = time.Second
		p.write(noted, r)
		return
	}
	g.meters.inFlight.Inc()
	defer g.meters.inFlight.Dec()
	ctx, cancel := context.WithTimeout(r.Context(), g.settings.Deadline)
	defer cancel()
	r = r.WithContext(ctx)
	g.mux.ServeHTTP(noted, r)
}

// own answers the gateway's own paths.
func (g *gateway) own(w http.ResponseWriter, r *http.Request) bool {
	path := r.URL.Path
	isProblem := strings.HasPrefix(path, "/problems/")
	if !ownPaths[path] && !isProblem || path == "/metrics" && g.settings.MetricsAddress != "" {
		return false
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		p := refuse("METHOD_NOT_FOUND", "%s is not a method of this path; wanted: GET, HEAD", r.Method)
		p.Status = http.StatusMethodNotAllowed
		p.write(w, r)
		return true
	}
	switch {
	case path == "/healthz":
		answerJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	case path == "/readyz":
		g.ready(w, r)
	case path == "/metrics":
		g.scrape.ServeHTTP(w, r)
	case isProblem:
		return g.reference.problem(w, strings.TrimPrefix(path, "/problems/"))
	default:
		g.reference.serve(w, r)
	}
	return true
}

// ready says whether requests can be served: all services say SERVING, and this process is not stopping.
func (g *gateway) ready(w http.ResponseWriter, r *http.Request) {
	states := make([]string, len(g.backends))
	var group sync.WaitGroup
	for i, b := range g.backends {
		group.Go(func() { states[i] = b.state(r.Context()) })
	}
	group.Wait()
	answer := struct {
		Status   string            `json:"status"`
		Services map[string]string `json:"services"`
	}{"ready", map[string]string{}}
	code := http.StatusOK
	for i, b := range g.backends {
		answer.Services[b.name] = states[i]
		if states[i] != "SERVING" {
			answer.Status, code = "not ready", http.StatusServiceUnavailable
		}
	}
	if g.draining.Load() {
		answer.Status, code = "stopping", http.StatusServiceUnavailable
	}
	answerJSON(w, code, answer)
}

func answerJSON(w http.ResponseWriter, status int, answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		panic(err) // texts only
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has gone reads nothing
}

// within counts the request against a limit and says in the headers what is left; it refuses what is over it.
func (g *gateway) within(l *limiter, w http.ResponseWriter, r *http.Request) bool {
	if l == nil {
		return true
	}
	v := l.take(exchangeOf(r.Context()).client)
	w.Header().Add("RateLimit-Policy", l.policy())
	w.Header().Add("RateLimit", l.state(v))
	if v.pass {
		return true
	}
	g.meters.rateLimited.WithLabelValues(l.name).Inc()
	p := refuse("RATE_LIMITED", "more than %d requests in %s from this address; repeat after Retry-After", l.quota.Requests, l.quota.Window)
	p.retryAfter = v.retryAfter
	p.write(w, r)
	return false
}

// admit stands before every method: it takes the headers, the query and the body, or refuses them, and passes on a
// request that carries nothing else.
func (g *gateway) admit(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, inPath map[string]string) {
		x := exchangeOf(r.Context())
		pattern, _ := runtime.HTTPPattern(r.Context())
		x.route = routeByKey[r.Method+" "+pattern.String()]
		if x.route.open && !g.within(g.auth, w, r) {
			return
		}
		if refusal := x.admit(r.Header); refusal != nil {
			refusal.write(w, r)
			return
		}
		if refusal := inspectQuery(r.URL.RawQuery, x.route); refusal != nil {
			refusal.write(w, r)
			return
		}
		body, refusal := readBody(w, r, x.route)
		if refusal != nil {
			refusal.write(w, r)
			return
		}
		if x.route.template == "/.well-known/jwks.json" {
			w.Header().Set("Cache-Control", "public, max-age=300")
		}
		clean := r.WithContext(r.Context())
		clean.Header, clean.RemoteAddr, clean.Host = http.Header{}, "", ""
		clean.Body = io.NopCloser(bytes.NewReader(body))
		next(w, clean, inPath)
	}
}

// readBody reads and inspects the body of a request.
func readBody(w http.ResponseWriter, r *http.Request, on *route) ([]byte, *problem) {
	tooLarge := func() *problem {
		w.Header().Set("Connection", "close") // the rest of it is not read
		return refuse("MESSAGE_TOO_LARGE", "the body is too large; wanted: at most %d bytes", bodyBytesMax)
	}
	if r.ContentLength > bodyBytesMax {
		return nil, tooLarge()
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge()
	case err != nil:
		return nil, refuse("MALFORMED_REQUEST", "the body did not arrive whole")
	case len(body) == 0:
		return nil, nil
	case on.bodyType == nil:
		return nil, refuse("MALFORMED_REQUEST", "this method takes no body")
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if encodings := r.Header.Get("Content-Encoding"); encodings != "" && encodings != "identity" {
		p := refuse("MALFORMED_REQUEST", "the body has Content-Encoding %q; wanted: none", encodings)
		p.Status = http.StatusUnsupportedMediaType
		return nil, p
	}
	if r.Header.Get("Content-Type") != "" && (err != nil || kind != "application/json") {
		p := refuse("MALFORMED_REQUEST", "the body has Content-Type %q; wanted: application/json", r.Header.Get("Content-Type"))
		p.Status = http.StatusUnsupportedMediaType
		return nil, p
	}
	return body, inspect(body, on.bodyType)
}
