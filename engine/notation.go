package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/notaryproject/notation-core-go/revocation"
	corecrl "github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	_ "github.com/notaryproject/notation-core-go/signature/cose" // the two forms of an envelope
	_ "github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// notationAttempts is how many signatures of one artifact are looked at.
const notationAttempts = 3

// notationRequest asks whether an artifact has a signature that its trust policy accepts. Everything comes as parts, in
// this order: the policy, the certificates, the envelopes of the signatures, the bodies of what was fetched.
//
// The engine has no network. What it lacks it names in its answer, and the same request comes again with more in it:
// first without the signatures (a policy may ask for none), then with them, then with the answers of those who know
// which certificates were revoked.
type notationRequest struct {
	Reference    string              `json:"reference"` // host/path@digest
	Artifact     ocispec.Descriptor  `json:"artifact"`
	Certificates []string            `json:"certificates"` // the names of the Secret's keys
	Signatures   []notationSignature `json:"signatures"`   // null: not fetched yet
	Fetched      []fetchedPage       `json:"fetched"`
}

type notationSignature struct {
	Manifest  ocispec.Descriptor `json:"manifest"`
	MediaType string             `json:"mediaType"` // of the envelope
}

// page is something on the web that tells about revoked certificates.
type page struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	Type   string `json:"type,omitempty"` // of what is sent
	Body   []byte `json:"body,omitempty"`
}

// fetchedPage is what the daemon got for a page; without a status it got nothing.
type fetchedPage struct {
	page
	Status int `json:"status"`
}

// notationAnswer says how it went. Verdict is "verified"; "unverified" if the policy lets the artifact pass although
// its signature proves nothing, or was not asked for; or "signatures" and "pages" for what is needed to go on.
type notationAnswer struct {
	usage
	Parts   []int    `json:"parts"` // none
	Verdict string   `json:"verdict"`
	Pages   []page   `json:"pages,omitempty"`
	Notes   []string `json:"notes,omitempty"` // checks that failed and were only to be noted
}

func (e *engine) notation(ctx context.Context, header []byte, parts [][]byte) (answer, [][]byte, error) {
	var request notationRequest
	if err := json.Unmarshal(header, &request); err != nil {
		return nil, nil, &failure{Class: classRequest, Message: err.Error()}
	}
	if len(parts) != 1+len(request.Certificates)+len(request.Signatures)+len(request.Fetched) {
		return nil, nil, &failure{Class: classRequest, Message: "parts are missing"}
	}
	result, err := verifyNotation(ctx, &request, parts)
	if err != nil {
		return nil, nil, err
	}
	result.Parts = []int{}
	return result, nil, nil
}

func verifyNotation(ctx context.Context, request *notationRequest, parts [][]byte) (*notationAnswer, error) {
	policy, err := readTrustPolicy(parts[0])
	if err != nil {
		return nil, err
	}
	certificates, rest := parts[1:1+len(request.Certificates)], parts[1+len(request.Certificates):]
	web := newPages(request.Fetched, rest[len(request.Signatures):])
	options, err := web.validators()
	if err != nil {
		return nil, err
	}
	judge, err := verifier.NewWithOptions(policy, &certificateStore{request.Certificates, certificates}, nil, options)
	if err != nil {
		return nil, buildError("trustpolicy.json is not valid: %v", err)
	}
	store := &signatureStore{request: request, envelopes: rest}
	_, outcomes, err := notation.Verify(ctx, judge, store, notation.VerifyOptions{
		ArtifactReference: request.Reference, MaxSignatureAttempts: notationAttempts,
	})
	switch {
	case errors.Is(err, errNotFetched):
		return &notationAnswer{Verdict: "signatures"}, nil
	case len(web.needed) > 0:
		return &notationAnswer{Verdict: "pages", Pages: web.needed}, nil
	case err != nil:
		return nil, err
	case len(outcomes) == 0:
		return nil, buildError("no signature was verified")
	}
	return verdict(outcomes[0]), nil
}

// verdict tells a proven signature from one that the policy merely tolerates.
func verdict(outcome *notation.VerificationOutcome) *notationAnswer {
	result := &notationAnswer{Verdict: "verified"}
	if outcome.VerificationLevel == trustpolicy.LevelSkip {
		result.Verdict = "unverified"
	}
	for _, check := range outcome.VerificationResults {
		if check.Error == nil {
			continue
		}
		result.Notes = append(result.Notes, fmt.Sprintf("%s: %v", check.Type, check.Error))
		if check.Type == trustpolicy.TypeAuthenticity {
			result.Verdict = "unverified"
		}
	}
	return result
}

// readTrustPolicy reads a policy. A statement that skips verification needs no trust, and the library would refuse it
// for having some.
func readTrustPolicy(data []byte) (*trustpolicy.Document, error) {
	var policy trustpolicy.Document
	if err := json.Unmarshal(data, &policy); err != nil {
		return nil, buildError("trustpolicy.json cannot be read: %v", err)
	}
	for index := range policy.TrustPolicies {
		statement := &policy.TrustPolicies[index]
		if statement.SignatureVerification.VerificationLevel == trustpolicy.LevelSkip.Name {
			statement.TrustStores, statement.TrustedIdentities = nil, nil
		}
	}
	return &policy, nil
}

// certificateStore trusts all certificates that were given, whatever the policy calls the store.
type certificateStore struct {
	names []string
	files [][]byte
}

func (s *certificateStore) GetCertificates(context.Context, truststore.Type, string) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for index, data := range s.files {
		certificates, err := readCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("failed to parse certificate '%s': %w", s.names[index], err)
		}
		found = append(found, certificates...)
	}
	return found, nil
}

// readCertificates reads PEM, and DER where there is no PEM.
func readCertificates(data []byte) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	block, rest := pem.Decode(data)
	if block == nil {
		return x509.ParseCertificates(data)
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	return found, nil
}

var errNotFetched = errors.New("signatures were not fetched yet")

// signatureStore is the library's view of the registry: only what the request brought along.
type signatureStore struct {
	request   *notationRequest
	envelopes [][]byte
}

func (s *signatureStore) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return s.request.Artifact, nil
}

func (s *signatureStore) ListSignatures(
	_ context.Context, _ ocispec.Descriptor, visit func([]ocispec.Descriptor) error,
) error {
	if s.request.Signatures == nil {
		return errNotFetched
	}
	manifests := make([]ocispec.Descriptor, len(s.request.Signatures))
	for index, one := range s.request.Signatures {
		manifests[index] = one.Manifest
	}
	return visit(manifests)
}

func (s *signatureStore) FetchSignatureBlob(
	_ context.Context, manifest ocispec.Descriptor,
) ([]byte, ocispec.Descriptor, error) {
	for index, one := range s.request.Signatures {
		if one.Manifest.Digest == manifest.Digest {
			return s.envelopes[index], ocispec.Descriptor{MediaType: one.MediaType}, nil
		}
	}
	return nil, ocispec.Descriptor{}, errors.New("not found")
}

func (s *signatureStore) PushSignature(
	context.Context, string, []byte, ocispec.Descriptor, map[string]string,
) (ocispec.Descriptor, ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, ocispec.Descriptor{}, errors.New("nothing is written here")
}

// pages stands in for the network: it answers with what was fetched and writes down what was not.
type pages struct {
	fetched []fetchedPage
	bodies  [][]byte

	mutex  sync.Mutex
	needed []page
}

func newPages(fetched []fetchedPage, bodies [][]byte) *pages {
	return &pages{fetched: fetched, bodies: bodies}
}

// validators are the library's own, with these pages as their network.
func (p *pages) validators() (verifier.VerifierOptions, error) {
	var options verifier.VerifierOptions
	client := &http.Client{Transport: p}
	fetcher, err := corecrl.NewHTTPFetcher(client)
	if err != nil {
		return options, err
	}
	validator := func(of purpose.Purpose) (made revocation.Validator) {
		if err == nil {
			made, err = revocation.NewWithOptions(revocation.Options{
				OCSPHTTPClient: client, CRLFetcher: fetcher, CertChainPurpose: of,
			})
		}
		return made
	}
	options.RevocationCodeSigningValidator = validator(purpose.CodeSigning)
	options.RevocationTimestampingValidator = validator(purpose.Timestamping)
	return options, err
}

func (p *pages) RoundTrip(request *http.Request) (*http.Response, error) {
	wanted := page{Method: request.Method, URL: request.URL.String(), Type: request.Header.Get("Content-Type")}
	if request.Body != nil {
		defer request.Body.Close()
		var err error
		if wanted.Body, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
	}
	for index, one := range p.fetched {
		if one.Method != wanted.Method || one.URL != wanted.URL || !bytes.Equal(one.Body, wanted.Body) {
			continue
		}
		if one.Status == 0 {
			return nil, errors.New("it could not be fetched")
		}
		return &http.Response{
			StatusCode: one.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
			Body: io.NopCloser(bytes.NewReader(p.bodies[index])), ContentLength: int64(len(p.bodies[index])),
			Request: request,
		}, nil
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.needed = append(p.needed, wanted)
	return nil, errors.New("it was not fetched yet")
}
