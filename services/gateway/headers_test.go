package main

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	inventoryv1 "invochain/gateway/gen/invochain/api/inventory/v1"
	invoicev1 "invochain/gateway/gen/invochain/api/invoice/v1"
	merchantv1 "invochain/gateway/gen/invochain/api/merchant/v1"
)

// Only the headers of the allow-list reach a service; all that a client may try to smuggle is dropped.
func TestNothingButTheAllowListReachesAService(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)

	f.ask(t, "POST", "/v1/invoices", "{}",
		"Authorization", "Bearer abc", "Idempotency-Key", aKey, "If-Match", `"7"`, "Accept-Language", "hi",
		"X-Request-Id", "mine-1", "X-Consistency-Token", "0/16B3748",
		"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate", "vendor=1",
		"Grpc-Metadata-Merchant-Id", "other", "Grpc-Metadata-X-Forwarded-For", "6.6.6.6", "Grpc-Timeout", "999H",
		"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Client-Ip", "6.6.6.6", "X-Invochain-Service-Token", "forged",
		"X-Merchant-Id", "other", "X-Idempotency-Wait-Ms", "999999", "Cookie", "a=b", "Te", "trailers", "Forwarded", "for=6.6.6.6")

	got := s.last(t)
	wanted := metadata.Pairs(
		"authorization", "Bearer abc", "idempotency-key", aKey, "if-match", "7", "accept-language", "hi",
		"x-request-id", "mine-1", "x-consistency-token", "0/16B3748", "tracestate", "vendor=1",
		"x-forwarded-client-ip", "127.0.0.1", "x-idempotency-wait-ms", "2000")
	for name, values := range wanted {
		expect(t, name, strings.Join(got.metadata.Get(name), "|"), strings.Join(values, "|"))
	}
	for name := range got.metadata {
		switch name {
		case "traceparent", ":authority", "content-type", "user-agent", "grpc-accept-encoding":
		default:
			if _, ok := wanted[name]; !ok {
				t.Errorf("metadata %s = %v reached the service", name, got.metadata[name])
			}
		}
	}
	for _, timeout := range []string{"garbage", "1n"} {
		expect(t, "status with Grpc-Timeout "+timeout, f.ask(t, "GET", "/v1/stock", "", "Grpc-Timeout", timeout).status, 200)
	}
	if got.deadline <= 0 || got.deadline > 5*time.Second {
		t.Errorf("the deadline is %s; wanted: 5 s at most, whatever Grpc-Timeout says", got.deadline)
	}
}

// A valid trace goes on under a span of the gateway; anything else starts a new one.
func TestTheTraceGoesOnOrStarts(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"

	f.ask(t, "GET", "/v1/stock", "", "traceparent", "00-"+trace+"-00f067aa0ba902b7-00")
	parts := strings.Split(s.last(t).metadata.Get("traceparent")[0], "-")
	expect(t, "trace id", parts[1], trace)
	expect(t, "flags", parts[3], "00")
	if parts[2] == "00f067aa0ba902b7" {
		t.Error("the span of the caller was sent on as the gateway's")
	}

	for _, bad := range []string{
		"", "00-" + trace, "ff-" + trace + "-00f067aa0ba902b7-01", "00-" + trace + "-00f067aa0ba902b7-01-more",
		"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", "00-" + trace + "-0000000000000000-01",
		"00-" + strings.ToUpper(trace) + "-00f067aa0ba902b7-01", "garbage",
	} {
		f.ask(t, "GET", "/v1/stock", "", "traceparent", bad, "tracestate", "vendor=1")
		got := s.last(t).metadata
		found := got.Get("traceparent")
		if len(found) != 1 || !traceGrammar.MatchString(found[0]) || strings.Contains(found[0], trace) {
			t.Errorf("traceparent %q became %v", bad, found)
		}
		if len(got.Get("tracestate")) != 0 {
			t.Errorf("tracestate was kept without its trace %q", bad)
		}
	}
}

// A request id is taken if it is harmless, else made; the answer names it.
func TestTheRequestIDIsTakenOrMade(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)

	expect(t, "id", f.ask(t, "GET", "/v1/stock", "", "X-Request-Id", "order-17").header.Get("X-Request-Id"), "order-17")
	for _, bad := range []string{"", "a b", `{"x":1}`, strings.Repeat("a", 65)} {
		found := f.ask(t, "GET", "/v1/stock", "", "X-Request-Id", bad).header.Get("X-Request-Id")
		if len(found) != 36 {
			t.Errorf("%q became %q; wanted: a UUID", bad, found)
		}
	}
}

// The key comes once, on one line, plain or quoted; what is not a key is refused before a service is asked.
func TestTheIdempotencyKey(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)

	for _, sent := range []string{aKey, `"` + aKey + `"`, "  " + aKey + "  "} {
		f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", sent)
		expect(t, "key", strings.Join(s.last(t).metadata.Get("idempotency-key"), "|"), aKey)
	}
	for _, sent := range []string{"", "short", strings.Repeat("k", 129), "spaces are not allowed", `"` + aKey, aKey + ", " + aKey,
		"ключ-ключ-ключ-ключ", `"` + aKey + `";a=1`, `""`} {
		a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", sent)
		expect(t, "status for "+sent, a.status, 400)
		expect(t, "code for "+sent, a.problem(t).Code, "IDEMPOTENCY_KEY_INVALID")
	}
	a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey, "Idempotency-Key", aKey)
	expect(t, "status of a repeated header", a.status, 400)
	expect(t, "code of a repeated header", a.problem(t).Code, "IDEMPOTENCY_KEY_INVALID")
	expect(t, "calls", s.count(), 0)

	f.ask(t, "GET", "/v1/invoices", "", "Idempotency-Key", "short")
	expect(t, "keys sent on with a read", len(s.last(t).metadata.Get("idempotency-key")), 0)

	s.answer = func(call) (proto.Message, error) {
		return nil, refusal(t, codes.InvalidArgument, "IDEMPOTENCY_KEY_REQUIRED", "metadata idempotency-key is missing")
	}
	a = f.ask(t, "POST", "/v1/invoices", "{}")
	expect(t, "status without a key", a.status, 400)
	expect(t, "code without a key", a.problem(t).Code, "IDEMPOTENCY_KEY_REQUIRED")
}

// A token that comes twice, or is none by its bytes, is refused without asking a service.
func TestTheToken(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)

	for _, sent := range [][]string{
		{"Authorization", "Bearer a", "Authorization", "Bearer b"},
		{"Authorization", "Bearer \u00e9"},
		{"Authorization", "Bearer " + strings.Repeat("x", 5000)},
	} {
		a := f.ask(t, "GET", "/v1/invoices", "", sent...)
		expect(t, "status", a.status, 401)
		expect(t, "code", a.problem(t).Code, "TOKEN_INVALID")
		expect(t, "challenge", a.header.Get("WWW-Authenticate"), `Bearer realm="invochain"`)
	}
	expect(t, "calls", s.count(), 0)
}

// If-Match names one etag, as the ETag header gave it.
func TestIfMatch(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	const path = "/v1/invoices/0199a000-0000-7000-8000-000000000002:accept"

	for sent, wanted := range map[string]string{`"7"`: "7", "7": "7", `W/"7"`: "7", "*": ""} {
		f.ask(t, "POST", path, "{}", "Idempotency-Key", aKey, "If-Match", sent)
		expect(t, "if-match of "+sent, strings.Join(s.last(t).metadata.Get("if-match"), "|"), wanted)
	}
	a := f.ask(t, "POST", path, "{}", "Idempotency-Key", aKey, "If-Match", `"7", "8"`)
	expect(t, "code of two etags", a.problem(t).Code, "MALFORMED_REQUEST")
}

// What is made is answered with 201 and its place; a replay says the same and that it is one; all else is 200.
func TestWhatIsMadeIsCreated(t *testing.T) {
	const id = "0199a000-0000-8000-8000-000000000003"
	s := startServices(t, func(c call) (proto.Message, error) {
		header := metadata.Pairs("x-consistency-token", "0/16B3748", "x-as-of", "2026-11-22T07:30:00.123Z", "x-internal", "secret")
		if c.metadata.Get("idempotency-key")[0] == "the-second-time-around" {
			header.Set("x-idempotent-replayed", "true")
		}
		_ = c.stream.SetHeader(header)
		c.stream.SetTrailer(metadata.Pairs("x-trailing", "secret"))
		switch c.method {
		case "CreateInvoice", "AcceptInvoice":
			return &invoicev1.Invoice{InvoiceId: id, Etag: "3"}, nil
		case "ReserveStock":
			return &inventoryv1.Reservation{ReservationId: id}, nil
		case "AdjustStock":
			return &inventoryv1.Stock{Etag: "9"}, nil
		case "RegisterMerchant":
			return &merchantv1.RegisterMerchantResponse{}, nil
		}
		return nil, nil
	})
	f := serve(t, s)

	for _, row := range []struct {
		path, location, etag string
		status               int
	}{
		{"/v1/invoices", "/v1/invoices/" + id, `"3"`, 201},
		{"/v1/reservations", "/v1/reservations/" + id, "", 201},
		{"/v1/merchants", "/v1/merchant", "", 201},
		{"/v1/users", "", "", 201},
		{"/v1/invoices/" + id + ":accept", "", `"3"`, 200},
		{"/v1/stock:adjust", "", `"9"`, 200},
		{"/v1/invoices:batch_create", "", "", 200},
	} {
		first := f.ask(t, "POST", row.path, "{}", "Idempotency-Key", aKey)
		expect(t, row.path+" status", first.status, row.status)
		expect(t, row.path+" location", first.header.Get("Location"), row.location)
		expect(t, row.path+" etag", first.header.Get("ETag"), row.etag)
		expect(t, row.path+" replayed", first.header.Get("X-Idempotent-Replayed"), "")
		expect(t, row.path+" token", first.header.Get("X-Consistency-Token"), "0/16B3748")
		expect(t, row.path+" as of", first.header.Get("X-As-Of"), "2026-11-22T07:30:00.123Z")

		again := f.ask(t, "POST", row.path, "{}", "Idempotency-Key", "the-second-time-around")
		expect(t, row.path+" status again", again.status, first.status)
		expect(t, row.path+" body again", again.text, first.text)
		expect(t, row.path+" location again", again.header.Get("Location"), row.location)
		expect(t, row.path+" replayed again", again.header.Get("X-Idempotent-Replayed"), "true")
		for name := range again.header {
			if strings.Contains(strings.ToLower(name), "internal") || strings.Contains(strings.ToLower(name), "trail") || strings.HasPrefix(name, "Grpc-") {
				t.Errorf("header %s came out", name)
			}
		}
	}
}

// Every answer carries the headers that keep browsers and caches from doing harm.
func TestSecurityHeaders(t *testing.T) {
	f := serve(t, startServices(t, nil))
	for _, path := range []string{"/v1/invoices", "/nowhere", "/healthz"} {
		a := f.ask(t, "GET", path, "")
		for name, wanted := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			expect(t, path+" "+name, a.header.Get(name), wanted)
		}
	}
	expect(t, "keys may be cached", f.ask(t, "GET", "/.well-known/jwks.json", "").header.Get("Cache-Control"), "public, max-age=300")
}

// The caller is the peer; behind trusted proxies it is the last address that they did not add themselves.
func TestTheCallersAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, row := range []struct {
		peer, forwarded, wanted string
	}{
		{"203.0.113.7:1", "", "203.0.113.7"},
		{"203.0.113.7:1", "6.6.6.6", "203.0.113.7"},
		{"10.0.0.1:1", "", "10.0.0.1"},
		{"10.0.0.1:1", "198.51.100.4", "198.51.100.4"},
		{"10.0.0.1:1", "6.6.6.6, 198.51.100.4", "198.51.100.4"},
		{"10.0.0.1:1", "198.51.100.4, 10.0.0.2", "198.51.100.4"},
		{"10.0.0.1:1", "6.6.6.6, nonsense", "10.0.0.1"},
		{"[::ffff:203.0.113.7]:1", "", "203.0.113.7"},
		{"[2001:db8::1%eth0]:1", "", "2001:db8::1"},
		{"@", "", "0.0.0.0"},
	} {
		r := &http.Request{RemoteAddr: row.peer, Header: http.Header{}}
		if row.forwarded != "" {
			r.Header.Set("X-Forwarded-For", row.forwarded)
		}
		expect(t, row.peer+" "+row.forwarded, clientOf(r, trusted).String(), row.wanted)
	}
}
