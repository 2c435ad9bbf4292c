package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	invoicev1 "invochain/gateway/gen/invochain/api/invoice/v1"
	merchantv1 "invochain/gateway/gen/invochain/api/merchant/v1"
)

var invoiceType = (&invoicev1.Invoice{}).ProtoReflect().Descriptor()

// Each fault of a body is told with its place and a code; none reaches a service.
func TestFaultsOfABody(t *testing.T) {
	for _, row := range []struct{ body, pointer, code string }{
		{`{"total_amount":11800}`, "/total_amount", "FIELD_UNKNOWN"},
		{`{"totals":{"total":1}}`, "/totals/total", "FIELD_UNKNOWN"},
		{`{"lines":[{},{"hsn_code":"9403"}]}`, "/lines/1/hsn_code", "FIELD_UNKNOWN"},
		{`{"a/b~c":1}`, "/a~1b~0c", "FIELD_UNKNOWN"},
		{`{"number":"1","number":"1"}`, "/number", "FIELD_REPEATED"},
		{`{"number":null,"number":"1"}`, "/number", "FIELD_REPEATED"},
		{`{"doc_type":"INV","docType":"INV"}`, "/docType", "FIELD_REPEATED"},
		{`{"number":"1","numbe\u0072":"2"}`, "/number", "FIELD_REPEATED"},
		{`{"lines":[{"sku":"a","sku":"b"}]}`, "/lines/0/sku", "FIELD_REPEATED"},
		{`{"lines":[{"quantity_milli":1e3}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":1E3}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":1.0}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":10.50}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"1e3"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"1.0"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":" 1"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"+1"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"007"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":""}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"-"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"1\u0030"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"१"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":"Infinity"}]}`, "/lines/0/quantity_milli", "NUMBER_FORMAT_INVALID"},
		{`{"lines":[{"quantity_milli":9223372036854775808}]}`, "/lines/0/quantity_milli", "AMOUNT_OUT_OF_RANGE"},
		{`{"lines":[{"quantity_milli":"-9223372036854775809"}]}`, "/lines/0/quantity_milli", "AMOUNT_OUT_OF_RANGE"},
		{`{"lines":[{"gst_rate_milli":2147483648}]}`, "/lines/0/gst_rate_milli", "AMOUNT_OUT_OF_RANGE"},
		{`{"lines":[{"quantity_milli":true}]}`, "/lines/0/quantity_milli", "TYPE_INVALID"},
		{`{"lines":[{"quantity_milli":{}}]}`, "/lines/0/quantity_milli", "TYPE_INVALID"},
		{`{"lines":[{"sku":7}]}`, "/lines/0/sku", "TYPE_INVALID"},
		{`{"lines":[null]}`, "/lines/0", "TYPE_INVALID"},
		{`{"lines":{}}`, "/lines", "TYPE_INVALID"},
		{`{"seller":[]}`, "/seller", "TYPE_INVALID"},
		{`{"reverse_charge":"true"}`, "/reverse_charge", "TYPE_INVALID"},
		{`{"reverse_charge":1}`, "/reverse_charge", "TYPE_INVALID"},
		{`{"doc_type":"INVOICE"}`, "/doc_type", "ENUM_UNKNOWN"},
		{`{"doc_type":77}`, "/doc_type", "ENUM_UNKNOWN"},
		{`{"doc_type":1.0}`, "/doc_type", "ENUM_UNKNOWN"},
		{`{"doc_type":true}`, "/doc_type", "TYPE_INVALID"},
		{`{"invoice_date":"2026-11-22"}`, "/invoice_date", "TYPE_INVALID"},
		{`{"invoice_date":{"year":2026.5}}`, "/invoice_date/year", "NUMBER_FORMAT_INVALID"},
		{`[]`, "", "TYPE_INVALID"},
		{`"text"`, "", "TYPE_INVALID"},
		{`null`, "", "TYPE_INVALID"},
	} {
		p := inspect([]byte(row.body), invoiceType)
		if p == nil {
			t.Errorf("%s was taken", row.body)
			continue
		}
		expect(t, row.body, p.Code, "MALFORMED_REQUEST")
		if len(p.Errors) != 1 {
			t.Errorf("%s has %d faults; wanted: 1", row.body, len(p.Errors))
			continue
		}
		expect(t, row.body+" place", p.Errors[0].Pointer, row.pointer)
		expect(t, row.body+" code", p.Errors[0].Code, row.code)
	}
}

// What is not JSON is refused as a whole, naming the byte.
func TestWhatIsNotJSON(t *testing.T) {
	for _, body := range []string{
		`{`, `}`, `{"number"}`, `{"number":}`, `{"number":"1",}`, `{number:"1"}`, `{'number':'1'}`, `{"number":"1"} {}`, `{"number":"1"}x`,
		`{"lines":[1,]}`, `{"lines":[1 2]}`, `{"lines":[}`, `{"number":"1`, "{\"number\":\"a\x01b\"}", "{\"number\":\"a\nb\"}", "{\"number\":\"\xff\"}",
		`{"number":"\x41"}`, `{"number":"\u00g0"}`, `{"number":"\ud800"}`, `{"number":"\udc00"}`, `{"number":"\ud800\u0041"}`, `{"number":"\`,
		`{"number":"\u12`, `{"lines":[{"quantity_milli":01}]}`, `{"lines":[{"quantity_milli":+1}]}`, `{"lines":[{"quantity_milli":.5}]}`,
		`{"lines":[{"quantity_milli":1.}]}`, `{"lines":[{"quantity_milli":1e}]}`, `{"lines":[{"quantity_milli":-}]}`, `{"lines":[{"quantity_milli":NaN}]}`,
		`{"reverse_charge":tru}`, "\ufeff{}", `{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,
		strings.Repeat(`{"x":`, 40) + `1` + strings.Repeat(`}`, 40), `{"x":` + strings.Repeat(`{"x":`, 10_000), strings.Repeat("[", 100_000), `{"a":1}//`, `# {}`,
	} {
		p := inspect([]byte(body), invoiceType)
		if p == nil {
			t.Errorf("%.60q was taken", body)
			continue
		}
		if len(p.Errors) != 0 || p.Code != "MALFORMED_REQUEST" || !strings.Contains(p.Detail, "byte") {
			t.Errorf("%.60q gave %+v", body, p)
		}
	}
}

// A right body passes: names of the proto or of JSON, numbers as such or as texts, null for what is absent.
func TestRightBodies(t *testing.T) {
	for _, body := range []string{
		``, " \n\t", `{}`, `{"number":null,"lines":null,"seller":null}`, `{"docType":"INV","reverseCharge":true}`,
		`{"doc_type":1,"invoice_date":{"year":2026,"month":11,"day":22}}`,
		`{"lines":[{"quantity_milli":"9223372036854775807","unit_price_milli":0,"gst_rate_milli":18000,"discount_paise":"-1"}]}`,
		`{"number":"\u0041\ud83d\ude00\n\/","notes":"नमस्ते"}`,
	} {
		if p := inspect([]byte(body), invoiceType); p != nil {
			t.Errorf("%s was refused: %+v", body, p)
			continue
		}
		if strings.TrimSpace(body) != "" {
			if err := protojson.Unmarshal([]byte(body), &invoicev1.Invoice{}); err != nil {
				t.Errorf("%s passed, but protojson says %v", body, err)
			}
		}
	}
	update := (&merchantv1.UpdateMerchantRequest{}).ProtoReflect().Descriptor()
	if p := inspect([]byte(`{"update_mask":"legal_name","merchant":{"create_time":"2026-11-22T00:00:00Z"}}`), update); p != nil {
		t.Errorf("well-known types were refused: %+v", p)
	}
}

// All faults come at once, in the order of the body, up to a bound; the first one is told in words.
func TestAllFaultsAtOnce(t *testing.T) {
	p := inspect([]byte(`{"doc_typ":"INV","lines":[{"quantity":1},{"quantity_milli":1.5}]}`), invoiceType)
	expect(t, "faults", len(p.Errors), 3)
	expect(t, "detail", p.Detail, "doc_typ: unknown field; wanted: a field of Invoice; did you mean doc_type? (and 2 more)")
	expect(t, "suggestion", p.Errors[1].Detail, "unknown field; wanted: a field of InvoiceLine; did you mean quantity_milli?")

	var flood strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&flood, `,"x%d":1`, i)
	}
	p = inspect([]byte("{"+flood.String()[1:]+"}"), invoiceType)
	expect(t, "faults of a flood", len(p.Errors), faultsMax)
	long := inspect([]byte(`{"number":{"x":"`+strings.Repeat("₹", 100)+`"}}`), invoiceType)
	if detail := long.Errors[0].Detail; len(detail) > 120 || !json.Valid([]byte(`"`+strings.ReplaceAll(detail, `"`, `'`)+`"`)) {
		t.Errorf("the found value is quoted at length: %q", detail)
	}
}

// The inspector takes nothing that protojson refuses, and refuses nothing that is written as it should be: whatever
// bytes come, it neither panics nor runs past them.
func FuzzInspect(f *testing.F) {
	for _, seed := range []string{`{"number":"1","lines":[{"quantity_milli":"1","sku":"A\u0041"}],"doc_type":"INV","seller":{"address":{}}}`, `{"a":[{}]}`, `nul`, `{"number":"\ud83d\ude00"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p := inspect(body, invoiceType)
		if p == nil && len(strings.Trim(string(body), " \t\r\n")) > 0 {
			if err := protojson.Unmarshal(body, &invoicev1.Invoice{}); err != nil {
				t.Errorf("%q passed, but protojson says %v", body, err)
			}
			return
		}
		if p != nil {
			if _, err := json.Marshal(p); err != nil {
				t.Error(err)
			}
		}
	})
}

// Whatever a service can answer in JSON passes as a request again.
func TestAnAnswerPassesAsARequest(t *testing.T) {
	full := &invoicev1.Invoice{Number: "A/1", DocType: invoicev1.DocumentType_INV, Lines: []*invoicev1.InvoiceLine{
		{Sku: "BOLT", QuantityMilli: proto.Int64(10_000), GstRateMilli: proto.Int32(18_000)},
	}, Totals: &invoicev1.Totals{TotalPaise: proto.Int64(1 << 60)}}
	text, err := codec{}.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	if p := inspect(text, invoiceType); p != nil {
		t.Errorf("%s: %+v", text, p)
	}
	var back *invoicev1.Invoice
	if err := (codec{}).Unmarshal(text, &back); err != nil || !proto.Equal(full, back) {
		t.Errorf("%v: %v became %v", err, full, back)
	}
}

func BenchmarkInspect(b *testing.B) {
	line := `{"sku":"BOLT-M8","description":"Bolt","hsn":"73181500","quantity_milli":"10000","unit":"NOS","unit_price_milli":"1000000","gst_rate_milli":18000}`
	body := []byte(`{"supply_type":"B2B","buyer":{"gstin":"29AABCU9603R1ZJ","legal_name":"Buyer"},"lines":[` + strings.Repeat(line+",", 9) + line + `]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if inspect(body, invoiceType) != nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	line := `{"sku":"BOLT-M8","description":"Bolt","hsn":"73181500","quantity_milli":"10000","unit":"NOS","unit_price_milli":"1000000","gst_rate_milli":18000}`
	body := []byte(`{"supply_type":"B2B","buyer":{"gstin":"29AABCU9603R1ZJ","legal_name":"Buyer"},"lines":[` + strings.Repeat(line+",", 9) + line + `]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := (codec{}).Unmarshal(body, &invoicev1.Invoice{}); err != nil {
			b.Fatal(err)
		}
	}
}
