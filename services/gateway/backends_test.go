package main

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A path forwards to the services; its connections can be made silent: nothing passes, and nobody is told.
type path struct {
	address string
	mutex   sync.Mutex
	silent  []*atomic.Bool
}

func startPath(t *testing.T, target string) *path {
	t.Helper()
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = door.Close() })
	p := &path{address: door.Addr().String()}
	go func() {
		for {
			near, err := door.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			mute := &atomic.Bool{}
			p.mutex.Lock()
			p.silent = append(p.silent, mute)
			p.mutex.Unlock()
			go forward(far, near, mute)
			go forward(near, far, mute)
		}
	}()
	return p
}

func forward(to, from net.Conn, mute *atomic.Bool) {
	defer to.Close()
	for buffer := make([]byte, 32<<10); ; {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if !mute.Load() {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

func (p *path) goSilent() int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, mute := range p.silent {
		mute.Store(true)
	}
	return len(p.silent)
}

func TestAConnectionThatHasGoneSilentIsReplacedSoonAfterACallHadNoAnswer(t *testing.T) {
	s := startServices(t, nil)
	p := startPath(t, s.address)
	f := serve(t, s, func(settings *Settings) {
		settings.Invoice, settings.Connections, settings.Deadline = p.address, 1, 2*time.Second
	})
	get := func() int {
		return f.ask(t, "GET", "/v1/invoices/"+aKey, "", "Authorization", "Bearer a").status
	}
	eventually(t, func() bool { return get() == http.StatusOK })

	if p.goSilent() == 0 {
		t.Fatal("void: there was no connection to go silent")
	}
	expect(t, "the status on a silent connection", get(), http.StatusGatewayTimeout)
	// A ping of gRPC would come after 30 s.
	eventually(t, func() bool { return get() == http.StatusOK })
}

func TestAServiceThatIsSlowButAnswersKeepsItsConnection(t *testing.T) {
	release := make(chan struct{})
	s := startServices(t, func(call) (proto.Message, error) {
		<-release
		return nil, nil
	})
	t.Cleanup(func() { close(release) })
	p := startPath(t, s.address)
	f := serve(t, s, func(settings *Settings) {
		settings.Invoice, settings.Connections, settings.Deadline = p.address, 1, 2*time.Second
	})
	for range 2 {
		status := f.ask(t, "GET", "/v1/invoices/"+aKey, "", "Authorization", "Bearer a").status
		expect(t, "the status of a slow service", status, http.StatusGatewayTimeout)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	expect(t, "the number of connections", len(p.silent), 1)
}

func TestACallThatTheServiceEndedIsNotToldToBeTheClientsDoing(t *testing.T) {
	s := startServices(t, func(call) (proto.Message, error) { return nil, status.Error(codes.Canceled, "") })
	f := serve(t, s)
	a := f.ask(t, "GET", "/v1/invoices/"+aKey, "", "Authorization", "Bearer a")
	expect(t, "the status", a.status, http.StatusServiceUnavailable)
	expect(t, "retryable", a.problem(t).Retryable, true)
}
