// Package invochain connects to the InvoChain services over gRPC. The messages and stubs are in gen/, built by
// `make clients`.
//
// Whatever changes something carries an idempotency key, so a call that was cut off is repeated with the same key and
// gives the first answer. No call is without a deadline.
package invochain

import (
	"context"
	"crypto/rand"
	_ "embed"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Deadlines, and what the channel itself repeats (UNAVAILABLE only): the service config that clients of any language use.
//
//go:embed service_config.json
var ServiceConfig string

// The services allow a ping every 20 s.
const pingInterval = 30 * time.Second

// Connect opens a connection to a service, host:port.
//
// What is read over it is never older than what was written over it, whichever replica answers: every call carries the
// latest consistency token of the answers before it.
func Connect(address string, security credentials.TransportCredentials) (*grpc.ClientConn, error) {
	return grpc.NewClient(address,
		grpc.WithUnaryInterceptor((&written{}).unary),
		grpc.WithTransportCredentials(security),
		grpc.WithDefaultServiceConfig(ServiceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: 5 * time.Second}),
	)
}

// WithToken makes calls carry an access token of SignIn.
func WithToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// WithKey makes a call carry an idempotency key. Keep the key with what it is for, so that a repeat is a repeat.
func WithKey(ctx context.Context, key string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "idempotency-key", key)
}

// NewKey makes an idempotency key, a random UUID.
func NewKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Replayed tells, from the header metadata of an answer (grpc.Header), whether it was given before and nothing was done
// now.
func Replayed(header metadata.MD) bool {
	found := header.Get("x-idempotent-replayed")
	return len(found) > 0 && found[0] == "true"
}

// A Refusal is an error as InvoChain tells it.
type Refusal struct {
	Code codes.Code
	// Reason to switch on, a name of ErrorReason.
	Reason   string
	Message  string
	Metadata map[string]string
	// Broken rules, with the path of the field in the request.
	Violations []*errdetails.BadRequest_FieldViolation
	// How long to wait before repeating with the same key; zero if not said.
	RetryAfter time.Duration
}

func (r *Refusal) Error() string { return r.Reason + ": " + r.Message }

// RefusalOf reads an error of a call; nil if it carries no reason (the outcome is unknown then: repeat with the same key).
func RefusalOf(err error) *Refusal {
	s := status.Convert(err)
	r := &Refusal{Code: s.Code(), Message: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			r.Reason, r.Metadata = d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			r.Violations = d.GetFieldViolations()
		case *errdetails.RetryInfo:
			r.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if r.Reason == "" {
		return nil
	}
	return r
}
