// Issues an invoice for a service, repeats it with the same key, and shows that it is one invoice.
//
//	INVOCHAIN_EMAIL=… INVOCHAIN_PASSWORD=… go run ./examples/create_invoice
//
// INVOCHAIN_MERCHANT_ADDRESS and INVOCHAIN_INVOICE_ADDRESS say where the services are (127.0.0.1:7001 and :7003).
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	invochain "invochain/client"
	invoicev1 "invochain/client/gen/invochain/api/invoice/v1"
	merchantv1 "invochain/client/gen/invochain/api/merchant/v1"
)

func main() {
	if err := run(); err != nil {
		if refusal := invochain.RefusalOf(err); refusal != nil {
			fmt.Fprintln(os.Stderr, "refused:", refusal)
			for _, v := range refusal.Violations {
				fmt.Fprintf(os.Stderr, "  %s  %s  %s\n", v.GetField(), v.GetReason(), v.GetDescription())
			}
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

func run() error {
	email, password := os.Getenv("INVOCHAIN_EMAIL"), os.Getenv("INVOCHAIN_PASSWORD")
	if email == "" || password == "" {
		return fmt.Errorf("INVOCHAIN_EMAIL and INVOCHAIN_PASSWORD say who signs in; `make demo` prints a user it registered")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	// Loopback; across a network use credentials.NewTLS.
	toMerchant, err := invochain.Connect(cmp.Or(os.Getenv("INVOCHAIN_MERCHANT_ADDRESS"), "127.0.0.1:7001"), insecure.NewCredentials())
	if err != nil {
		return err
	}
	defer toMerchant.Close()
	toInvoice, err := invochain.Connect(cmp.Or(os.Getenv("INVOCHAIN_INVOICE_ADDRESS"), "127.0.0.1:7003"), insecure.NewCredentials())
	if err != nil {
		return err
	}
	defer toInvoice.Close()

	tokens, err := merchantv1.NewMerchantServiceClient(toMerchant).SignIn(ctx, &merchantv1.SignInRequest{Email: email, Password: password})
	if err != nil {
		return err
	}
	ctx = invochain.WithToken(ctx, tokens.GetAccessToken())

	request := &invoicev1.CreateInvoiceRequest{Invoice: &invoicev1.Invoice{
		SupplyType: invoicev1.SupplyType_B2B,
		Buyer: &invoicev1.Party{
			Gstin: "29AABCU9603R1ZJ", State: "29", PlaceOfSupply: "29", LegalName: "Example Buyer Private Limited",
			Address: &invoicev1.PostalAddress{Line1: "1 MG Road", Location: "Bengaluru", PinCode: "560001"},
		},
		Lines: []*invoicev1.InvoiceLine{{
			Description: "Advice on machine tools", IsService: true, Hsn: "998311",
			QuantityMilli: proto.Int64(2_000), Unit: "OTH", // 2 hours
			UnitPriceMilli: proto.Int64(5_000_000), // Rs 5,000.000
			GstRateMilli:   proto.Int32(18_000),    // 18 %
		}},
	}}
	// Kept with the order, so that a repeat after a crash is a repeat.
	ctx = invochain.WithKey(ctx, invochain.NewKey())

	invoices := invoicev1.NewInvoiceServiceClient(toInvoice)
	first, err := invoices.CreateInvoice(ctx, request)
	if err != nil {
		return err
	}
	fmt.Printf("issued %s (%s), total %d paise\n", first.GetNumber(), first.GetInvoiceId(), first.GetTotals().GetTotalPaise())

	var header metadata.MD
	again, err := invoices.CreateInvoice(ctx, request, grpc.Header(&header))
	if err != nil {
		return err
	}
	if again.GetInvoiceId() != first.GetInvoiceId() || !invochain.Replayed(header) {
		return fmt.Errorf("the repeat gave %s, replayed %t", again.GetInvoiceId(), invochain.Replayed(header))
	}
	fmt.Println("repeated: the same invoice, replayed: true")
	return nil
}
