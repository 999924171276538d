package placing

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	eldr "eldr.internal/client"
)

// Credentials are what the daemon is called with; all are files but TLS.
type Credentials struct {
	// TokenFile has a bearer token with the role `route`.
	TokenFile string `json:"tokenFile"`
	// TLS, by the system's roots where there is no CAFile.
	TLS bool `json:"tls"`
	// CAFile has the authorities of the daemon's certificate, in PEM. It turns TLS on.
	CAFile string `json:"caFile"`
	// CertFile and KeyFile, in PEM, are for a daemon that asks for a certificate. They are read again for
	// each connection, as they rotate.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
}

// Into puts the credentials into a client's options.
func (c Credentials) Into(options *eldr.Options) error {
	if c.TokenFile != "" {
		token, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return err
		}
		options.Token = strings.TrimSpace(string(token))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("a client's certificate and its key need each other")
	}
	if !c.TLS && c.CAFile == "" && c.CertFile == "" {
		return nil
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return err
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: expected certificates in PEM, found none", c.CAFile)
		}
	}
	if c.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
			return err
		}
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &pair, err
		}
	}
	options.TLS = settings
	return nil
}
