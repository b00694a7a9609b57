package endpoint

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// extensionOID names the certificate extension that holds the identity.
var extensionOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 53594, 1, 1}

// signedIdentity is the value of the extension.
type signedIdentity struct {
	Identity  []byte
	Signature []byte
}

// Errors of the handshake.
var (
	// ErrCertificate is wrapped by every error about the peer's certificate.
	ErrCertificate = errors.New("certificate refused")
	// ErrWrongNode says that another node answered than the one dialled.
	ErrWrongNode = errors.New("another node answered")
)

// identityError marks what verify returns, so that it can be found again in
// what crypto/tls and QUIC make of it.
type identityError struct{ err error }

func (e *identityError) Error() string { return e.err.Error() }

func (e *identityError) Unwrap() error { return e.err }

// serverName is what iroh-net sends; nobody checks it.
const serverName = "localhost"

// certificate makes a certificate for one endpoint or dial.
func certificate(key *identity.SecretKey) (tls.Certificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate key: %w", err)
	}
	return certificateFor(key, private)
}

// certificateFor makes the certificate of a given P-256 key.
func certificateFor(key *identity.SecretKey, private *ecdsa.PrivateKey) (tls.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate key: %w", err)
	}
	id := key.NodeID()
	value, err := asn1.Marshal(signedIdentity{Identity: id[:], Signature: key.SignTLS(spki)})
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate extension: %w", err)
	}
	var serial [20]byte
	rand.Read(serial[:])
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always 20 bytes
	template := &x509.Certificate{
		SerialNumber:    new(big.Int).SetBytes(serial[:]),
		NotBefore:       time.Date(1975, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:        time.Date(4096, 1, 1, 0, 0, 0, 0, time.UTC),
		ExtraExtensions: []pkix.Extension{{Id: extensionOID, Critical: true, Value: value}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}

// tlsConfig is what both roles share. wanted is the node dialled, zero for a
// listener, who takes any.
func tlsConfig(key *identity.SecretKey, alpns []string, wanted identity.NodeID, keyLog io.Writer) (*tls.Config, error) {
	cert, err := certificate(key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		// Always ours, whatever authorities the server names.
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
		ClientAuth:             tls.RequireAnyClientCert,
		ServerName:             serverName,
		NextProtos:             alpns,
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // VerifyConnection does all of it
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := verify(state, key.NodeID(), wanted); err != nil {
				return &identityError{err}
			}
			return nil
		},
		KeyLogWriter: keyLog,
	}, nil
}

// verify checks the peer's certificate and that it is the wanted node's.
func verify(state tls.ConnectionState, self, wanted identity.NodeID) error {
	if state.DidResume {
		return fmt.Errorf("%w: a resumed session", ErrCertificate)
	}
	id, err := peerID(state)
	switch {
	case err != nil:
		return err
	case id == self:
		return fmt.Errorf("%w: it holds our own node id", ErrCertificate)
	case !wanted.IsZero() && id != wanted:
		return fmt.Errorf("%w: %s instead of %s", ErrWrongNode, id.Short(), wanted.Short())
	default:
		return nil
	}
}

// peerID reads and checks the identity in the peer's certificate (S3).
func peerID(state tls.ConnectionState) (identity.NodeID, error) {
	if n := len(state.PeerCertificates); n != 1 {
		return identity.NodeID{}, fmt.Errorf("%w: %d certificates, want 1", ErrCertificate, n)
	}
	return certificateID(state.PeerCertificates[0], time.Now())
}

// certificateID checks one certificate and returns the identity it holds.
func certificateID(cert *x509.Certificate, now time.Time) (identity.NodeID, error) {
	if err := checkKey(cert); err != nil {
		return identity.NodeID{}, err
	}
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return identity.NodeID{}, fmt.Errorf("%w: not valid now", ErrCertificate)
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return identity.NodeID{}, fmt.Errorf("%w: self-signature: %w", ErrCertificate, err)
	}
	signed, err := extension(cert)
	if err != nil {
		return identity.NodeID{}, err
	}
	id, err := identity.NodeIDFromBytes(signed.Identity)
	if err != nil {
		return identity.NodeID{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if !id.Verify(identity.TLSMessage(cert.RawSubjectPublicKeyInfo), signed.Signature) {
		return identity.NodeID{}, fmt.Errorf("%w: the identity did not sign its key", ErrCertificate)
	}
	return id, nil
}

// checkKey admits the pairs of key and signature that iroh-net admits.
func checkKey(cert *x509.Certificate) error {
	switch key := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() && cert.SignatureAlgorithm == x509.ECDSAWithSHA256 ||
			key.Curve == elliptic.P384() && cert.SignatureAlgorithm == x509.ECDSAWithSHA384 {
			return nil
		}
	case ed25519.PublicKey:
		if cert.SignatureAlgorithm == x509.PureEd25519 {
			return nil
		}
	}
	return fmt.Errorf("%w: key %s with signature %s", ErrCertificate, cert.PublicKeyAlgorithm, cert.SignatureAlgorithm)
}

// extension returns the identity extension, which must be there once and be
// the only critical one.
func extension(cert *x509.Certificate) (signedIdentity, error) {
	var signed signedIdentity
	found := 0
	for _, ext := range cert.Extensions {
		switch {
		case ext.Id.Equal(extensionOID):
			found++
			rest, err := asn1.Unmarshal(ext.Value, &signed)
			if err != nil || len(rest) != 0 {
				return signedIdentity{}, fmt.Errorf("%w: malformed identity", ErrCertificate)
			}
			// The encoding must be the one form of DER.
			again, err := asn1.Marshal(signed)
			if err != nil || !bytes.Equal(again, ext.Value) {
				return signedIdentity{}, fmt.Errorf("%w: malformed identity", ErrCertificate)
			}
		case ext.Critical:
			return signedIdentity{}, fmt.Errorf("%w: unknown critical extension %s", ErrCertificate, ext.Id)
		}
	}
	if found != 1 {
		return signedIdentity{}, fmt.Errorf("%w: %d identity extensions, want 1", ErrCertificate, found)
	}
	return signed, nil
}
