package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Settings of the gateway, read once at start from environment variables INVOCHAIN_*; refused whole when one is wrong.
type Settings struct {
	// Where REST is served, host:port.
	Address string
	// Where /metrics is served; empty: on Address.
	MetricsAddress string
	// Where the services are, host:port.
	Merchant, Inventory, Invoice string
	// How the services are called, and REST is served.
	TLS TLS
	// Connections to each service. More than one lets several worker processes behind one port share the load.
	Connections int
	// Peers whose X-Forwarded-For names the caller; nobody by default.
	TrustedProxies []netip.Prefix
	// Requests of one caller's address; of one address to the methods that take no token.
	IPLimit, AuthLimit Quota
	// Requests under way at once; the next one is refused with BULKHEAD_FULL.
	InFlightMax int
	// Time a request has, sent on as grpc-timeout (PROTOCOL 13: 5.0 s, more than any handler takes).
	Deadline time.Duration
	// How long a stop may take; how much of it /readyz says 503 before the door closes, so that balancers notice.
	Drain, DrainDelay time.Duration
}

// Quota is a number of requests a window; zero requests mean no limit.
type Quota struct {
	Requests int
	Window   time.Duration
}

// ReadSettings reads the settings by lookup (os.Getenv) and names every wrong one at once.
func ReadSettings(lookup func(string) string) (Settings, error) {
	r := reader{lookup: lookup}
	s := Settings{
		Address:        r.address("INVOCHAIN_GATEWAY_ADDRESS", "127.0.0.1:8080"),
		MetricsAddress: r.address("INVOCHAIN_GATEWAY_METRICS_ADDRESS", ""),
		Merchant:       r.address("INVOCHAIN_MERCHANT_ADDRESS", "127.0.0.1:7001"),
		Inventory:      r.address("INVOCHAIN_INVENTORY_ADDRESS", "127.0.0.1:7002"),
		Invoice:        r.address("INVOCHAIN_INVOICE_ADDRESS", "127.0.0.1:7003"),
		Connections:    r.number("INVOCHAIN_GATEWAY_CONNECTIONS", 4, 1, 64),
		TrustedProxies: r.prefixes("INVOCHAIN_GATEWAY_TRUSTED_PROXIES"),
		IPLimit:        r.quota("INVOCHAIN_GATEWAY_IP_LIMIT", "100/1s"),
		AuthLimit:      r.quota("INVOCHAIN_GATEWAY_AUTH_LIMIT", "30/60s"),
		InFlightMax:    r.number("INVOCHAIN_GATEWAY_IN_FLIGHT_MAX", 1024, 1, 100_000),
		Deadline:       r.duration("INVOCHAIN_GATEWAY_DEADLINE", "5s", 100*time.Millisecond, time.Minute),
		Drain:          r.duration("INVOCHAIN_GATEWAY_DRAIN", "15s", 0, 10*time.Minute),
		DrainDelay:     r.duration("INVOCHAIN_GATEWAY_DRAIN_DELAY", "0s", 0, 10*time.Minute),
	}
	s.TLS = TLS{
		CA:       r.text("INVOCHAIN_TLS_CA_FILE", ""),
		Cert:     r.text("INVOCHAIN_TLS_CERT_FILE", ""),
		Key:      r.text("INVOCHAIN_TLS_KEY_FILE", ""),
		RestCert: r.text("INVOCHAIN_GATEWAY_CERT_FILE", ""),
		RestKey:  r.text("INVOCHAIN_GATEWAY_KEY_FILE", ""),
	}
	if (s.TLS.Cert == "") != (s.TLS.Key == "") {
		r.wrong("INVOCHAIN_TLS_KEY_FILE", s.TLS.Key, "set with INVOCHAIN_TLS_CERT_FILE, both or none")
	}
	if (s.TLS.RestCert == "") != (s.TLS.RestKey == "") {
		r.wrong("INVOCHAIN_GATEWAY_KEY_FILE", s.TLS.RestKey, "set with INVOCHAIN_GATEWAY_CERT_FILE, both or none")
	}
	if s.DrainDelay > s.Drain {
		r.wrong("INVOCHAIN_GATEWAY_DRAIN_DELAY", s.DrainDelay.String(), "at most INVOCHAIN_GATEWAY_DRAIN, "+s.Drain.String())
	}
	return s, errors.Join(r.found...)
}

type reader struct {
	lookup func(string) string
	found  []error
}

func (r *reader) wrong(name, found, wanted string) {
	r.found = append(r.found, fmt.Errorf("%s is %q; wanted: %s", name, found, wanted))
}

func (r *reader) text(name, absent string) string {
	if value := strings.TrimSpace(r.lookup(name)); value != "" {
		return value
	}
	return absent
}

func (r *reader) address(name, absent string) string {
	value := r.text(name, absent)
	if value == "" {
		return ""
	}
	_, port, err := net.SplitHostPort(value)
	if number, bad := strconv.Atoi(port); err != nil || bad != nil || number < 0 || number > 65535 {
		r.wrong(name, value, "host:port")
	}
	return value
}

func (r *reader) number(name string, absent, least, most int) int {
	value := r.text(name, strconv.Itoa(absent))
	number, err := strconv.Atoi(value)
	if err != nil || number < least || number > most {
		r.wrong(name, value, fmt.Sprintf("a whole number from %d to %d", least, most))
	}
	return number
}

func (r *reader) duration(name, absent string, least, most time.Duration) time.Duration {
	value := r.text(name, absent)
	duration, err := time.ParseDuration(value)
	if err != nil || duration < least || duration > most {
		r.wrong(name, value, fmt.Sprintf("a duration from %s to %s, for example 2s", least, most))
	}
	return duration
}

func (r *reader) prefixes(name string) []netip.Prefix {
	var found []netip.Prefix
	for item := range strings.SplitSeq(r.text(name, ""), ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			address, single := netip.ParseAddr(item)
			if single != nil {
				r.wrong(name, item, "addresses or networks such as 10.0.0.0/8, with commas between")
				continue
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		found = append(found, prefix.Masked())
	}
	return found
}

func (r *reader) quota(name, absent string) Quota {
	value := r.text(name, absent)
	if value == "0" {
		return Quota{}
	}
	count, window, _ := strings.Cut(value, "/")
	requests, bad := strconv.Atoi(count)
	duration, worse := time.ParseDuration(window)
	if bad != nil || worse != nil || requests < 1 || requests > 1_000_000 || duration < time.Second || duration > time.Hour {
		r.wrong(name, value, "requests/window such as 100/1s or 1000/60s (window 1s to 1h), or 0 for no limit")
		return Quota{}
	}
	return Quota{Requests: requests, Window: duration}
}
