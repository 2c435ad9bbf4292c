package invochain

import (
	"regexp"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	invoicev1 "invochain/client/gen/invochain/api/invoice/v1"
)

// The service config that is shipped is one that gRPC takes, for a service of the contract.
func TestTheServiceConfigIsTaken(t *testing.T) {
	connection, err := Connect("127.0.0.1:1", insecure.NewCredentials())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	connection.Connect() // the policy counts from the first use on
	policy := connection.GetMethodConfig(invoicev1.InvoiceService_CreateInvoice_FullMethodName)
	for end := time.Now().Add(5 * time.Second); policy.Timeout == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		policy = connection.GetMethodConfig(invoicev1.InvoiceService_CreateInvoice_FullMethodName)
	}
	if policy.Timeout == nil || *policy.Timeout != 5*time.Second {
		t.Errorf("the deadline is %v; wanted: 5s", policy.Timeout)
	}
	if policy.RetryPolicy == nil || policy.RetryPolicy.MaxAttempts != 3 || !policy.RetryPolicy.RetryableStatusCodes[codes.Unavailable] {
		t.Errorf("the retry policy is %+v", policy.RetryPolicy)
	}
}

// A key is a UUID of the grammar, and another one each time.
func TestKeys(t *testing.T) {
	grammar := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if one, other := NewKey(), NewKey(); !grammar.MatchString(one) || one == other {
		t.Errorf("%s, then %s", one, other)
	}
}

// A refusal is read from the details; an error without a reason is none.
func TestRefusals(t *testing.T) {
	s, err := status.New(codes.Aborted, "under way").WithDetails(
		&errdetails.ErrorInfo{Reason: "CONCURRENT_REQUEST", Metadata: map[string]string{"a": "b"}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(200 * time.Millisecond)},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "invoice.lines[0].hsn"}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	r := RefusalOf(s.Err())
	if r == nil || r.Reason != "CONCURRENT_REQUEST" || r.RetryAfter != 200*time.Millisecond || r.Metadata["a"] != "b" ||
		len(r.Violations) != 1 || r.Error() != "CONCURRENT_REQUEST: under way" {
		t.Errorf("%+v", r)
	}
	if r := RefusalOf(status.Error(codes.Unavailable, "connection refused")); r != nil {
		t.Errorf("%+v", r)
	}
}

// A replay is told in the header.
func TestReplayed(t *testing.T) {
	if !Replayed(metadata.Pairs("x-idempotent-replayed", "true")) || Replayed(metadata.MD{}) {
		t.Error("it is misread")
	}
}
