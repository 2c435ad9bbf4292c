package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// What a service may be sent (API section 9), and may answer: a full batch of 500 long invoices must come through,
	// for by then they are issued.
	requestBytesMax = 4 << 20
	answerBytesMax  = 64 << 20
	// The services allow a ping every 20 s.
	pingInterval = 30 * time.Second
	pingTimeout  = 5 * time.Second
	// A connection is set up within this: over a link of 0.3 s each way, TLS takes two seconds (as chassis/channel.py).
	connectWithin = 3 * time.Second
	// A service that restarts is found again within this.
	reconnectMax = time.Second
	// /readyz is asked every second or so, by more than one; it has to answer by itself.
	healthTimeout = time.Second
	// A call that has waited so long makes its connection suspect: most are answered within a tenth of it.
	suspectAfter = 1500 * time.Millisecond
	// A connection that was replaced is closed when whatever waits on it has run out of time: no deadline is longer.
	retiredFor = time.Minute
)

// A backend is one service: a few connections used in turn, so that a stream-bound HTTP/2 connection is no bottleneck
// and several worker processes behind one port share the load.
type backend struct {
	name        string
	connections []*slot
	next        atomic.Uint32
	connect     func() (*grpc.ClientConn, error)
}

// A slot is one connection, which may be replaced.
type slot struct {
	connection atomic.Pointer[grpc.ClientConn]
	suspected  atomic.Bool
}

// dial makes the connections; they connect in the background, and again by themselves.
func dial(name, address string, secure credentials.TransportCredentials, count int) (*backend, error) {
	policy, err := readRetries()
	if err != nil {
		return nil, err
	}
	b := &backend{name: name}
	b.connect = func() (*grpc.ClientConn, error) {
		connection, err := grpc.NewClient(address,
			grpc.WithTransportCredentials(secure),
			grpc.WithNoProxy(),
			grpc.WithUserAgent("invochain-gateway"),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
				MinConnectTimeout: connectWithin,
			}),
			grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(requestBytesMax), grpc.MaxCallRecvMsgSize(answerBytesMax)),
			grpc.WithDefaultServiceConfig(policy),
			grpc.WithDisableServiceConfig(),
		)
		if err != nil {
			return nil, fmt.Errorf("%s at %s: %w", name, address, err)
		}
		connection.Connect()
		return connection, nil
	}
	for range count {
		connection, err := b.connect()
		if err != nil {
			b.close()
			return nil, err
		}
		s := &slot{}
		s.connection.Store(connection)
		b.connections = append(b.connections, s)
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
	s := b.pick()
	connection := s.connection.Load()
	late := time.AfterFunc(suspectAfter, func() { b.suspect(s, connection) })
	defer late.Stop()
	err := connection.Invoke(ctx, method, request, answer, options...)
	if told := status.Convert(err); told.Code() == codes.Canceled && len(told.Details()) == 0 && ctx.Err() == nil {
		// Made by gRPC, and it was not the client that hung up, but a service or connection that ended: outcome unknown.
		return status.Error(codes.Unavailable, "the call was ended under way")
	}
	return err
}

// suspect looks whether a connection on which a call waits for its answer still carries anything, and replaces it if
// not. A path that has silently gone away (a balancer that forgot the connection) says nothing, and a ping of gRPC comes
// after 10 s at the earliest. What waits on the old one keeps its time; the client's repeat takes the new one.
func (b *backend) suspect(s *slot, connection *grpc.ClientConn) {
	if connection.GetState() != connectivity.Ready || !s.suspected.CompareAndSwap(false, true) {
		return
	}
	defer s.suspected.Store(false)
	if s.connection.Load() != connection || answers(connection) {
		return
	}
	if fresh, err := b.connect(); err == nil {
		s.connection.Store(fresh)
		time.AfterFunc(retiredFor, func() { _ = connection.Close() })
	}
}

// answers tells whether the health service of the other side says anything at all.
func answers(connection *grpc.ClientConn) bool {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	_, err := grpc_health_v1.NewHealthClient(connection).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return status.Code(err) != codes.DeadlineExceeded
}

// NewStream is for streaming methods, which the contract has none of yet.
func (b *backend) NewStream(ctx context.Context, what *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx = metadata.NewOutgoingContext(ctx, exchangeOf(ctx).metadata)
	return b.pick().connection.Load().NewStream(ctx, what, method, options...)
}

func (b *backend) pick() *slot {
	return b.connections[int(b.next.Add(1)%uint32(len(b.connections)))]
}

// state is what the service says of itself: SERVING, NOT_SERVING, or UNREACHABLE.
func (b *backend) state(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	answer, err := grpc_health_v1.NewHealthClient(b.pick().connection.Load()).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return "UNREACHABLE"
	}
	return answer.GetStatus().String()
}

func (b *backend) close() {
	for _, s := range b.connections {
		_ = s.connection.Load().Close() // only says that it was closed before
	}
}

// byRoom is a service that every backend serves for its own room: the request's `room` says which one is asked. A room
// that is none of them is refused by the first one, in the words of the contract.
type byRoom []*backend

func (all byRoom) Invoke(ctx context.Context, method string, request, answer any, options ...grpc.CallOption) error {
	return all.of(request).Invoke(ctx, method, request, answer, options...)
}

// NewStream is for streaming methods, which no such service has.
func (all byRoom) NewStream(ctx context.Context, what *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return all[0].NewStream(ctx, what, method, options...)
}

func (all byRoom) of(request any) *backend {
	named, _ := request.(interface{ GetRoom() string })
	for _, b := range all {
		if named != nil && named.GetRoom() == b.name {
			return b
		}
	}
	return all[0]
}
