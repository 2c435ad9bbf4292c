package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// An exchange is one request and its answer: who asks, how it is traced, what the services are told of it.
type exchange struct {
	started   time.Time
	requestID string
	// W3C trace context: the trace goes on, this hop is a span of its own.
	traceID, spanID, traceFlags string
	client                      netip.Addr
	// First 12 hex digits of the SHA-256 of the idempotency key, as the services log it: finds a request in the logs without telling the key.
	keyHash string
	// Nil until the path was matched.
	route *route
	// All metadata that the services get. Nothing else a client sent reaches them.
	metadata metadata.MD
	// Reason of the refusal, for the log.
	reason string
}

type exchangeKey struct{}

// exchangeOf is the exchange a context belongs to. Every request has one before it is routed.
func exchangeOf(ctx context.Context) *exchange {
	return ctx.Value(exchangeKey{}).(*exchange)
}

const (
	// How long a service may wait for the first call with the same key (PROTOCOL 7).
	keyWaitMilliseconds = "2000"
	// Longer ones are not ours: an access token has about 600 bytes, and the services take 16 KiB of metadata in all.
	authorizationBytesMax = 4096
	// W3C trace context, section 3.3.1.5: at least 512 are to be passed on.
	traceStateBytesMax = 512
	languageBytesMax   = 256
	etagBytesMax       = 128
	tokenBytesMax      = 256
)

var (
	requestIDGrammar = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)
	keyGrammar       = regexp.MustCompile(`^[A-Za-z0-9._:~-]{16,128}$`)
	traceGrammar     = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$`)
)

// newExchange opens an exchange: request id, trace and caller's address, known before anything can be refused.
func newExchange(r *http.Request, trusted []netip.Prefix) *exchange {
	x := &exchange{started: time.Now(), requestID: r.Header.Get("X-Request-Id"), client: clientOf(r, trusted), metadata: metadata.MD{}}
	if !requestIDGrammar.MatchString(x.requestID) {
		x.requestID = uuid.Must(uuid.NewV7()).String()
	}
	x.followTrace(r.Header)
	x.metadata.Set("x-request-id", x.requestID)
	x.metadata.Set("traceparent", "00-"+x.traceID+"-"+x.spanID+"-"+x.traceFlags)
	x.metadata.Set("x-forwarded-client-ip", x.client.String())
	x.metadata.Set("x-idempotency-wait-ms", keyWaitMilliseconds)
	return x
}

// followTrace continues the caller's trace, or starts one (W3C trace context, level 1).
func (x *exchange) followTrace(header http.Header) {
	x.spanID = randomHex(8)
	parents := header.Values("traceparent")
	if len(parents) == 1 {
		found := traceGrammar.FindStringSubmatch(parents[0])
		valid := found != nil && found[1] != "ff" && (found[1] != "00" || found[5] == "") &&
			strings.Trim(found[2], "0") != "" && strings.Trim(found[3], "0") != ""
		if valid {
			x.traceID, x.traceFlags = found[2], found[4]
			state := strings.Join(header.Values("tracestate"), ",")
			if state != "" && printable(state, traceStateBytesMax) {
				x.metadata.Set("tracestate", state)
			}
			return
		}
	}
	x.traceID, x.traceFlags = randomHex(16), "01"
}

func randomHex(bytes int) string {
	raw := make([]byte, bytes)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return hex.EncodeToString(raw)
}

// clientOf is the caller's address: the peer, or, behind trusted proxies, the last address they did not add themselves.
func clientOf(r *http.Request, trusted []netip.Prefix) netip.Addr {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	client, err := netip.ParseAddr(host)
	if err != nil {
		return netip.IPv4Unspecified() // not an IP connection
	}
	client = client.Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && contains(trusted, client); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = hop.Unmap().WithZone("")
	}
	return client
}

func contains(prefixes []netip.Prefix, address netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// printable tells whether gRPC takes a text as the value of a metadatum: visible ASCII and spaces.
func printable(value string, most int) bool {
	for i := range len(value) {
		if value[i] < 0x20 || value[i] > 0x7e {
			return false
		}
	}
	return len(value) <= most
}

// admit reads the headers that a method takes into the metadata of the exchange; all others are dropped, the client's
// Grpc-Metadata-*, Grpc-Timeout and X-Forwarded-For among them.
func (x *exchange) admit(header http.Header) *problem {
	switch tokens := header.Values("Authorization"); {
	case len(tokens) > 1:
		return refuse("TOKEN_INVALID", "Authorization was sent %d times; wanted: once", len(tokens))
	case len(tokens) == 1 && !printable(tokens[0], authorizationBytesMax):
		return refuse("TOKEN_INVALID", "Authorization is not `Bearer` and an access token of ours")
	case len(tokens) == 1:
		x.metadata.Set("authorization", tokens[0])
	}
	if !x.route.read() {
		if refusal := x.admitKey(header.Values("Idempotency-Key")); refusal != nil {
			return refusal
		}
		if refusal := x.admitEtag(header.Values("If-Match")); refusal != nil {
			return refusal
		}
	}
	if language := header.Get("Accept-Language"); language != "" && printable(language, languageBytesMax) {
		x.metadata.Set("accept-language", language)
	}
	if token := header.Get("X-Consistency-Token"); token != "" && printable(token, tokenBytesMax) {
		x.metadata.Set("x-consistency-token", token)
	}
	return nil
}

// admitKey takes the idempotency key, plain or as the quoted string of the IETF draft. A missing one is for the service
// to refuse, which knows whether the method needs it.
func (x *exchange) admitKey(keys []string) *problem {
	if len(keys) == 0 {
		return nil
	}
	if len(keys) > 1 {
		return refuse("IDEMPOTENCY_KEY_INVALID", "Idempotency-Key was sent %d times; wanted: once, on one line", len(keys))
	}
	key := strings.TrimSpace(keys[0])
	if len(key) >= 2 && strings.HasPrefix(key, `"`) && strings.HasSuffix(key, `"`) {
		key = key[1 : len(key)-1]
	}
	if !keyGrammar.MatchString(key) {
		return refuse("IDEMPOTENCY_KEY_INVALID",
			"Idempotency-Key has %d characters or one outside [A-Za-z0-9._:~-]; wanted: 16 to 128 of those", len(key))
	}
	hash := sha256.Sum256([]byte(key))
	x.keyHash = hex.EncodeToString(hash[:6])
	x.metadata.Set("idempotency-key", key)
	return nil
}

// admitEtag takes one etag of If-Match; `*` asks for nothing, since a resource that is not there is refused anyway.
func (x *exchange) admitEtag(etags []string) *problem {
	if len(etags) == 0 {
		return nil
	}
	etag := strings.TrimPrefix(strings.TrimSpace(etags[0]), "W/")
	if len(etags) > 1 || strings.Contains(etag, ",") || !printable(etag, etagBytesMax) {
		return refuse("MALFORMED_REQUEST", "If-Match holds more than one etag or none of ours; wanted: the ETag of one answer")
	}
	if etag = strings.Trim(etag, `"`); etag != "" && etag != "*" {
		x.metadata.Set("if-match", etag)
	}
	return nil
}

// Response metadata that become headers; every other one stays inside.
var outgoing = map[string]string{
	"x-idempotent-replayed": "X-Idempotent-Replayed",
	"x-consistency-token":   "X-Consistency-Token",
	"x-as-of":               "X-As-Of",
}

func outgoingHeader(name string) (string, bool) {
	header, ok := outgoing[name]
	return header, ok
}

func nothingMatches(string) (string, bool) { return "", false }

// describe sets what the answer itself says in headers: ETag, and Location with 201 for what was made. A replay says
// the same as the first answer.
func describe(ctx context.Context, w http.ResponseWriter, answer proto.Message) error {
	x := exchangeOf(ctx)
	fields := answer.ProtoReflect()
	if etag := fields.Descriptor().Fields().ByName("etag"); etag != nil && etag.Kind() == protoreflect.StringKind {
		if value := fields.Get(etag).String(); value != "" {
			w.Header().Set("ETag", `"`+value+`"`)
		}
	}
	if x.route.location == nil {
		return nil
	}
	if place := x.route.location(answer); place != "" {
		w.Header().Set("Location", place)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// secure sets the headers of every answer: no sniffing, no framing, no caching of what belongs to one caller.
func (x *exchange) secure(header http.Header) {
	header.Set("X-Request-Id", x.requestID)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	header.Set("Cache-Control", "no-store")
}
