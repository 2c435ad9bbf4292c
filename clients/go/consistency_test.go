package invochain

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	invoicev1 "invochain/client/gen/invochain/api/invoice/v1"
)

// A service that answers every call with the next of its tokens, and remembers what the calls brought.
type tokens struct {
	invoicev1.UnimplementedInvoiceServiceServer
	mutex   sync.Mutex
	given   []string
	brought []string
}

func (t *tokens) next(ctx context.Context) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	sent, _ := metadata.FromIncomingContext(ctx)
	t.brought = append(t.brought, slices.Concat(sent.Get(consistencyToken), []string{""})[0])
	if len(t.given) > 0 {
		if t.given[0] != "" {
			_ = grpc.SetHeader(ctx, metadata.Pairs(consistencyToken, t.given[0]))
		}
		t.given = t.given[1:]
	}
}

func (t *tokens) CreateInvoice(ctx context.Context, _ *invoicev1.CreateInvoiceRequest) (*invoicev1.Invoice, error) {
	t.next(ctx)
	return &invoicev1.Invoice{}, nil
}

func (t *tokens) GetInvoice(ctx context.Context, _ *invoicev1.GetInvoiceRequest) (*invoicev1.Invoice, error) {
	t.next(ctx)
	return &invoicev1.Invoice{}, nil
}

// A read brings the token of the latest write before it; an older one, and one of no known form, do not go back.
func TestReadsSeeWhatWasWritten(t *testing.T) {
	service := &tokens{given: []string{"00000001/0/16B3748", "", "00000001/0/9", "00000001/1/0", "00000002/0/1"}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	invoicev1.RegisterInvoiceServiceServer(server, service)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	connection, err := Connect(listener.Addr().String(), insecure.NewCredentials())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	invoices := invoicev1.NewInvoiceServiceClient(connection)
	ctx := t.Context()

	var header metadata.MD
	if _, err := invoices.CreateInvoice(ctx, &invoicev1.CreateInvoiceRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if header.Get(consistencyToken)[0] != "00000001/0/16B3748" {
		t.Errorf("the caller's own look at the header got %v", header)
	}
	for range 5 {
		if _, err := invoices.GetInvoice(ctx, &invoicev1.GetInvoiceRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := invoices.GetInvoice(WithConsistency(ctx, "00000001/0/7"), &invoicev1.GetInvoiceRequest{}); err != nil {
		t.Fatal(err)
	}
	wanted := []string{
		"", "00000001/0/16B3748", "00000001/0/16B3748", "00000001/0/16B3748", "00000001/1/0", "00000002/0/1", "00000001/0/7",
	}
	if !slices.Equal(service.brought, wanted) {
		t.Errorf("the calls brought %q; wanted: %q", service.brought, wanted)
	}
}

// A token of a form that is not known is kept as it is: it is the service's to read.
func TestAStrangeTokenIsKept(t *testing.T) {
	w := &written{}
	for _, token := range []string{"of another release", "00000001/0/9"} {
		if w.learn(token); w.latest() != token {
			t.Errorf("%q is kept; wanted: %q", w.latest(), token)
		}
	}
}
