package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// A TLS is the files, in PEM, by which the gateway speaks TLS 1.3; older versions are refused on both sides.
type TLS struct {
	// The authority of the services' certificates, and what the gateway shows them; no CA: they are called in plain text.
	CA, Cert, Key string
	// What clients of REST are shown; empty: REST is served in plain text, for a balancer that ends TLS.
	RestCert, RestKey string
}

// forServices is how the services are called.
func (t TLS) forServices() (credentials.TransportCredentials, error) {
	if t.CA == "" {
		return insecure.NewCredentials(), nil
	}
	authorities := x509.NewCertPool()
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("INVOCHAIN_TLS_CA_FILE: %w", err)
	}
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("INVOCHAIN_TLS_CA_FILE: no certificate in PEM in %s", t.CA)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: authorities}
	if t.Cert != "" {
		ours, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("INVOCHAIN_TLS_CERT_FILE, INVOCHAIN_TLS_KEY_FILE: %w", err)
		}
		config.Certificates = []tls.Certificate{ours}
	}
	return credentials.NewTLS(config), nil
}

// forClients is how REST is served; nil: in plain text.
func (t TLS) forClients() (*tls.Config, error) {
	if t.RestCert == "" {
		return nil, nil
	}
	ours, err := tls.LoadX509KeyPair(t.RestCert, t.RestKey)
	if err != nil {
		return nil, fmt.Errorf("INVOCHAIN_GATEWAY_CERT_FILE, INVOCHAIN_GATEWAY_KEY_FILE: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ours}}, nil
}
