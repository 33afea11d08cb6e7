package config

import (
	"crypto/x509"
	"fmt"
	"os"

	"github.com/pgtick/pgtick/tasks/httptask"
)

func readHTTPAllow(c *Config, value string) (err error) {
	c.Calls.Allow, err = httptask.ParseAllowed(value)
	return err
}

// readHTTPCA adds to what the system believes.
func readHTTPCA(c *Config, value string) error {
	if value == "" {
		return nil
	}
	text, err := os.ReadFile(value)
	if err != nil {
		return fmt.Errorf("can't be read: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("%s holds no certificate: give a file in PEM, with -----BEGIN CERTIFICATE-----", value)
	}
	c.Calls.Roots = roots
	return nil
}
