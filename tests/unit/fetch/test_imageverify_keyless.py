"""What is accepted without keys: certificates, logs and identities of one Sigstore, each of them and all together."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.fulcio import Identities
from gitopsd.fetch.imagesignatures import Artifact, SimpleSignature, VerifyError
from gitopsd.fetch.keyless import KeylessCheck
from gitopsd.fetch.trustroot import TrustRoot
from tests.sigstore import ISSUER, NOW, SUBJECT, Flaws, Signed, Sigstore, b64, new_key, simple_payload, statement

DIGEST = "sha256:" + "12" * 32
OTHER = "sha256:" + "ab" * 32
ARTIFACT = Artifact(DIGEST)
SIGSTORE = Sigstore()
EXACT = [(f"^{ISSUER}$", f"^{SUBJECT}$")]


def check(root: bytes = b"", identities: list[tuple[str, str]] = EXACT) -> KeylessCheck:
    return KeylessCheck(TrustRoot.read(root or SIGSTORE.trusted_root()), Identities(identities))


def simple(signer: Signed, digest: str = DIGEST, **changes: Any) -> SimpleSignature:
    payload = changes.pop("payload", simple_payload(digest))
    signature, entry = signer.simple(payload)
    fields = {"payload": payload, "signature": signature, "certificate": signer.pem, "log_entry": entry} | changes
    if not isinstance(fields["log_entry"], bytes):
        fields["log_entry"] = json.dumps(fields["log_entry"]).encode()
    return SimpleSignature(**fields)


FORMS: dict[str, Callable[[Signed, KeylessCheck], None]] = {
    "before version 3": lambda signer, judge: judge.signature(simple(signer), ARTIFACT),
    "statement": lambda signer, judge: judge.bundle(json.dumps(signer.bundle(DIGEST)).encode(), ARTIFACT),
    "message": lambda signer, judge: judge.bundle(json.dumps(signer.message_bundle(DIGEST)).encode(), ARTIFACT),
}


@pytest.fixture(params=FORMS)
def judged(request: pytest.FixtureRequest) -> Callable[[Signed, KeylessCheck], None]:
    return FORMS[request.param]


Judged = Callable[[Signed, KeylessCheck], None]


def test_s6_3_a_good_signature_is_accepted_long_after_its_certificate_ended(judged: Judged) -> None:
    judged(SIGSTORE.signed(), check())
    judged(SIGSTORE.signed(Flaws(old_issuer_extension=True)), check())


FLAWS: dict[str, tuple[Flaws, str]] = {
    "an expired certificate": (Flaws(logged=timedelta(minutes=11)), "not valid|failed to build|cert is not valid"),
    "a certificate of the future": (Flaws(logged=-timedelta(minutes=1)), "not valid|failed to build"),
    "no timestamp of a certificate log": (Flaws(timestamps=0), "timestamp"),
    "a timestamp of another certificate log": (Flaws(certificate_log_key=new_key()), "timestamp|SCT"),
    "the promise of another log": (Flaws(log_key=new_key()), "of a log that was not trusted|log entry"),
    "an entry for another certificate": (Flaws(other_certificate=True), "another signature|inconsistent|do not match"),
    "a certificate for another purpose": (Flaws(code_signing=False), "not one for signing|code signing"),
    "another subject": (Flaws(subject=x509.RFC822Name("else@example.org")), "made by 'else@example.org' of"),
    "another issuer": (Flaws(issuer="https://else.example"), "of 'https://else.example'"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_s6_3_G12_signatures_without_keys_that_prove_nothing(judged: Judged, flaw: str) -> None:
    flaws, message = FLAWS[flaw]
    with pytest.raises(VerifyError, match=message):
        judged(SIGSTORE.signed(flaws), check())


def test_s6_3_G12_another_authority_is_not_believed(judged: Judged) -> None:
    stranger = Sigstore()
    stranger.log_key, stranger.certificate_log_key = SIGSTORE.log_key, SIGSTORE.certificate_log_key
    with pytest.raises(VerifyError, match=r"not valid|failed to build"):
        judged(stranger.signed(), check())


@pytest.mark.parametrize("part", ["certificateAuthorities", "tlogs", "ctlogs"])
def test_s6_3_G12_what_is_no_longer_vouched_for_is_not_believed(judged: Judged, part: str) -> None:
    ended = json.loads(SIGSTORE.trusted_root(until=NOW - timedelta(seconds=1)))
    root = SIGSTORE.trusted_root(**{part: ended[part]})
    with pytest.raises(VerifyError):
        judged(SIGSTORE.signed(), check(root))
    judged(SIGSTORE.signed(), check(SIGSTORE.trusted_root(until=NOW + timedelta(minutes=2))))


SIMPLE_FLAWS: dict[str, tuple[Callable[[Signed], SimpleSignature], str]] = {
    "a payload for another artifact": (lambda s: simple(s, OTHER), "it is for another artifact"),
    "an exchanged payload": (
        lambda s: simple(s, OTHER, payload=simple_payload(OTHER)),
        "it is for another artifact",
    ),
    "an entry of another payload": (
        lambda s: simple(s, log_entry=s.simple(simple_payload(OTHER))[1]),
        "its log entry is about another signature",
    ),
    "another signature": (lambda s: simple(s, signature=b"x"), "its log entry is about another signature"),
    "no certificate": (lambda s: simple(s, certificate=b""), "it was made with a key"),
    "a certificate that is none": (lambda s: simple(s, certificate=b"x"), "its certificate cannot be read"),
    "no log entry": (lambda s: simple(s, log_entry=b""), "it has no entry of a transparency log"),
    "a log entry that is none": (lambda s: simple(s, log_entry=b"[]"), "its log entry cannot be read"),
    "an entry that is about nothing": (lambda s: simple(s, log_entry=s.promised(b"{}")), "is not about a signature"),
    "an entry of another kind": (
        lambda s: simple(s, log_entry=s.promised(other_kind(s))),
        "its log entry is of kind 'intoto', not 'hashedrekord'",
    ),
    "an impossible time": (lambda s: simple(s, log_entry=moved(s, 1 << 60)), "its log entry has an impossible time"),
    "a time that was moved": (
        lambda s: simple(s, log_entry=moved(s, int(NOW.timestamp()))),
        "its log entry was not signed by the log",
    ),
    "a body that was exchanged": (
        lambda s: simple(s, log_entry=exchanged(s)),
        "its log entry was not signed by the log",
    ),
}


def other_kind(signer: Signed) -> bytes:
    body = json.loads(base64.b64decode(signer.simple(simple_payload(DIGEST))[1]["Payload"]["body"]))
    return json.dumps(body | {"kind": "intoto"}).encode()


def moved(signer: Signed, time: int) -> dict[str, Any]:
    _, entry = signer.simple(simple_payload(DIGEST))
    entry["Payload"]["integratedTime"] = time
    return entry


def exchanged(signer: Signed) -> dict[str, Any]:
    _, entry = signer.simple(simple_payload(DIGEST))
    entry["Payload"]["body"] = signer.simple(simple_payload(OTHER))[1]["Payload"]["body"]
    return entry


@pytest.mark.parametrize("flaw", SIMPLE_FLAWS)
def test_s6_3_G12_old_signatures_without_keys_that_prove_nothing(flaw: str) -> None:
    make, message = SIMPLE_FLAWS[flaw]
    with pytest.raises(VerifyError, match=message):
        check().signature(make(SIGSTORE.signed()), ARTIFACT)


def test_s6_3_G12_a_key_cannot_borrow_the_entry_of_another() -> None:
    """CVE-2022-36056: an entry that is good in itself, beside a signature that it is not about."""
    good, thief = SIGSTORE.signed(), SIGSTORE.signed(Flaws(subject=x509.RFC822Name("thief@example.org")))
    _, entry = good.simple(simple_payload(DIGEST))
    stolen = simple(thief, certificate=good.pem, log_entry=entry)
    with pytest.raises(VerifyError, match="about another signature"):
        check().signature(stolen, ARTIFACT)


def entry_of(made: dict[str, Any]) -> dict[str, Any]:
    (entry,) = made["verificationMaterial"]["tlogEntries"]
    return dict(entry)


def without(made: dict[str, Any], *names: str) -> dict[str, Any]:
    entry = {name: value for name, value in entry_of(made).items() if name not in names}
    material = made["verificationMaterial"] | {"tlogEntries": [entry]}
    return made | {"verificationMaterial": material}


def proof(made: dict[str, Any], **changes: Any) -> dict[str, Any]:
    entry = entry_of(made)
    entry["inclusionProof"] = entry["inclusionProof"] | changes
    return made | {"verificationMaterial": made["verificationMaterial"] | {"tlogEntries": [entry]}}


def pasted(made: dict[str, Any], payload: bytes) -> dict[str, Any]:
    return made | {"dsseEnvelope": made["dsseEnvelope"] | {"payload": b64(payload)}}


BUNDLE_FLAWS: dict[str, Callable[[Signed], dict[str, Any]]] = {
    "a statement about another artifact": lambda s: s.bundle(OTHER),
    "a message about another artifact": lambda s: s.message_bundle(OTHER),
    "an exchanged statement": lambda s: pasted(s.bundle(OTHER), statement(DIGEST)),
    "a payload of another type": lambda s: s.bundle(DIGEST, kind="text/plain"),
    "no entry": lambda s: s.bundle(DIGEST) | {"verificationMaterial": {"tlogEntries": []}},
    "no certificate": lambda s: s.bundle(DIGEST) | {"verificationMaterial": {"publicKey": {"hint": "x"}}},
    "no proof": lambda s: without(s.bundle(DIGEST), "inclusionProof"),
    "no promise": lambda s: without(s.bundle(DIGEST), "inclusionPromise"),
    "a proof of another root": lambda s: proof(s.bundle(DIGEST), rootHash=b64(b"x" * 32)),
    "a proof without a checkpoint": lambda s: proof(s.bundle(DIGEST), checkpoint=None),
    "a checkpoint that is none": lambda s: proof(s.bundle(DIGEST), checkpoint={"envelope": "x"}),
    "a checkpoint of another log": lambda s: proof(
        s.bundle(DIGEST),
        checkpoint=entry_of(Sigstore().signed().bundle(DIGEST))["inclusionProof"]["checkpoint"],
    ),
    "an index that was moved": lambda s: proof(s.bundle(DIGEST), logIndex="0"),
    "an impossible size": lambda s: proof(s.bundle(DIGEST), treeSize="-1"),
    "the entry of another signature": lambda s: (
        s.bundle(DIGEST) | {"verificationMaterial": s.bundle(OTHER)["verificationMaterial"]}
    ),
    "the material of another": lambda s: (
        s.bundle(DIGEST) | {"verificationMaterial": SIGSTORE.signed().bundle(DIGEST)["verificationMaterial"]}
    ),
    "neither form": lambda s: {key: value for key, value in s.bundle(DIGEST).items() if key != "dsseEnvelope"},
    "another media type": lambda s: s.bundle(DIGEST) | {"mediaType": "application/vnd.dev.sigstore.bundle.v9+json"},
    "a time that is none": lambda s: (
        s.bundle(DIGEST)
        | {"verificationMaterial": {"tlogEntries": [entry_of(s.bundle(DIGEST)) | {"integratedTime": "x"}]}}
    ),
    "a time beyond all times": lambda s: (
        s.bundle(DIGEST)
        | {
            "verificationMaterial": s.bundle(DIGEST)["verificationMaterial"]
            | {"tlogEntries": [entry_of(s.bundle(DIGEST)) | {"integratedTime": "9" * 18}]}
        }
    ),
}


@pytest.mark.parametrize("flaw", BUNDLE_FLAWS)
def test_s6_3_G12_bundles_without_keys_that_prove_nothing(flaw: str) -> None:
    made = BUNDLE_FLAWS[flaw](SIGSTORE.signed())
    with pytest.raises(VerifyError):
        check().bundle(json.dumps(made).encode(), ARTIFACT)


@given(st.data())
def test_s6_3_G12_a_damaged_bundle_never_counts_and_never_breaks_anything(data: st.DataObject) -> None:
    """Any one value of a bundle is exchanged for another."""
    made = DAMAGED.bundle(DIGEST)
    node: Any = made
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        before = node[key]
        node[key] = data.draw(st.sampled_from([None, "", "AAAA", "-1", 0, -1, [], {}, 1 << 70, "\ud83d\ude00", True]))
        break
    try:
        check().bundle(json.dumps(made).encode(), ARTIFACT)
    except VerifyError:
        return
    assert before == node[key]


DAMAGED = SIGSTORE.signed()
DAMAGED_DER = DAMAGED.certificate.public_bytes(Encoding.DER)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.integers(0, len(DAMAGED_DER) - 1), st.integers(1, 255))
def test_s6_3_G12_a_damaged_certificate_never_counts_and_never_breaks_anything(place: int, change: int) -> None:
    """Any one byte of a certificate is another, in the signature and in a log entry that was made for it."""
    raw = bytearray(DAMAGED_DER)
    raw[place] ^= change
    made = DAMAGED.bundle(DIGEST)
    made["verificationMaterial"]["certificate"]["rawBytes"] = b64(bytes(raw))
    with pytest.raises(VerifyError):
        check().bundle(json.dumps(made).encode(), ARTIFACT)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(raw) + b"\n-----END CERTIFICATE-----\n"
    signature, entry = DAMAGED.simple(simple_payload(DIGEST))
    body = json.loads(base64.b64decode(entry["Payload"]["body"]))
    body["spec"]["signature"]["publicKey"]["content"] = b64(pem)
    logged = DAMAGED.promised(json.dumps(body).encode())
    with pytest.raises(VerifyError):
        check().signature(simple(DAMAGED, certificate=pem, signature=signature, log_entry=logged), ARTIFACT)


@given(st.data())
def test_s6_3_G12_a_damaged_log_entry_never_counts_and_never_breaks_anything(data: st.DataObject) -> None:
    signature, entry = DAMAGED.simple(simple_payload(DIGEST))
    node = data.draw(st.sampled_from([entry, entry["Payload"]]))
    key = data.draw(st.sampled_from(sorted(node)))
    node[key] = data.draw(st.sampled_from([None, "", "AAAA", "-1", 0, -1, 1 << 40, [], {}, 1 << 70, "\u00e9", True]))
    with pytest.raises(VerifyError):
        check().signature(simple(DAMAGED, signature=signature, log_entry=entry), ARTIFACT)


# -- identities --------------------------------------------------------------------------------------------------------

MATCHES: dict[str, tuple[list[tuple[str, str]], bool]] = {
    "none: anybody": ([], True),
    "exactly": (EXACT, True),
    "somewhere in it": ([("issuer", "example")], True),
    "from the start only": ([("^issuer", "ci@")], False),
    "up to the end only": ([(ISSUER, "example$")], False),
    "an empty issuer": ([("", SUBJECT)], True),
    "an empty subject": ([(ISSUER, "")], True),
    "both empty": ([("", "")], True),
    "the second of two": ([("no", "no"), (ISSUER, SUBJECT)], True),
    "issuer of one and subject of another": ([(ISSUER, "no"), ("no", SUBJECT)], False),
    "alternatives": ([("^https://(issuer|other)\\.example$", "^(ci|cd)@")], True),
    "alternatives at the top": ([("nobody|^https", "nobody|ci")], True),
    "any case": ([("(?i)ISSUER", "(?i)CI@EXAMPLE")], True),
    "Go's classes": ([("[[:alpha:]]+\\.example", "\\w+@\\pL+")], True),
    "a dot that is quoted": ([("issuer\\Q.\\Eexample", SUBJECT)], True),
}


@pytest.mark.parametrize("case", MATCHES)
def test_s6_3_identities_are_go_expressions_any_of_which_may_match(judged: Judged, case: str) -> None:
    identities, is_match = MATCHES[case]
    judge = check(identities=identities)
    if is_match:
        judged(SIGSTORE.signed(), judge)
    else:
        with pytest.raises(VerifyError, match=f"it was made by '{SUBJECT}' of '{ISSUER}'"):
            judged(SIGSTORE.signed(), judge)


NAMES: dict[str, x509.GeneralName] = {
    "https://ci.example/org/repo@refs/heads/main": x509.UniformResourceIdentifier(
        "https://ci.example/org/repo@refs/heads/main"
    ),
    "host.example": x509.DNSName("host.example"),
    "user!name": x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7"), b"\x0c\x09user!name"),
}


@pytest.mark.parametrize("name", NAMES)
def test_s6_3_subjects_of_every_kind_are_read(name: str) -> None:
    certificate = SIGSTORE.signed(Flaws(subject=NAMES[name])).certificate
    Identities([(ISSUER, f"^{name.replace('/', '[/]')}$")]).check(certificate)
    with pytest.raises(VerifyError):
        Identities([(ISSUER, f"^{name[1:]}$")]).check(certificate)


@pytest.mark.parametrize(
    "subject",
    [
        x509.IPAddress(__import__("ipaddress").ip_address("127.0.0.1")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x01x"),
    ],
    ids=["address", "other"],
)
def test_s6_3_names_of_other_kinds_identify_nobody(subject: x509.GeneralName) -> None:
    certificate = SIGSTORE.signed(Flaws(subject=subject)).certificate
    with pytest.raises(VerifyError, match=f"it was made by nobody of '{ISSUER}'"):
        Identities([(ISSUER, ".*")]).check(certificate)


@pytest.mark.parametrize("raw", [b"\x05\x00", b"\x04\x01a", b"\x0c\x01\xff"], ids=["null", "bytes", "no UTF-8"])
def test_s6_3_a_name_that_cannot_be_read_is_refused(raw: bytes) -> None:
    subject = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7"), raw)
    certificate = SIGSTORE.signed(Flaws(subject=subject)).certificate
    with pytest.raises(VerifyError, match="its certificate's identity cannot be read"):
        Identities(EXACT).check(certificate)


BAD_EXPRESSIONS = ["(", "a)(b", ")(?s:.*)|(", "(?=x)", "(a)\\1", "[z-a]", "a{1001}", "x" * 1025]


@pytest.mark.parametrize("pattern", BAD_EXPRESSIONS)
def test_s6_3_what_is_no_go_expression_is_told(pattern: str) -> None:
    with pytest.raises(VerifyError, match="of an identity is no regular expression"):
        Identities([("", pattern)])


def test_s6_3_a_costly_expression_takes_no_time() -> None:
    certificate = SIGSTORE.signed(Flaws(subject=x509.RFC822Name("a" * 60 + "@x.example"))).certificate
    with pytest.raises(VerifyError):
        Identities([("", "^(a+)+$")]).check(certificate)


def test_s6_3_a_very_long_name_matches_nothing() -> None:
    certificate = SIGSTORE.signed(Flaws(subject=x509.DNSName("a." * 2000 + "example"))).certificate
    with pytest.raises(VerifyError) as caught:
        Identities([("", "a")]).check(certificate)
    assert len(caught.value.message) < 500


def test_s6_3_text_of_a_certificate_is_made_harmless() -> None:
    certificate = SIGSTORE.signed(Flaws(subject=x509.RFC822Name("a\x1b[31m@x.example"), issuer="x\u202ey")).certificate
    with pytest.raises(VerifyError) as caught:
        Identities(EXACT).check(certificate)
    assert caught.value.message.isprintable()


# -- trusted roots -----------------------------------------------------------------------------------------------------

BAD_ROOTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"topsecret", "trusted_root.json cannot be read: "),
    "no object": (b"[]", "trusted_root.json cannot be read: "),
    "nothing in it": (b"{}", "trusted_root.json cannot be read: "),
    "a deep one": (b'{"a":' + b"[" * 100_000, "trusted_root.json cannot be read: "),
    "of another type": (SIGSTORE.trusted_root(mediaType="text/plain"), "trusted_root.json is no trusted root, but 'te"),
    "no authorities": (SIGSTORE.trusted_root(certificateAuthorities=[]), "trusted_root.json lists no certificate auth"),
    "no log": (SIGSTORE.trusted_root(tlogs=[]), "trusted_root.json lists no certificate authority or no transpar"),
    "no certificate": (
        SIGSTORE.trusted_root(certificateAuthorities=[{"certChain": {"certificates": [{"rawBytes": "AAAA"}]}}]),
        "trusted_root.json holds a certificate that cannot be read",
    ),
    "too large": (b"{" + b" " * (1 << 20), "trusted_root.json is larger than 1048576 bytes"),
}


@pytest.mark.parametrize("case", BAD_ROOTS)
def test_s11_1_a_trusted_root_that_cannot_be_used_is_told(case: str) -> None:
    raw, message = BAD_ROOTS[case]
    with pytest.raises(VerifyError) as caught:
        TrustRoot.read(raw)
    assert caught.value.message.startswith(message)
    assert "topsecret" not in caught.value.message


def test_s11_1_a_root_without_certificate_logs_accepts_nothing(judged: Judged) -> None:
    with pytest.raises(VerifyError):
        judged(SIGSTORE.signed(), check(SIGSTORE.trusted_root(ctlogs=[])))


def test_s11_1_logs_whose_keys_nobody_can_use_are_passed_over(judged: Judged) -> None:
    root = json.loads(SIGSTORE.trusted_root())
    key = {"rawBytes": "AAAA", "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": {"start": "2020-01-01T00:00:00Z"}}
    unusable = {
        "baseUrl": "https://x.example",
        "hashAlgorithm": "SHA2_256",
        "publicKey": key,
        "logId": {"keyId": "AAAA"},
    }
    root["tlogs"].append(unusable)
    judged(SIGSTORE.signed(), check(json.dumps(root).encode()))


def test_the_sigstore_library_is_loaded_only_for_bundles_without_keys() -> None:
    script = """
import sys
from gitopsd.fetch.imageverify import ImageVerifier
loaded = [name for name in ("sigstore", "sigstore_models", "pydantic", "tuf", "requests") if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_P15_all_expressions_together_have_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = x509.load_pem_x509_certificate(SIGSTORE.signed().pem)
    identities = Identities([("", "nobody")] * 99 + [("", "")])
    identities.check(certificate)
    monkeypatch.setattr("gitopsd.fetch.fulcio._PATIENCE", -1.0)
    with pytest.raises(VerifyError, match="the expressions of the identities take too long"):
        identities.check(certificate)


def test_P15_the_number_of_identities_is_bounded() -> None:
    Identities([("a", "b")] * 100)
    with pytest.raises(VerifyError, match="there are more than 100 identities"):
        Identities([("a", "b")] * 101)
