package main

import (
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// Live is not ready: readiness needs every service to say SERVING.
func TestReadiness(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s)
	expect(t, "alive", f.ask(t, "GET", "/healthz", "").status, 200)
	eventually(t, func() bool { return f.ask(t, "GET", "/readyz", "").status == 200 })
	expect(t, "ready", f.ask(t, "GET", "/readyz", "").text, `{"status":"ready","services":{"inventory":"SERVING","invoice":"SERVING","merchant":"SERVING"}}`)

	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	a := f.ask(t, "GET", "/readyz", "")
	expect(t, "one that is not serving", a.status, 503)
	if !strings.Contains(a.text, `"invoice":"NOT_SERVING"`) {
		t.Error(a.text)
	}
	s.server.Stop()
	a = f.ask(t, "GET", "/readyz", "")
	expect(t, "one that is away", a.status, 503)
	if !strings.Contains(a.text, `"invoice":"UNREACHABLE"`) {
		t.Error(a.text)
	}
	expect(t, "alive all the same", f.ask(t, "GET", "/healthz", "").status, 200)
}

// On a stop, readiness goes first, then the door closes, and what is under way is answered.
func TestAStopAnswersWhatIsUnderWay(t *testing.T) {
	arrived, goOn := make(chan struct{}), make(chan struct{})
	s := startServices(t, func(c call) (proto.Message, error) {
		if c.method == "CreateInvoice" {
			close(arrived)
			<-goOn
		}
		return nil, nil
	})
	f := serve(t, s, func(settings *Settings) {
		settings.MetricsAddress = "127.0.0.1:0"
		settings.DrainDelay = 300 * time.Millisecond
	})
	eventually(t, func() bool { return f.ask(t, "GET", "/readyz", "").status == 200 })
	status := make(chan int)
	go func() { status <- f.ask(t, "POST", "/v1/invoices", "{}", "Idempotency-Key", aKey).status }()
	<-arrived

	f.stop()
	eventually(t, func() bool { return f.ask(t, "GET", "/readyz", "").status == 503 })
	during, err := http.Get(f.url + "/v1/invoices")
	if err != nil || during.StatusCode != 200 || !during.Close {
		t.Errorf("while it drains: %v %+v; wanted: 200, and the connection closed after it", err, during)
	}
	eventually(t, func() bool {
		connection, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err == nil {
			connection.Close()
		}
		return err != nil
	})
	// The other door is still open: readiness and metrics can be read until the end.
	response, err := http.Get(f.metricsURL + "/readyz")
	if err != nil || response.StatusCode != 503 {
		t.Errorf("readiness while it drains: %v %v", response, err)
	}
	close(goOn)
	expect(t, "the one under way", <-status, 201)
	select {
	case err := <-f.stopped:
		f.stopped <- err
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it did not stop")
	}
}

// A stop is bounded: what does not end within it is cut off, and the process says so.
func TestAStopIsBounded(t *testing.T) {
	arrived := make(chan struct{})
	s := startServices(t, func(c call) (proto.Message, error) {
		close(arrived)
		<-c.stream.Context().Done()
		return nil, nil
	})
	f := serve(t, s, func(settings *Settings) { settings.Drain = 100 * time.Millisecond })
	go func() {
		r, _ := http.NewRequest("POST", f.url+"/v1/invoices", strings.NewReader("{}"))
		if response, err := http.DefaultClient.Do(r); err == nil {
			response.Body.Close()
		}
	}()
	<-arrived
	f.stop()
	err := <-f.stopped
	f.stopped <- err
	if err == nil || !strings.Contains(err.Error(), "still under way") {
		t.Errorf("it ended with %v", err)
	}
}

// A client that dribbles its header is cut off after five seconds, whatever it dribbles.
func TestADribblingClientIsCutOff(t *testing.T) {
	t.Parallel()
	f := serve(t, startServices(t, nil))
	connection, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	started := time.Now()
	cut := make(chan struct{})
	go func() {
		_ = connection.SetReadDeadline(started.Add(10 * time.Second))
		if _, err := connection.Read(make([]byte, 1)); err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			close(cut)
		}
	}()
	_, _ = connection.Write([]byte("GET /v1/invoices HTTP/1.1\r\nHost: a\r\n"))
	for dribble := time.NewTicker(200 * time.Millisecond); ; {
		select {
		case <-cut:
			dribble.Stop()
			if took := time.Since(started); took < 4*time.Second || took > 8*time.Second {
				t.Errorf("it was cut off after %s", took)
			}
			return
		case <-dribble.C:
			if time.Since(started) > 9*time.Second {
				t.Fatal("it was not cut off")
			}
			_, _ = connection.Write([]byte("X-A: b\r\n"))
		}
	}
}
