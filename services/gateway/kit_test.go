package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const aKey = "0199a000-0000-7000-8000-000000000001"

// A call is what reached a service.
type call struct {
	method   string
	request  proto.Message
	metadata metadata.MD
	deadline time.Duration
	stream   grpc.ServerStream
}

// The services stand in for all three rooms behind one real gRPC port: they take any method of the contract, note the
// call, and answer what the test says (an empty message if it says nothing).
type services struct {
	address string
	server  *grpc.Server
	health  *health.Server

	mutex  sync.Mutex
	calls  []call
	answer func(call) (proto.Message, error)
	// Set by benchmarks: calls are not noted.
	forget bool
}

func startServices(t testing.TB, answer func(call) (proto.Message, error)) *services {
	t.Helper()
	s := &services{answer: answer, health: health.NewServer()}
	s.server = grpc.NewServer(grpc.UnknownServiceHandler(s.take))
	grpc_health_v1.RegisterHealthServer(s.server, s.health)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = port.Addr().String()
	go func() { _ = s.server.Serve(port) }()
	t.Cleanup(s.server.Stop)
	return s
}

func (s *services) take(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(full, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return status.Error(codes.Unimplemented, "no such method")
	}
	method := found.(protoreflect.MethodDescriptor)
	c := call{method: string(method.Name()), request: newMessage(method.Input()), stream: stream}
	c.metadata, _ = metadata.FromIncomingContext(stream.Context())
	if until, ok := stream.Context().Deadline(); ok {
		c.deadline = time.Until(until)
	}
	if err := stream.RecvMsg(c.request); err != nil {
		return err
	}
	s.mutex.Lock()
	if !s.forget {
		s.calls = append(s.calls, c)
	}
	answer := s.answer
	s.mutex.Unlock()
	out := newMessage(method.Output())
	if answer != nil {
		answered, err := answer(c)
		if err != nil {
			return err
		}
		if answered != nil {
			out = answered
		}
	}
	return stream.SendMsg(out)
}

func newMessage(of protoreflect.MessageDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
	if err != nil {
		panic(err)
	}
	return kind.New().Interface()
}

// last is the only call that came since it was asked for last.
func (s *services) last(t *testing.T) call {
	t.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.calls) != 1 {
		t.Fatalf("%d calls reached the services; wanted: 1", len(s.calls))
	}
	c := s.calls[0]
	s.calls = nil
	return c
}

func (s *services) count() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.calls)
}

// A front is a running gateway, and a client of it.
type front struct {
	url, metricsURL string
	log             *lines
	stop            context.CancelFunc
	stopped         chan error
}

// serve starts a gateway as main does, in front of the services, on free ports.
func serve(t testing.TB, s *services, changes ...func(*Settings)) *front {
	t.Helper()
	settings, err := ReadSettings(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	settings.Address = "127.0.0.1:0"
	settings.Merchant, settings.Inventory, settings.Invoice = s.address, s.address, s.address
	settings.IPLimit, settings.AuthLimit = Quota{}, Quota{}
	for _, change := range changes {
		change(&settings)
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &front{log: &lines{}, stop: stop, stopped: make(chan error, 1)}
	open := make(chan struct{})
	go func() {
		f.stopped <- run(ctx, settings, newLog(f.log), func(rest, metrics net.Addr) {
			f.url, f.metricsURL = "http://"+rest.String(), "http://"+metrics.String()
			close(open)
		})
	}()
	select {
	case <-open:
	case err := <-f.stopped:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		select {
		case <-f.stopped:
		case <-time.After(20 * time.Second):
			t.Error("the gateway did not stop")
		}
	})
	return f
}

// An answer is a response, read.
type answer struct {
	status int
	header http.Header
	text   string
}

func (a answer) problem(t *testing.T) problem {
	t.Helper()
	if kind := a.header.Get("Content-Type"); kind != "application/problem+json" {
		t.Fatalf("Content-Type is %q for %d %s", kind, a.status, a.text)
	}
	var p problem
	decoder := json.NewDecoder(strings.NewReader(a.text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%v in %s", err, a.text)
	}
	if p.Status != a.status || p.RequestID != a.header.Get("X-Request-Id") {
		t.Errorf("the problem says %d, %s; the answer %d, %s", p.Status, p.RequestID, a.status, a.header.Get("X-Request-Id"))
	}
	return p
}

// ask sends a request; headers are pairs of name and value, a name may come again.
func (f *front) ask(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, f.url+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Content-Type" {
			r.Header.Set(headers[i], headers[i+1])
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	return do(t, r)
}

func do(t *testing.T, r *http.Request) answer {
	t.Helper()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

// lines collects what the gateway logs.
type lines struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (l *lines) Write(text []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(text)
}

func (l *lines) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

// find waits for the line of an event that has the value.
func (l *lines) find(t *testing.T, event, field string, value any) map[string]any {
	t.Helper()
	var found map[string]any
	eventually(t, func() bool {
		for line := range strings.Lines(l.String()) {
			var fields map[string]any
			if json.Unmarshal([]byte(line), &fields) == nil && fields["event"] == event && fields[field] == value {
				found = fields
				return true
			}
		}
		return false
	})
	return found
}

// eventually polls a condition for ten seconds at most.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatal("it did not come about within 10 s")
}

// refusal is a service's status with its details.
func refusal(t *testing.T, code codes.Code, reason, message string, details ...protoadapt.MessageV1) error {
	t.Helper()
	all := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: "invochain"}}, details...)
	s, err := status.New(code, message).WithDetails(all...)
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

func expect[T comparable](t *testing.T, what string, found, wanted T) {
	t.Helper()
	if found != wanted {
		t.Errorf("%s is %v; wanted: %v", what, found, wanted)
	}
}
