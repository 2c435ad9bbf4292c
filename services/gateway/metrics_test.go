package main

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	merchantv1 "invochain/gateway/gen/invochain/api/merchant/v1"
)

func expectContains(t *testing.T, text, wanted string) {
	t.Helper()
	if !strings.Contains(text, wanted) {
		t.Errorf("%s is not in:\n%s", wanted, text)
	}
}

// Requests are counted by route, never by path; unknown methods and paths share a label.
func TestMetrics(t *testing.T) {
	f := serve(t, startServices(t, nil))
	f.ask(t, "GET", "/v1/invoices/1", "")
	f.ask(t, "GET", "/v1/invoices/2", "")
	f.ask(t, "BREW", "/v1/coffee/27AAPFU0939F1ZV", "")
	f.ask(t, "POST", "/v1/invoices", `{"x":1}`)
	eventually(t, func() bool { return strings.Contains(f.ask(t, "GET", "/metrics", "").text, `code="400"`) })
	text := f.ask(t, "GET", "/metrics", "").text
	for _, wanted := range []string{
		`http_requests_total{code="200",method="GET",route="/v1/invoices/{invoice_id}"} 2`,
		`http_requests_total{code="404",method="other",route="none"} 1`,
		`http_requests_total{code="400",method="POST",route="/v1/invoices"} 1`,
		`http_request_duration_seconds_bucket{method="GET",route="/v1/invoices/{invoice_id}",le="0.025"} 2`,
		`http_request_duration_seconds_bucket{method="GET",route="/v1/invoices/{invoice_id}",le="5"} 2`,
		"http_requests_in_flight 0", "go_goroutines", "process_resident_memory_bytes",
	} {
		expectContains(t, text, wanted)
	}
	if strings.Contains(text, "27AAPFU") || strings.Contains(text, "BREW") {
		t.Error("a label holds what a client sent")
	}
}

// With a door of their own, metrics are not on the public one.
func TestMetricsOnADoorOfTheirOwn(t *testing.T) {
	f := serve(t, startServices(t, nil), func(settings *Settings) { settings.MetricsAddress = "127.0.0.1:0" })
	expect(t, "public door", f.ask(t, "GET", "/metrics", "").status, 404)
	inner := front{url: f.metricsURL}
	expect(t, "inner door", inner.ask(t, "GET", "/metrics", "").status, 200)
	expect(t, "inner door", inner.ask(t, "GET", "/healthz", "").status, 200)
	expect(t, "inner door", inner.ask(t, "GET", "/v1/stock", "").status, 404)
}

// One line a request, with what finds it again and nothing that belongs to a customer.
func TestTheLog(t *testing.T) {
	s := startServices(t, func(call) (proto.Message, error) {
		return &merchantv1.TokenPair{AccessToken: "canary-access"}, nil
	})
	f := serve(t, s)
	f.ask(t, "POST", "/v1/auth:sign_in", `{"email":"canary@example.com","password":"canary-password"}`,
		"Authorization", "Bearer canary-token", "Idempotency-Key", "canary-key-0000000", "X-Request-Id", "r-1",
		"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.ask(t, "GET", "/v1/stock/BOLT@27CANARY0939F1ZV?canary=1", "", "X-Request-Id", "r-2")
	f.ask(t, "POST", "/v1/users", `{"user":{"password":["canary-body"]}}`, "X-Request-Id", "r-3", "Idempotency-Key", aKey)

	line := f.log.find(t, "request", "request_id", "r-1")
	for field, wanted := range map[string]any{
		"level": "info", "process": "gateway", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "method": "POST",
		"route": "/v1/auth:sign_in", "status": 200.0, "key": "b8fd2305679b",
	} {
		expect(t, field, line[field], wanted)
	}
	expect(t, "reason", f.log.find(t, "request", "request_id", "r-2")["reason"], any("MALFORMED_REQUEST"))
	f.log.find(t, "request", "request_id", "r-3")
	for _, secret := range []string{"canary", "CANARY"} {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("the log holds %s:\n%s", secret, f.log.String())
		}
	}
	for line := range strings.Lines(f.log.String()) {
		if !strings.HasPrefix(line, `{"time":"`) || !strings.HasSuffix(line, "}\n") {
			t.Errorf("no JSON line: %s", line)
		}
	}
}
