package main

import (
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// A clock that stands still until it is moved.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

// The quota may be used at once or evenly; the next request is refused until one share of the window has gone by.
func TestTheHundredAndFirstRequestIsRefused(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := newLimiter("ip", Quota{100, time.Second}, c.now)
	me, other := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	for i := range 100 {
		if v := l.take(me); !v.pass || v.remaining != 99-i {
			t.Fatalf("request %d: %+v", i+1, v)
		}
	}
	v := l.take(me)
	expect(t, "the 101st", v.pass, false)
	expect(t, "wait", v.retryAfter, 10*time.Millisecond)
	expect(t, "a neighbour", l.take(other).pass, true)

	c.at = c.at.Add(10 * time.Millisecond)
	expect(t, "one more after its share", l.take(me).pass, true)
	expect(t, "and no second one", l.take(me).pass, false)
	c.at = c.at.Add(time.Hour)
	v = l.take(me)
	expect(t, "all again after the window", v.remaining, 99)
}

// Refused requests cost nothing: whoever keeps asking is served again as soon as whoever waits.
func TestRefusedRequestsCostNothing(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := newLimiter("ip", Quota{1, time.Second}, c.now)
	me := netip.MustParseAddr("203.0.113.7")
	l.take(me)
	for range 1000 {
		l.take(me)
	}
	c.at = c.at.Add(time.Second)
	expect(t, "after the window", l.take(me).pass, true)
}

// One customer has a whole /64 of IPv6.
func TestAnIPv6NetworkIsOneCustomer(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := newLimiter("ip", Quota{1, time.Second}, c.now)
	expect(t, "first", l.take(netip.MustParseAddr("2001:db8::1")).pass, true)
	expect(t, "same /64", l.take(netip.MustParseAddr("2001:db8::ffff")).pass, false)
	expect(t, "other /64", l.take(netip.MustParseAddr("2001:db8:0:1::1")).pass, true)
}

// A flood of addresses takes a bounded memory, and those that keep asking stay known.
func TestMemoryIsBounded(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := newLimiter("ip", Quota{2, time.Hour}, c.now)
	me := netip.MustParseAddr("203.0.113.7")
	l.take(me)
	l.take(me)
	for i := range 3 * rememberedMax {
		l.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		if i == rememberedMax/2 && l.take(me).pass {
			t.Error("it was forgotten at once")
		}
	}
	if kept := len(l.young) + len(l.old); kept > 2*rememberedMax {
		t.Errorf("%d addresses are kept", kept)
	}
}

// Over HTTP: 429 with the time to wait, what is left in the headers, a count in the metrics; sign-in is stricter.
func TestLimitsOverHTTP(t *testing.T) {
	s := startServices(t, nil)
	f := serve(t, s, func(settings *Settings) {
		settings.IPLimit, settings.AuthLimit = Quota{5, time.Hour}, Quota{2, time.Minute}
	})
	for i := range 2 {
		a := f.ask(t, "POST", "/v1/auth:sign_in", "{}")
		expect(t, "sign in", a.status, 200)
		expect(t, "left", a.header.Values("RateLimit")[0], `"ip";r=`+strconv.Itoa(4-i)+`;t=`+strconv.Itoa(720*(i+1)))
		expect(t, "left", a.header.Values("RateLimit")[1], `"auth";r=`+strconv.Itoa(1-i)+`;t=`+strconv.Itoa(30*(i+1)))
		expect(t, "policy", a.header.Values("RateLimit-Policy")[0], `"ip";q=5;w=3600`)
	}
	a := f.ask(t, "POST", "/v1/auth:sign_in", "{}")
	expect(t, "third sign-in", a.status, 429)
	p := a.problem(t)
	expect(t, "code", p.Code, "RATE_LIMITED")
	expect(t, "retryable", p.Retryable, true)
	expect(t, "retry after", a.header.Get("Retry-After"), "30")

	expect(t, "a read", f.ask(t, "GET", "/v1/stock", "").status, 200)
	expect(t, "the fifth", f.ask(t, "GET", "/v1/stock", "").status, 200)
	a = f.ask(t, "GET", "/v1/stock", "", "X-Forwarded-For", "6.6.6.6")
	expect(t, "the sixth, with a forged address", a.status, 429)
	expect(t, "probes pass", f.ask(t, "GET", "/healthz", "").status, 200)
	metrics := f.ask(t, "GET", "/metrics", "").text
	for _, wanted := range []string{`rate_limit_exceeded_total{scope="auth"} 1`, `rate_limit_exceeded_total{scope="ip"} 1`} {
		expectContains(t, metrics, wanted)
	}
}

// Zero requests mean no limit, and no headers about one.
func TestNoLimit(t *testing.T) {
	f := serve(t, startServices(t, nil))
	for range 300 {
		a := f.ask(t, "GET", "/v1/stock", "")
		if a.status != 200 || a.header.Get("RateLimit") != "" {
			t.Fatalf("%d %v", a.status, a.header)
		}
	}
}
