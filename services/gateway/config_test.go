package main

import (
	"strings"
	"testing"
	"time"
)

func lookup(settings map[string]string) func(string) string {
	return func(name string) string { return settings[name] }
}

// Absent settings have the defaults that the services have too.
func TestDefaults(t *testing.T) {
	s, err := ReadSettings(lookup(nil))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "address", s.Address, "127.0.0.1:8080")
	expect(t, "services", s.Merchant+" "+s.Inventory+" "+s.Invoice, "127.0.0.1:7001 127.0.0.1:7002 127.0.0.1:7003")
	expect(t, "deadline", s.Deadline, 5*time.Second)
	expect(t, "limit", s.IPLimit, Quota{100, time.Second})
	expect(t, "auth limit", s.AuthLimit, Quota{30, time.Minute})
	expect(t, "proxies", len(s.TrustedProxies), 0)
}

// Settings are read as written.
func TestSettings(t *testing.T) {
	s, err := ReadSettings(lookup(map[string]string{
		"INVOCHAIN_GATEWAY_ADDRESS": "0.0.0.0:80", "INVOCHAIN_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1,2001:db8::/32",
		"INVOCHAIN_GATEWAY_IP_LIMIT": "0", "INVOCHAIN_GATEWAY_AUTH_LIMIT": "5/1m", "INVOCHAIN_GATEWAY_DEADLINE": "2s",
	}))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "proxies", len(s.TrustedProxies), 3)
	expect(t, "single address", s.TrustedProxies[1].String(), "192.0.2.1/32")
	expect(t, "no limit", s.IPLimit, Quota{})
	expect(t, "auth limit", s.AuthLimit, Quota{5, time.Minute})
}

// Every wrong setting is named at once, with what was found and what is wanted.
func TestWrongSettings(t *testing.T) {
	wrong := map[string]string{
		"INVOCHAIN_GATEWAY_ADDRESS": "8080", "INVOCHAIN_INVOICE_ADDRESS": "host:port", "INVOCHAIN_GATEWAY_CONNECTIONS": "0",
		"INVOCHAIN_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8,proxy", "INVOCHAIN_GATEWAY_IP_LIMIT": "100", "INVOCHAIN_GATEWAY_AUTH_LIMIT": "-1/1s",
		"INVOCHAIN_GATEWAY_DEADLINE": "5", "INVOCHAIN_GATEWAY_DRAIN": "1s", "INVOCHAIN_GATEWAY_DRAIN_DELAY": "2s",
	}
	_, err := ReadSettings(lookup(wrong))
	if err == nil {
		t.Fatal("they were taken")
	}
	for name := range wrong {
		if name != "INVOCHAIN_GATEWAY_DRAIN" {
			expectContains(t, err.Error(), name)
		}
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != len(wrong)-1 {
		t.Errorf("%d lines: %s", lines, err)
	}
}
