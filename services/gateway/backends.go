package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

const (
	// What a service may be sent (API section 9), and may answer: a full batch of 500 long invoices must come through,
	// for by then they are issued.
	requestBytesMax = 4 << 20
	answerBytesMax  = 64 << 20
	// The services allow a ping every 20 s.
	pingInterval = 30 * time.Second
	pingTimeout  = 5 * time.Second
	// A service that restarts is found again within this.
	reconnectMax = time.Second
	// /readyz is asked every second or so, by more than one; it has to answer by itself.
	healthTimeout = time.Second
)

// A backend is one service: a few connections used in turn, so that a stream-bound HTTP/2 connection is no bottleneck
// and several worker processes behind one port share the load.
type backend struct {
	name        string
	connections []*grpc.ClientConn
	next        atomic.Uint32
}

// dial makes the connections; they connect in the background, and again by themselves.
func dial(name, address string, count int) (*backend, error) {
	policy, err := readRetries()
	if err != nil {
		return nil, err
	}
	b := &backend{name: name}
	for range count {
		connection, err := grpc.NewClient(address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithNoProxy(),
			grpc.WithUserAgent("invochain-gateway"),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
				MinConnectTimeout: 2 * time.Second,
			}),
			grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(requestBytesMax), grpc.MaxCallRecvMsgSize(answerBytesMax)),
			grpc.WithDefaultServiceConfig(policy),
			grpc.WithDisableServiceConfig(),
		)
		if err != nil {
			b.close()
			return nil, fmt.Errorf("%s at %s: %w", name, address, err)
		}
		connection.Connect()
		b.connections = append(b.connections, connection)
	}
	return b, nil
}

// readRetries is the channel's policy: a read that found its service away is tried once more; a write never, for the
// client repeats it with its key (PROTOCOL 13).
func readRetries() (string, error) {
	type name struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	var reads []name
	for _, route := range routes {
		if route.read() {
			reads = append(reads, name{string(route.rpc.Parent().FullName()), string(route.rpc.Name())})
		}
	}
	policy, err := json.Marshal(map[string]any{
		"methodConfig": []any{map[string]any{
			"name": reads,
			"retryPolicy": map[string]any{
				"maxAttempts": 2, "initialBackoff": "0.05s", "maxBackoff": "0.2s", "backoffMultiplier": 2,
				"retryableStatusCodes": []string{"UNAVAILABLE"},
			},
		}},
		"retryThrottling": map[string]any{"maxTokens": 10, "tokenRatio": 0.1},
	})
	return string(policy), err
}

// Invoke calls the service with exactly the metadata of the exchange: what a client sent reaches a service by no other way.
func (b *backend) Invoke(ctx context.Context, method string, request, answer any, options ...grpc.CallOption) error {
	ctx = metadata.NewOutgoingContext(ctx, exchangeOf(ctx).metadata)
	return b.pick().Invoke(ctx, method, request, answer, options...)
}

// NewStream is for streaming methods, which the contract has none of yet.
func (b *backend) NewStream(ctx context.Context, what *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx = metadata.NewOutgoingContext(ctx, exchangeOf(ctx).metadata)
	return b.pick().NewStream(ctx, what, method, options...)
}

func (b *backend) pick() *grpc.ClientConn {
	return b.connections[int(b.next.Add(1)%uint32(len(b.connections)))]
}

// state is what the service says of itself: SERVING, NOT_SERVING, or UNREACHABLE.
func (b *backend) state(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	answer, err := grpc_health_v1.NewHealthClient(b.pick()).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return "UNREACHABLE"
	}
	return answer.GetStatus().String()
}

func (b *backend) close() {
	for _, connection := range b.connections {
		_ = connection.Close() // only says that it was closed before
	}
}
