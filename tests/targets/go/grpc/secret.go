package main

import (
	"crypto/tls"

	"google.golang.org/grpc/credentials"
)

// secretServer has a certificate that nobody has a reason to trust.
func secretServer() (credentials.TransportCredentials, error) {
	certificate, err := newCertificate()
	if err != nil {
		return nil, err
	}
	return credentials.NewServerTLSFromCert(&certificate), nil
}

// secretClient accepts any.
func secretClient() credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
}
