package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/ocsp"
)

const scope = "registry.example/app"

func artifact(content string) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content)),
	}
}

func trustPolicy(level string) []byte {
	policy, _ := json.Marshal(map[string]any{"version": "1.0", "trustPolicies": []any{map[string]any{
		"name": "all", "registryScopes": []string{"*"}, "signatureVerification": map[string]any{"level": level},
		"trustStores": []string{"ca:anything"}, "trustedIdentities": []string{"*"},
	}}})
	return policy
}

// signatory is a certificate with its key, and who signed it.
type signatory struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	issuer      *signatory
}

func newIdentity(t *testing.T, name string, issuer *signatory, change func(*x509.Certificate)) *signatory {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Tests"}, Country: []string{"XX"}, Province: []string{"X"}},
		NotBefore:    time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := template, key
	if issuer == nil {
		template.KeyUsage, template.IsCA, template.BasicConstraintsValid = x509.KeyUsageCertSign, true, true
	} else {
		parent, signer = issuer.certificate, issuer.key
	}
	if change != nil {
		change(template)
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &signatory{certificate, key, issuer}
}

func (i *signatory) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.certificate.Raw})
}

func (i *signatory) sign(t *testing.T, mediaType string, target ocispec.Descriptor) []byte {
	t.Helper()
	payload, _ := json.Marshal(map[string]any{"targetArtifact": target})
	chain := []*x509.Certificate{i.certificate}
	for one := i.issuer; one != nil; one = one.issuer {
		chain = append(chain, one.certificate)
	}
	signer, err := signature.NewLocalSigner(chain, i.key)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := signature.NewEnvelope(mediaType)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := envelope.Sign(&signature.SignRequest{
		Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: payload},
		Signer:  signer, SigningTime: i.certificate.NotBefore.Add(time.Hour), SigningScheme: signature.SigningSchemeX509,
	})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// notationTrial is one question to the engine; what is not set is as a good one has it.
type notationTrial struct {
	policy       []byte
	certificates map[string][]byte
	mediaType    string
	envelopes    [][]byte
	fetched      []fetchedPage
	bodies       [][]byte
	unfetched    bool
}

func (n notationTrial) ask(t *testing.T) (*notationAnswer, error) {
	t.Helper()
	target := artifact("app")
	request := &notationRequest{Reference: scope + "@" + target.Digest.String(), Artifact: target, Fetched: n.fetched}
	parts := [][]byte{n.policy}
	for name, data := range n.certificates {
		request.Certificates = append(request.Certificates, name)
		parts = append(parts, data)
	}
	if !n.unfetched {
		request.Signatures = []notationSignature{}
	}
	for _, envelope := range n.envelopes {
		request.Signatures = append(request.Signatures, notationSignature{artifact(string(envelope)), n.mediaType})
		parts = append(parts, envelope)
	}
	return verifyNotation(t.Context(), request, append(parts, n.bodies...))
}

func (n notationTrial) mustBe(t *testing.T, verdict string, notes ...string) {
	t.Helper()
	got, err := n.ask(t)
	if err != nil {
		t.Fatal(err)
	}
	if got.Verdict != verdict || len(got.Notes) != len(notes) {
		t.Fatalf("got %+v", got)
	}
	for index, note := range notes {
		if !strings.Contains(got.Notes[index], note) {
			t.Errorf("got %q, not %q", got.Notes[index], note)
		}
	}
}

func (n notationTrial) mustFail(t *testing.T, want string) {
	t.Helper()
	got, err := n.ask(t)
	if err == nil {
		t.Fatalf("got %+v", got)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, not %q", err, want)
	}
}

func Test_s11_1_NotationAcceptsBothFormsOfAnEnvelope(t *testing.T) {
	root := newIdentity(t, "root", nil, nil)
	signer := newIdentity(t, "signer", root, nil)
	for _, form := range []string{jws.MediaTypeEnvelope, cose.MediaTypeEnvelope} {
		trial := notationTrial{
			policy: trustPolicy("strict"), certificates: map[string][]byte{"ca.crt": root.pem()}, mediaType: form,
			envelopes: [][]byte{signer.sign(t, form, artifact("app"))},
		}
		trial.mustBe(t, "verified")
		trial.certificates = map[string][]byte{"ca.crt": root.certificate.Raw}
		trial.mustBe(t, "verified")
		other := newIdentity(t, "other", nil, nil)
		trial.certificates = map[string][]byte{"both.pem": append(other.pem(), root.pem()...)}
		trial.mustBe(t, "verified")
	}
}

func Test_s6_3_G12_NotationRefusesWhatProvesNothing(t *testing.T) {
	root, stranger := newIdentity(t, "root", nil, nil), newIdentity(t, "root", nil, nil)
	signer := newIdentity(t, "signer", root, nil)
	form := jws.MediaTypeEnvelope
	good := signer.sign(t, form, artifact("app"))
	expired := newIdentity(t, "old", root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	base := notationTrial{policy: trustPolicy("strict"), certificates: map[string][]byte{"ca.crt": root.pem()}, mediaType: form}
	with := func(envelopes ...[]byte) notationTrial { n := base; n.envelopes = envelopes; return n }

	with().mustFail(t, `no signature is associated with "registry.example/app@sha256:`)
	with(newIdentity(t, "signer", stranger, nil).sign(t, form, artifact("app"))).mustFail(t, "does not contain any trusted certificate")
	with(signer.sign(t, form, artifact("another"))).mustFail(t, "content descriptor mismatch")
	with(expired.sign(t, form, artifact("app"))).mustFail(t, "verification time is after certificate")
	with(good[:len(good)/2]).mustFail(t, "unexpected end of JSON input")
	with([]byte(strings.Replace(string(good), `"payload":"e`, `"payload":"f`, 1))).mustFail(t, "signature verification failed")
	wrong := with(good)
	wrong.mediaType = "text/plain"
	wrong.mustFail(t, "unable to parse the digital signature")
}

func Test_s11_1_NotationLooksAtThreeSignatures(t *testing.T) {
	root, stranger := newIdentity(t, "root", nil, nil), newIdentity(t, "stranger", nil, nil)
	form := jws.MediaTypeEnvelope
	good := newIdentity(t, "signer", root, nil).sign(t, form, artifact("app"))
	bad := func() []byte { return newIdentity(t, "signer", stranger, nil).sign(t, form, artifact("app")) }
	base := notationTrial{policy: trustPolicy("strict"), certificates: map[string][]byte{"ca.crt": root.pem()}, mediaType: form}
	third, fourth := base, base
	third.envelopes = [][]byte{bad(), bad(), good}
	third.mustBe(t, "verified")
	fourth.envelopes = [][]byte{bad(), bad(), bad(), good}
	fourth.mustFail(t, "The configured limit of 3 signatures to verify per artifact exceeded")
}

func Test_s6_3_NotationLevelsDecideWhatIsVerified(t *testing.T) {
	root, stranger := newIdentity(t, "root", nil, nil), newIdentity(t, "root", nil, nil)
	form := jws.MediaTypeEnvelope
	good := newIdentity(t, "signer", root, nil).sign(t, form, artifact("app"))
	foreign := newIdentity(t, "signer", stranger, nil).sign(t, form, artifact("app"))
	base := notationTrial{certificates: map[string][]byte{"ca.crt": root.pem()}, mediaType: form}
	ask := func(level string, envelopes ...[]byte) notationTrial {
		n := base
		n.policy, n.envelopes = trustPolicy(level), envelopes
		return n
	}
	for _, level := range []string{"strict", "permissive", "audit"} {
		ask(level, good).mustBe(t, "verified")
		ask(level).mustFail(t, "no signature is associated")
		unfetched := ask(level)
		unfetched.unfetched = true
		unfetched.mustBe(t, "signatures")
	}
	ask("strict", foreign).mustFail(t, "does not contain any trusted certificate")
	ask("permissive", foreign).mustFail(t, "does not contain any trusted certificate")
	ask("audit", foreign).mustBe(t, "unverified", "authenticity:")
	ask("skip", good).mustBe(t, "unverified")
	skip := ask("skip")
	skip.unfetched = true
	skip.mustBe(t, "unverified")
}

func Test_s11_1_NotationNamesWhatIsWrongWithItsSecret(t *testing.T) {
	root := newIdentity(t, "root", nil, nil)
	form := jws.MediaTypeEnvelope
	good := newIdentity(t, "signer", root, nil).sign(t, form, artifact("app"))
	trial := func(policy []byte, name string, data []byte) notationTrial {
		return notationTrial{policy: policy, certificates: map[string][]byte{name: data}, mediaType: form, envelopes: [][]byte{good}}
	}
	trial([]byte("{"), "ca.crt", root.pem()).mustFail(t, "trustpolicy.json cannot be read: unexpected end of JSON input")
	trial([]byte("{}"), "ca.crt", root.pem()).mustFail(t, "trustpolicy.json is not valid: ")
	trial(trustPolicy("lax"), "ca.crt", root.pem()).mustFail(t, `invalid signature verification level "lax"`)
	trial(trustPolicy("strict"), "bad.crt", []byte("nothing")).mustFail(t, "failed to parse certificate 'bad.crt': ")
	trial(trustPolicy("strict"), "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})).
		mustFail(t, "failed to parse certificate 'key.pem': it holds a PRIVATE KEY")
	elsewhere := []byte(strings.Replace(string(trustPolicy("strict")), `"*"],"sig`, `"registry.example/other"],"sig`, 1))
	trial(elsewhere, "ca.crt", root.pem()).mustFail(t, `artifact "registry.example/app@sha256:`)
}

func Test_s11_1_NotationNamesThePagesThatTellOfRevokedCertificates(t *testing.T) {
	root := newIdentity(t, "root", nil, nil)
	signer := newIdentity(t, "signer", root, func(c *x509.Certificate) { c.OCSPServer = []string{"http://ocsp.example"} })
	form := cose.MediaTypeEnvelope
	trial := notationTrial{
		policy: trustPolicy("strict"), certificates: map[string][]byte{"ca.crt": root.pem()}, mediaType: form,
		envelopes: [][]byte{signer.sign(t, form, artifact("app"))},
	}
	asked, err := trial.ask(t)
	if err != nil || asked.Verdict != "pages" || len(asked.Pages) != 1 {
		t.Fatalf("got %+v, %v", asked, err)
	}
	if !strings.HasPrefix(asked.Pages[0].URL, "http://ocsp.example/") || asked.Pages[0].Method != "GET" {
		t.Errorf("got %+v", asked.Pages[0])
	}
	reply := func(status int) []byte {
		body, err := ocsp.CreateResponse(root.certificate, root.certificate, ocsp.Response{
			Status: status, SerialNumber: signer.certificate.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute),
			NextUpdate: time.Now().Add(time.Hour), RevokedAt: time.Now().Add(-time.Hour), IssuerHash: crypto.SHA1,
		}, root.key)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	told := func(status int, body []byte) notationTrial {
		n := trial
		n.fetched, n.bodies = []fetchedPage{{asked.Pages[0], status}}, [][]byte{body}
		return n
	}
	told(200, reply(ocsp.Good)).mustBe(t, "verified")
	told(200, reply(ocsp.Revoked)).mustFail(t, "is revoked")
	told(200, []byte("no answer")).mustFail(t, "revocation status is unknown")
	told(503, nil).mustFail(t, "revocation status is unknown")
	told(0, nil).mustFail(t, "revocation status is unknown")
	lenient := told(0, nil)
	lenient.policy = trustPolicy("permissive")
	lenient.mustBe(t, "verified", "revocation:")
}

func Test_NotationIsAMethodOfTheEngine(t *testing.T) {
	talk := newTalk(t)
	target := artifact("app")
	fields := map[string]any{"reference": scope + "@" + target.Digest.String(), "artifact": target, "certificates": []string{}}
	talk.send("notation", 5, fields, trustPolicy("skip"))
	got, failed := talk.receive()
	if failed.Message != "" || !strings.Contains(string(got.header), `"parts":[],"verdict":"unverified"`) {
		t.Errorf("got %s %+v", got.header, failed)
	}
	talk.send("notation", 5, fields)
	if _, failed = talk.receive(); failed.Class != classRequest {
		t.Errorf("got %+v", failed)
	}
}
