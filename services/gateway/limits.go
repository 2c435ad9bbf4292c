package main

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"
)

// Addresses remembered by a limit; past it those that were quiet longest are forgotten, at most twice this are kept.
const rememberedMax = 50_000

// A limiter lets each address do quota requests a window, in a burst or evenly (GCRA, the token bucket that keeps one
// instant an address). It holds in this process only.
type limiter struct {
	name  string
	quota Quota
	now   func() time.Time

	mutex sync.Mutex
	// When an address has its whole quota again. Two generations: what is not asked for while one fills up is forgotten.
	young, old map[netip.Addr]time.Time
}

// newLimiter makes a limit; nil for no limit.
func newLimiter(name string, quota Quota, now func() time.Time) *limiter {
	if quota.Requests == 0 {
		return nil
	}
	return &limiter{name: name, quota: quota, now: now, young: map[netip.Addr]time.Time{}}
}

// A verdict says whether a request may pass, what is left, and when there is more.
type verdict struct {
	pass       bool
	remaining  int
	reset      time.Duration
	retryAfter time.Duration
}

// take counts a request of an address, unless it is refused: refused ones cost nothing.
func (l *limiter) take(address netip.Addr) verdict {
	address = household(address)
	each := l.quota.Window / time.Duration(l.quota.Requests)
	now := l.now()
	l.mutex.Lock()
	defer l.mutex.Unlock()
	full, known := l.young[address]
	if !known {
		full = l.old[address]
	}
	if full.Before(now) {
		full = now
	}
	next := full.Add(each)
	if wait := next.Sub(now) - l.quota.Window; wait > 0 {
		return verdict{reset: full.Sub(now), retryAfter: wait}
	}
	if !known && len(l.young) >= rememberedMax {
		l.old, l.young = l.young, map[netip.Addr]time.Time{}
	}
	l.young[address] = next
	used := next.Sub(now)
	return verdict{pass: true, remaining: int((l.quota.Window - used) / each), reset: used}
}

// household is what one customer has of the address space: an IPv4 address, or an IPv6 /64.
func household(address netip.Addr) netip.Addr {
	if address.Is6() {
		prefix, err := address.Prefix(64)
		if err == nil {
			return prefix.Addr()
		}
	}
	return address
}

// policy and state are the items of RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10).
func (l *limiter) policy() string {
	return fmt.Sprintf(`"%s";q=%d;w=%d`, l.name, l.quota.Requests, seconds(l.quota.Window))
}

func (l *limiter) state(v verdict) string {
	return fmt.Sprintf(`"%s";r=%d;t=%d`, l.name, v.remaining, seconds(v.reset))
}

func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
