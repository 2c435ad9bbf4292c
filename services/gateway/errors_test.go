package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	sharedv1 "invochain/gateway/gen/invochain/api/shared/v1"
)

// Every reason of the contract has a title here, and there is none that the contract does not know.
func TestEveryReasonIsKnown(t *testing.T) {
	for number, name := range sharedv1.ErrorReason_name {
		if _, ok := reasons[name]; !ok && number != 0 {
			t.Errorf("%s has no title", name)
		}
	}
	for name := range reasons {
		if _, ok := sharedv1.ErrorReason_value[name]; !ok {
			t.Errorf("%s is no reason of the contract", name)
		}
	}
}

// The HTTP status follows the reason first, then the code; whether to repeat follows PROTOCOL 13.
func TestStatusAndRetryOfARefusal(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for _, row := range []struct {
		code      codes.Code
		reason    string
		status    int
		retryable bool
	}{
		{codes.InvalidArgument, "VALIDATION_FAILED", 400, false},
		{codes.InvalidArgument, "IDEMPOTENCY_KEY_REQUIRED", 400, false},
		{codes.InvalidArgument, "KEY_REUSED_WITH_DIFFERENT_PAYLOAD", 422, false},
		{codes.InvalidArgument, "PAGE_TOKEN_MISMATCH", 400, false},
		{codes.Unauthenticated, "TOKEN_EXPIRED", 401, false},
		{codes.PermissionDenied, "ROLE_MISSING", 403, false},
		{codes.NotFound, "INVOICE_NOT_FOUND", 404, false},
		{codes.AlreadyExists, "DOC_NUMBER_DUPLICATE", 409, false},
		{codes.FailedPrecondition, "INSUFFICIENT_STOCK", 409, false},
		{codes.FailedPrecondition, "INVALID_STATE", 409, false},
		{codes.FailedPrecondition, "SOME_LATER_REASON", 409, false},
		{codes.Aborted, "CONCURRENT_REQUEST", 409, true},
		{codes.Aborted, "SAGA_ABORTED", 409, true},
		{codes.Aborted, "VERSION_MISMATCH", 412, false},
		{codes.ResourceExhausted, "RATE_LIMITED", 429, true},
		{codes.ResourceExhausted, "BULKHEAD_FULL", 503, true},
		{codes.ResourceExhausted, "MESSAGE_TOO_LARGE", 413, false},
		{codes.Unavailable, "CIRCUIT_OPEN", 503, true},
		{codes.Unavailable, "DEPENDENCY_DOWN", 503, true},
		{codes.DeadlineExceeded, "DEADLINE_TOO_SHORT", 504, true},
		{codes.Canceled, "CANCELLED", 499, true},
		{codes.Internal, "INTERNAL", 500, true},
		{codes.DataLoss, "INVARIANT_BROKEN", 500, false},
	} {
		s.answer = func(call) (proto.Message, error) { return nil, refusal(t, row.code, row.reason, "said so") }
		a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey)
		p := a.problem(t)
		expect(t, row.reason+" status", a.status, row.status)
		expect(t, row.reason+" code", p.Code, row.reason)
		expect(t, row.reason+" retryable", p.Retryable, row.retryable)
		expect(t, row.reason+" type", p.Type, "/problems/"+kebab(row.reason))
		expect(t, row.reason+" detail", p.Detail, "said so")
		expect(t, row.reason+" instance", p.Instance, "/v1/invoices")
	}
}

// The whole shape: facts, faults with their place in the body, the time to wait, the ids that find the log line.
func TestTheShapeOfAProblem(t *testing.T) {
	s := startServices(t, func(c call) (proto.Message, error) {
		s, err := status.New(codes.FailedPrecondition, "item BOLT-M8: 40 asked, 12 free").WithDetails(
			&errdetails.ErrorInfo{Reason: "INSUFFICIENT_STOCK", Domain: "invochain", Metadata: map[string]string{"sku": "BOLT-M8"}},
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
				{Field: "invoice.lines[0].quantity_milli", Reason: "INSUFFICIENT_STOCK", Description: "12 free"},
			}},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(1200 * time.Millisecond)},
		)
		if err != nil {
			t.Error(err)
		}
		c.stream.SetTrailer(metadata.Pairs("x-idempotent-replayed", "true", "x-request-id", "theirs", "x-inner", "1"))
		return nil, s.Err()
	})
	f := serve(t, s)

	a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey, "X-Request-Id", "mine",
		"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")

	expect(t, "body", a.text, `{"type":"/problems/insufficient-stock","title":"Not enough stock","status":409,`+
		`"code":"INSUFFICIENT_STOCK","detail":"item BOLT-M8: 40 asked, 12 free","instance":"/v1/invoices","request_id":"mine",`+
		`"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","retryable":false,`+
		`"errors":[{"pointer":"/lines/0/quantity_milli","code":"INSUFFICIENT_STOCK","detail":"12 free"}],`+
		`"metadata":{"sku":"BOLT-M8"}}`)
	expect(t, "content type", a.header.Get("Content-Type"), "application/problem+json")
	expect(t, "retry after", a.header.Get("Retry-After"), "2")
	expect(t, "replayed, from the trailer of an error", a.header.Get("X-Idempotent-Replayed"), "true")
	expect(t, "request id", a.header.Get("X-Request-Id"), "mine")
	expect(t, "inner metadata", a.header.Get("X-Inner"), "")
}

// Pointers are into the body as it was sent: the field that the body fills is taken off.
func TestPointers(t *testing.T) {
	create, accept := routeByKey["POST /v1/invoices"], routeByKey["POST /v1/invoices/{invoice_id=*}:accept"]
	batch, update := routeByKey["POST /v1/invoices:batch_create"], routeByKey["PATCH /v1/merchant"]
	for _, row := range []struct {
		on            *route
		field, wanted string
	}{
		{create, "invoice.lines[2].hsn", "/lines/2/hsn"},
		{create, "invoice", ""},
		{create, "invoice_date", "/invoice_date"},
		{create, "lines[2].hsn", "/lines/2/hsn"},
		{create, "", ""},
		{accept, "etag", "/etag"},
		{batch, "items[3].invoice.lines[12].tax.rate", "/items/3/invoice/lines/12/tax/rate"},
		{batch, "items[3]", "/items/3"},
		{update, "merchant.address.pin_code", "/address/pin_code"},
		{update, "update_mask", "/update_mask"},
		{nil, "a~b/c", "/a~0b~1c"},
	} {
		expect(t, row.field, pointerOf(row.field, row.on), row.wanted)
	}
}

// What gRPC says by itself carries no reason; the client gets one, and none of gRPC's words.
func TestAStatusWithoutAReason(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for code, wanted := range map[codes.Code]struct {
		status int
		reason string
	}{
		codes.Internal:          {500, "INTERNAL"},
		codes.Unknown:           {500, "INTERNAL"},
		codes.Unavailable:       {503, "DEPENDENCY_DOWN"},
		codes.DeadlineExceeded:  {504, "DEADLINE_TOO_SHORT"},
		codes.Unauthenticated:   {401, "TOKEN_INVALID"},
		codes.Unimplemented:     {501, "METHOD_NOT_FOUND"},
		codes.ResourceExhausted: {503, "BULKHEAD_FULL"},
		codes.OutOfRange:        {400, "OutOfRange"},
	} {
		s.answer = func(call) (proto.Message, error) { return nil, status.Error(code, "10.0.0.9:7003 secret words") }
		a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey)
		p := a.problem(t)
		expect(t, code.String()+" status", a.status, wanted.status)
		expect(t, code.String()+" code", p.Code, wanted.reason)
		if code != codes.OutOfRange && strings.Contains(a.text, "secret") {
			t.Errorf("%s told %s", code, a.text)
		}
		expect(t, code.String()+" asks to wait", a.header.Get("Retry-After") != "", wanted.status == 503)
	}
	s.answer = func(call) (proto.Message, error) {
		return nil, status.Error(codes.ResourceExhausted, "CLIENT: Received message larger than max (4194400 vs. 4194304)")
	}
	a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey)
	expect(t, "too large", a.status, 413)
	expect(t, "too large", a.problem(t).Code, "MESSAGE_TOO_LARGE")
}

// A service that is away is 503 at once, and found again once it is back; nothing hangs.
func TestAServiceThatIsAway(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	s.server.Stop()
	started := time.Now()
	a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey)
	expect(t, "status", a.status, 503)
	expect(t, "code", a.problem(t).Code, "DEPENDENCY_DOWN")
	expect(t, "retryable", a.problem(t).Retryable, true)
	expect(t, "retry after", a.header.Get("Retry-After"), "1")
	expectContains(t, a.problem(t).Detail, "the outcome is unknown, repeat with the same key")
	if took := time.Since(started); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A read that found its service away is tried once more; a write never, for the client repeats it with its key.
func TestOnlyReadsAreTriedAgain(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for _, row := range []struct {
		method, path string
		calls        int
	}{{"GET", "/v1/invoices", 2}, {"GET", "/v1/stock/BOLT", 2}, {"POST", "/v1/invoices", 1}, {"POST", "/v1/stock:adjust", 1}, {"PATCH", "/v1/merchant", 1}} {
		s.answer = func(call) (proto.Message, error) {
			return nil, refusal(t, codes.Unavailable, "SHUTTING_DOWN", "stopping")
		}
		body := "{}"
		if row.method == "GET" {
			body = ""
		}
		a := f.ask(t, row.method, row.path, body, "Idempotency-Key", aKey)
		expect(t, row.path, a.status, 503)
		expect(t, row.method+" "+row.path+" calls", s.count(), row.calls)
		s.calls = nil
	}
}

// A service that does not answer in time is 504, whatever time the client would give.
func TestAServiceThatHangs(t *testing.T) {
	s := startServices(t, func(c call) (proto.Message, error) {
		<-c.stream.Context().Done()
		return nil, c.stream.Context().Err()
	})
	f := serve(t, s, func(settings *Settings) { settings.Deadline = 200 * time.Millisecond })
	a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey, "Grpc-Timeout", "999H")
	expect(t, "status", a.status, 504)
	expect(t, "code", a.problem(t).Code, "DEADLINE_TOO_SHORT")
	expect(t, "retryable", a.problem(t).Retryable, true)
}

// When the client hangs up, the service hears of it.
func TestAClientThatHangsUp(t *testing.T) {
	arrived, cancelled := make(chan struct{}), make(chan struct{})
	s := startServices(t, func(c call) (proto.Message, error) {
		close(arrived)
		<-c.stream.Context().Done()
		close(cancelled)
		return nil, c.stream.Context().Err()
	})
	f := serve(t, s)
	ctx, hangUp := context.WithCancel(context.Background())
	r, _ := http.NewRequestWithContext(ctx, "POST", f.url+"/v1/invoices", strings.NewReader("{}"))
	r.Header.Set("Idempotency-Key", aKey)
	go func() {
		if response, err := http.DefaultClient.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
	}()
	<-arrived
	hangUp()
	select {
	case <-cancelled:
	case <-time.After(3 * time.Second):
		t.Fatal("the service was not told")
	}
	f.log.find(t, "request", "status", float64(499))
}

// A path or a method that there is not has the same shape; a 405 says what there is.
func TestNowhere(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for _, path := range []string{"/", "/nowhere", "/v1", "/v1/invoices/", "/v1/invoices/a/b", "//v1/invoices", "/problems/none",
		"/v1/invoices/x:unknown"} {
		method := "POST"
		if path == "/problems/none" {
			method = "GET"
		}
		a := f.ask(t, method, path, "")
		if a.status != 404 && a.status != 405 {
			t.Errorf("%s is %d", path, a.status)
		}
		expect(t, path, a.problem(t).Code, "METHOD_NOT_FOUND")
	}
	for path, wanted := range map[string]string{
		"/v1/invoices": "GET, POST", "/v1/merchant": "GET, PATCH", "/v1/invoices/7:accept": "GET, POST", "/v1/stock": "GET", "/docs": "GET, HEAD",
	} {
		a := f.ask(t, "DELETE", path, "")
		expect(t, path+" status", a.status, 405)
		expect(t, path+" allow", a.header.Get("Allow"), wanted)
		expect(t, path+" code", a.problem(t).Code, "METHOD_NOT_FOUND")
	}
	expect(t, "override", f.ask(t, "POST", "/v1/stock", "", "X-HTTP-Method-Override", "GET", "Content-Type", "application/x-www-form-urlencoded").status, 405)
	expect(t, "calls", s.count(), 0)
}
