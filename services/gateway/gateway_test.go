package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "invochain/gateway/gen/invochain/api/inventory/v1"
	invoicev1 "invochain/gateway/gen/invochain/api/invoice/v1"
	merchantv1 "invochain/gateway/gen/invochain/api/merchant/v1"
)

// Every HTTP line of the contract reaches its method, with the path's fields in the request.
func TestEveryRouteReachesItsMethod(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for _, r := range routes {
		path := variable.ReplaceAllString(r.template, "{$1}")
		for _, name := range r.inPath {
			path = strings.ReplaceAll(path, "{"+name+"}", "the-"+name)
		}
		body := ""
		if r.body != "" {
			body = "{}"
		}
		a := f.ask(t, r.method, path, body, "Idempotency-Key", aKey)
		if a.status > 201 {
			t.Errorf("%s %s is %d %s", r.method, path, a.status, a.text)
			continue
		}
		got := s.last(t)
		expect(t, path, got.method, string(r.rpc.Name()))
		for _, name := range r.inPath {
			field := got.request.ProtoReflect().Descriptor().Fields().ByTextName(name)
			expect(t, path+" "+name, got.request.ProtoReflect().Get(field).String(), "the-"+name)
		}
		expect(t, path+" in the route table", r.matches.MatchString(path), true)
	}
	if len(routes) < 28 {
		t.Errorf("there are %d routes", len(routes))
	}
}

// A SKU may hold slashes, plain or escaped; the list beside it is not the SKU "".
func TestSKUsWithSlashes(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for path, wanted := range map[string]string{
		"/v1/stock/BOLT-M8": "BOLT-M8", "/v1/stock/A/B": "A/B", "/v1/stock/A%2FB": "A/B", "/v1/stock/a..b/c": "a..b/c", "/v1/stock/A%252FB": "A%2FB",
		"/v1/stock/BOLT@27AAPFU0939F1ZV": "BOLT@27AAPFU0939F1ZV",
	} {
		expect(t, path, f.ask(t, "GET", path, "").status, 200)
		expect(t, path, s.last(t).request.(*inventoryv1.GetStockRequest).GetSku(), wanted)
	}
	f.ask(t, "GET", "/v1/stock", "")
	expect(t, "method of /v1/stock", s.last(t).method, "ListStock")
}

// Answers are ProtoJSON with the proto's names, all defaults said, 64-bit integers as texts, and no spaces.
func TestTheShapeOfAnAnswer(t *testing.T) {
	s := startServices(t, func(call) (proto.Message, error) {
		return &inventoryv1.Stock{Sku: "BOLT", OnHandMilli: 100_000, CreateTime: &timestamppb.Timestamp{Seconds: 1, Nanos: 500_000_000}}, nil
	})
	f := serve(t, s)
	a := f.ask(t, "GET", "/v1/stock/BOLT", "")
	expect(t, "answer", a.text, `{"sku":"BOLT","description":"","hsn":"","unit":"","on_hand_milli":"100000","reserved_milli":"0",`+
		`"free_milli":"0","create_time":"1970-01-01T00:00:01.500Z","etag":""}`)
	expect(t, "content type", a.header.Get("Content-Type"), "application/json")

	// An optional field that is absent is not said; a list that is empty is.
	s.answer = func(call) (proto.Message, error) {
		return &invoicev1.Invoice{Lines: []*invoicev1.InvoiceLine{{TaxablePaise: proto.Int64(0)}}}, nil
	}
	a = f.ask(t, "GET", "/v1/invoices/x", "")
	for _, wanted := range []string{`"taxable_paise":"0"`, `"allowed_actions":[]`, `"state":"INVOICE_STATE_UNSPECIFIED"`} {
		if !strings.Contains(a.text, wanted) {
			t.Errorf("%s is not in %s", wanted, a.text)
		}
	}
	if strings.Contains(a.text, "gross_paise") {
		t.Errorf("an absent claim is said: %s", a.text)
	}
}

// The body fills its field of the request, or the request itself; the path wins over nothing, it is refused beside it.
func TestWhereTheBodyGoes(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)

	f.ask(t, "POST", "/v1/invoices", `{"number":"A/1","lines":[{"quantity_milli":"10000"}]}`, "Idempotency-Key", aKey)
	created := s.last(t).request.(*invoicev1.CreateInvoiceRequest).GetInvoice()
	expect(t, "number", created.GetNumber(), "A/1")
	expect(t, "quantity", created.GetLines()[0].GetQuantityMilli(), 10_000)

	f.ask(t, "POST", "/v1/invoices/77:reject", `{"reason":"wrong price"}`, "Idempotency-Key", aKey)
	rejected := s.last(t).request.(*invoicev1.RejectInvoiceRequest)
	expect(t, "id and reason", rejected.GetInvoiceId()+" "+rejected.GetReason(), "77 wrong price")

	expect(t, "accept without a body", f.ask(t, "POST", "/v1/invoices/77:accept", "", "Idempotency-Key", aKey).status, 200)
	s.last(t)

	// PATCH: the mask is what the body names, so that a field can be emptied.
	f.ask(t, "PATCH", "/v1/merchant", `{"legal_name":"New","trade_name":""}`, "Idempotency-Key", aKey)
	update := s.last(t).request.(*merchantv1.UpdateMerchantRequest)
	mask := update.GetUpdateMask()
	mask.Normalize()
	if wanted := (&fieldmaskpb.FieldMask{Paths: []string{"legal_name", "trade_name"}}); !proto.Equal(mask, wanted) {
		t.Errorf("the mask is %v; wanted: %v", mask, wanted)
	}
	f.ask(t, "PATCH", "/v1/merchant?update_mask=legal_name", `{"legal_name":"New","trade_name":"x"}`, "Idempotency-Key", aKey)
	expect(t, "mask of the query", strings.Join(s.last(t).request.(*merchantv1.UpdateMerchantRequest).GetUpdateMask().GetPaths(), ","), "legal_name")
}

// A faulty body is refused at the door, and no service hears of it.
func TestAFaultyBodyStopsAtTheDoor(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for _, row := range []struct {
		path, body string
		headers    []string
		status     int
		code       string
	}{
		{"/v1/invoices", `{"total_amount":11800}`, nil, 400, "MALFORMED_REQUEST"},
		{"/v1/invoices", `{"lines":[{"quantity_milli":1.5}]}`, nil, 400, "MALFORMED_REQUEST"},
		{"/v1/invoices", `{`, nil, 400, "MALFORMED_REQUEST"},
		{"/v1/invoices", `{}`, []string{"Content-Type", "text/plain"}, 415, "MALFORMED_REQUEST"},
		{"/v1/invoices", `{}`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "MALFORMED_REQUEST"},
		{"/v1/invoices", `{}`, []string{"Content-Encoding", "gzip"}, 415, "MALFORMED_REQUEST"},
		{"/v1/invoices", strings.Repeat(" ", bodyBytesMax+1), nil, 413, "MESSAGE_TOO_LARGE"},
		{"/v1/invoices?number=1", `{}`, nil, 400, "MALFORMED_REQUEST"},
		{"/v1/invoices?invoice.number=1", `{}`, nil, 400, "MALFORMED_REQUEST"},
		{"/v1/invoices?invoice=1", `{}`, nil, 400, "MALFORMED_REQUEST"},
		{"/v1/invoices/77:accept?etag=1", `{}`, nil, 400, "MALFORMED_REQUEST"},
		{"/v1/invoices/77:accept", `{"note":"x"}`, nil, 400, "MALFORMED_REQUEST"},
	} {
		a := f.ask(t, "POST", row.path, row.body, append(row.headers, "Idempotency-Key", aKey)...)
		name := fmt.Sprintf("%s %.40s %v", row.path, row.body, row.headers)
		expect(t, name+" status", a.status, row.status)
		expect(t, name+" code", a.problem(t).Code, row.code)
	}
	expect(t, "a read with a body", f.ask(t, "GET", "/v1/invoices", `{}`).status, 400)
	expect(t, "calls", s.count(), 0)
	for _, kind := range []string{"application/json", "application/json; charset=utf-8", "APPLICATION/JSON"} {
		expect(t, kind, f.ask(t, "POST", "/v1/invoices", `{}`, "Idempotency-Key", aKey, "Content-Type", kind).status, 201)
	}
}

// A body without a length is read up to the limit too.
func TestAChunkedBodyThatIsTooLarge(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	r, _ := http.NewRequest("POST", f.url+"/v1/invoices", struct{ *strings.Reader }{strings.NewReader(strings.Repeat(" ", bodyBytesMax+1))})
	r.ContentLength = -1
	a := do(t, r)
	expect(t, "status", a.status, 413)
	expect(t, "code", a.problem(t).Code, "MESSAGE_TOO_LARGE")
	expect(t, "calls", s.count(), 0)
}

// A client that asks before it sends hears of its size at once.
func TestALargeBodyIsRefusedBeforeItIsSent(t *testing.T) {
	f := serve(t, startServices(t, nil))
	connection, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(connection, "POST /v1/invoices HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", bodyBytesMax+1)
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil || response.StatusCode != 413 {
		t.Errorf("%v %v", response, err)
	}
}

// Query parameters are held to the request message: unknown, repeated and malformed ones are refused by name.
func TestTheQuery(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)

	expect(t, "status", f.ask(t, "GET", `/v1/invoices?page_size=20&view=FULL&filter=state%20%3D%20ISSUED&side=SOLD`, "").status, 200)
	list := s.last(t).request.(*invoicev1.ListInvoicesRequest)
	expect(t, "page size", list.GetPageSize(), 20)
	expect(t, "filter", list.GetFilter(), "state = ISSUED")
	expect(t, "view", list.GetView(), invoicev1.InvoiceView_FULL)

	for query, wanted := range map[string]string{
		"pagesize=20": "/pagesize FIELD_UNKNOWN", "page_size=1&page_size=2": "/page_size FIELD_REPEATED", "page_size=1e1": "/page_size NUMBER_FORMAT_INVALID",
		"page_size=x": "/page_size NUMBER_FORMAT_INVALID", "page_size=99999999999": "/page_size AMOUNT_OUT_OF_RANGE", "view=ALL": "/view ENUM_UNKNOWN",
		"page_size=": "/page_size NUMBER_FORMAT_INVALID",
	} {
		a := f.ask(t, "GET", "/v1/invoices?"+query, "")
		expect(t, query, a.status, 400)
		p := a.problem(t)
		if len(p.Errors) != 1 {
			t.Errorf("%s has faults %v", query, p.Errors)
			continue
		}
		expect(t, query, p.Errors[0].Pointer+" "+p.Errors[0].Code, wanted)
	}
	expect(t, "path and query", f.ask(t, "GET", "/v1/invoices/7?invoice_id=8", "").status, 400)
	expect(t, "semicolon", f.ask(t, "GET", "/v1/invoices?a=1;b=2", "").status, 400)
	expect(t, "calls", s.count(), 0)
}

// Requests past the bulkhead are refused at once, not queued.
func TestTheBulkhead(t *testing.T) {
	arrived, goOn := make(chan struct{}, 1), make(chan struct{})
	s := startServices(t, func(call) (proto.Message, error) {
		arrived <- struct{}{}
		<-goOn
		return nil, nil
	})
	f := serve(t, s, func(settings *Settings) { settings.InFlightMax = 1 })
	status := make(chan int)
	go func() { status <- f.ask(t, "GET", "/v1/stock", "").status }()
	<-arrived
	a := f.ask(t, "GET", "/v1/stock", "")
	expect(t, "status", a.status, 503)
	expect(t, "code", a.problem(t).Code, "BULKHEAD_FULL")
	expect(t, "retry after", a.header.Get("Retry-After"), "1")
	expect(t, "probes pass", f.ask(t, "GET", "/healthz", "").status, 200)
	close(goOn)
	expect(t, "the first one", <-status, 200)
	eventually(t, func() bool { return f.ask(t, "GET", "/v1/stock", "").status == 200 })
}

// Smuggled and oversized headers end at the connection.
func TestRawRequests(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	for name, raw := range map[string]string{
		"two lengths":         "POST /v1/invoices HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
		"header of 60 KB":     "GET /v1/invoices HTTP/1.1\r\nHost: a\r\nAuthorization: " + strings.Repeat("x", 60_000) + "\r\n\r\n",
		"folded header":       "GET /v1/invoices HTTP/1.1\r\nHost: a\r\nX: a\r\n Authorization: Bearer b\r\n\r\n",
		"broken escape":       "GET /v1/stock/%zz HTTP/1.1\r\nHost: a\r\n\r\n",
		"space before colon":  "GET /v1/invoices HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer b\r\n\r\n",
		"unknown encoding":    "POST /v1/invoices HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"no host":             "GET /v1/invoices HTTP/1.1\r\n\r\n",
		"control in a header": "GET /v1/invoices HTTP/1.1\r\nHost: a\r\nIdempotency-Key: a\x01b\r\n\r\n",
	} {
		connection, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = connection.Write([]byte(raw))
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err == nil && response.StatusCode < 400 {
			if name == "folded header" {
				continue // it is one header X then, whose value is nobody's
			}
			t.Errorf("%s is %d", name, response.StatusCode)
		}
		connection.Close()
	}
	for _, c := range s.calls {
		if len(c.metadata.Get("authorization")) > 0 {
			t.Errorf("a smuggled token reached %s", c.method)
		}
	}
}

// A panic is a 500 with the id that finds it, and its line tells no values.
func TestADefectIsAnsweredAndLogged(t *testing.T) {
	s := startServices(t, func(call) (proto.Message, error) { return &invoicev1.Invoice{}, nil })
	f := serve(t, s)
	route := routeByKey["POST /v1/invoices"]
	kept := route.location
	route.location = func(proto.Message) string { panic("secret words") }
	t.Cleanup(func() { route.location = kept })
	a := f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey, "X-Request-Id", "panicked")
	expect(t, "status", a.status, 500)
	expect(t, "code", a.problem(t).Code, "INTERNAL")
	f.log.find(t, "panic", "request_id", "panicked")
	if strings.Contains(f.log.String(), "secret words") {
		t.Error("the log tells the value of the panic")
	}
}
