package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	invoicev1 "invochain/gateway/gen/invochain/api/invoice/v1"
)

// One CreateInvoice with one line through HTTP, the gateway and gRPC to a service that answers at once: what the gateway
// itself costs, with a client and a server in the same process.
func BenchmarkCreateInvoice(b *testing.B) {
	line := &invoicev1.InvoiceLine{
		Sku: "BOLT-M8", Description: "Bolt", Hsn: "73181500", QuantityMilli: proto.Int64(10_000), Unit: "NOS",
		UnitPriceMilli: proto.Int64(1_000_000), GstRateMilli: proto.Int32(18_000), TotalPaise: proto.Int64(1_180_000),
	}
	issued := &invoicev1.Invoice{InvoiceId: "0199a000-0000-8000-8000-000000000003", Number: "INV/2627/00001", Etag: "1",
		Lines: []*invoicev1.InvoiceLine{line}, Totals: &invoicev1.Totals{TotalPaise: proto.Int64(1_180_000)}}
	s := startServices(b, func(call) (proto.Message, error) { return issued, nil })
	s.forget = true
	f := serve(b, s)
	const body = `{"supply_type":"B2B","buyer":{"gstin":"29AABCU9603R1ZJ","legal_name":"Buyer"},"lines":[{"sku":"BOLT-M8",` +
		`"description":"Bolt","hsn":"73181500","quantity_milli":"10000","unit":"NOS","unit_price_milli":"1000000","gst_rate_milli":18000}]}`
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(each *testing.PB) {
		for each.Next() {
			r, _ := http.NewRequest("POST", f.url+"/v1/invoices", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", aKey)
			r.Header.Set("Authorization", "Bearer "+strings.Repeat("x", 600))
			response, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusCreated {
				b.Errorf("status %d", response.StatusCode)
				return
			}
		}
	})
}
