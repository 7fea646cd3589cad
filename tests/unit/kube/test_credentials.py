from __future__ import annotations

import base64
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gitopsd.kube.credentials import (
    TENANT,
    Access,
    CredentialsError,
    InCluster,
    Kubeconfig,
    impersonation_headers,
)

CANARY = "CNRY-credentials-token-0123456789abcdef"


def pair(name: str) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


CA, CA_KEY = pair("ca")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def config(user: dict[str, Any] | None = None, context: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u", **(context or {})}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example.com:6443/", **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }


async def access_of(document: dict[str, Any], **options: Any) -> Access:
    return await Kubeconfig(json.dumps(document).encode(), **options).access()


async def test_a_token_becomes_a_bearer_header() -> None:
    access = await access_of(config({"token": f"{CANARY}\n"}, {"namespace": "apps"}))
    assert access.server == "https://api.example.com:6443"
    assert access.host == "api.example.com:6443"
    assert access.headers == (("Authorization", f"Bearer {CANARY}"),)
    assert access.namespace == "apps"
    assert access.tls is not None
    assert access.stale_at is None


async def test_credentials_are_in_no_text_of_an_access() -> None:
    access = await access_of(config({"token": CANARY}, **{"proxy-url": f"http://u:{CANARY}@proxy:1"}))
    assert CANARY not in repr(access)
    assert CANARY not in str(access)


async def test_a_password_becomes_a_basic_header() -> None:
    access = await access_of(config({"username": "u", "password": "p:w"}))
    assert access.headers == (("Authorization", f"Basic {b64(b'u:p:w')}"),)


async def test_identities_left_by_as_options_are_kept() -> None:
    extra = {"example.com/team": ["x", "y"]}
    user = {"token": "t", "as": "jane", "as-groups": ["a", "b"], "as-uid": "7", "as-user-extra": extra}
    access = await access_of(config(user))
    assert access.headers[1:] == (
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Extra-example.com%2Fteam", "x"),
        ("Impersonate-Extra-example.com%2Fteam", "y"),
    )


async def test_plain_http_has_no_tls() -> None:
    assert (await access_of(config(server="http://127.0.0.1:8080"))).tls is None


async def test_a_server_without_a_scheme_is_reached_by_https() -> None:
    assert (await access_of(config(server="api.example.com"))).server == "https://api.example.com"


async def test_the_same_material_keeps_its_tls_context_and_new_material_gets_a_new_one(tmp_path: Path) -> None:
    """T55: connections stay usable when a token rotates, and a rotated CA is trusted without a restart."""
    (tmp_path / "ca.crt").write_bytes(CA)
    (tmp_path / "token").write_text("one")
    user = {"tokenFile": "token"}
    (tmp_path / "config").write_text(json.dumps(config(user, **{"certificate-authority": "ca.crt"})))
    credentials = Kubeconfig([tmp_path / "config"])
    first = await credentials.access()
    (tmp_path / "token").write_text("two\n")
    second = await credentials.access()
    assert second.tls is first.tls
    assert (first.headers, second.headers) == (
        (("Authorization", "Bearer one"),),
        (("Authorization", "Bearer two"),),
    )
    (tmp_path / "ca.crt").write_bytes(pair("other")[0])
    third = await credentials.access()
    assert third.tls is not first.tls


async def test_a_token_file_wins_over_a_token_and_grows_stale(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file")
    document = config({"token": "inline", "tokenFile": str(tmp_path / "token")})
    access = await access_of(document, clock=lambda: 1000.0)
    assert access.headers == (("Authorization", "Bearer from-file"),)
    assert access.stale_at == 1060.0


async def test_client_certificates_come_from_data_and_from_files_beside_the_kubeconfig(tmp_path: Path) -> None:
    certificate, key = pair("client")
    (tmp_path / "c.crt").write_bytes(certificate)
    (tmp_path / "c.key").write_bytes(key)
    inline = {"client-certificate-data": b64(certificate), "client-key-data": b64(key)}
    assert (await access_of(config(inline, **{"certificate-authority-data": b64(CA)}))).tls is not None
    (tmp_path / "config").write_text(json.dumps(config({"client-certificate": "c.crt", "client-key": "c.key"})))
    assert (await Kubeconfig([tmp_path / "config"]).access()).tls is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there are no files in memory")
async def test_a_private_key_meets_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = pair("client")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    await access_of(config({"client-certificate-data": b64(certificate), "client-key-data": b64(key)}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "user",
    [
        {"tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token"},
        {"client-certificate": "/etc/passwd", "client-key-data": b64(CA_KEY)},
        {"client-certificate-data": b64(CA), "client-key": "/etc/passwd"},
        {"exec": {"command": "sh", "apiVersion": "client.authentication.k8s.io/v1"}},
        {"auth-provider": {"name": "oidc", "config": {}}},
    ],
)
async def test_a_tenants_kubeconfig_can_name_neither_files_nor_programs(user: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError, match="not allowed"):
        await access_of(config(user), trust=TENANT)


async def test_a_tenants_kubeconfig_can_neither_read_a_ca_file_nor_do_without_trust() -> None:
    with pytest.raises(CredentialsError, match="not allowed"):
        await access_of(config(**{"certificate-authority": "/etc/passwd"}), trust=TENANT)
    with pytest.raises(CredentialsError, match="not allowed"):
        await access_of(config(**{"insecure-skip-tls-verify": True}), trust=TENANT)


async def test_files_are_merged_and_the_first_to_define_a_name_wins(tmp_path: Path) -> None:
    one, two = config({"token": "one"}), config({"token": "two"}, server="https://two")
    two["contexts"].append({"name": "extra", "context": {"cluster": "c2", "user": "u"}})
    two["clusters"].append({"name": "c2", "cluster": {"server": "https://extra"}})
    (tmp_path / "one").write_text(json.dumps(one))
    (tmp_path / "two").write_text(json.dumps(two))
    paths = [tmp_path / "missing", tmp_path / "one", tmp_path / "two"]
    assert (await Kubeconfig(paths).access()).server == "https://api.example.com:6443"
    extra = await Kubeconfig(paths, context="extra").access()
    assert extra.server == "https://extra"
    assert extra.headers == (("Authorization", "Bearer one"),)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "no current-context"),
        ({"current-context": "x"}, "no context 'x'"),
        (config(server=""), "no server"),
        (config(server="ftp://x"), "plain http"),
        (config(server="https://user:pw@x"), "plain http"),
        (config(server="https://x:99999"), "plain http"),
        (config(server="https://x?y=z"), "plain http"),
        (config({"token": "a\nb"}), "header"),
        (config({"token": "é"}), "header"),
        (config({"client-certificate-data": "%%%"}), "not base64"),
        (config({"client-key-data": b64(CA_KEY)}), "need each other"),
        (config(**{"certificate-authority-data": b64(b"junk")}), "PEM"),
        (config(**{"proxy-url": "socks5://x"}), "proxy"),
        (config({"tokenFile": "/does/not/exist"}), "tokenFile cannot be read"),
    ],
)
async def test_what_cannot_be_used_is_named_and_not_shown(document: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CredentialsError, match=complaint) as caught:
        await access_of(document)
    assert "/does/not/exist" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"- a", b"a: [", b"a: &a [*a]", b"\xff\xfe", b"--- {}\n--- {}"])
async def test_what_is_no_kubeconfig_is_refused(text: bytes) -> None:
    with pytest.raises(CredentialsError):
        await Kubeconfig(text).access()


async def test_no_kubeconfig_at_all_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="does not exist"):
        await Kubeconfig([tmp_path / "nothing"]).access()


async def test_a_pod_uses_its_mounted_account(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("pod-token\n")
    (tmp_path / "ca.crt").write_bytes(CA)
    (tmp_path / "namespace").write_text("flux-system")
    access = await InCluster("10.0.0.1", "443", tmp_path, clock=lambda: 5.0).access()
    assert access.server == "https://10.0.0.1:443"
    assert access.headers == (("Authorization", "Bearer pod-token"),)
    assert access.namespace == "flux-system"
    assert access.stale_at == 65.0
    assert (await InCluster("fd00::1", "443", tmp_path).access()).server == "https://[fd00::1]:443"


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
async def test_a_pod_without_its_account_says_what_is_missing(tmp_path: Path, missing: str) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_bytes(CA)
    (tmp_path / missing).unlink()
    with pytest.raises(CredentialsError, match="service account") as caught:
        await InCluster("10.0.0.1", "443", tmp_path).access()
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "exceptions", "proxied"),
    [
        ("https://api.example.com", "", True),
        ("https://api.example.com", "example.com", False),
        ("https://api.example.com", ".example.com", False),
        ("https://api.example.com", "other.com, api.example.com", False),
        ("https://notexample.com", "example.com", True),
        ("https://10.1.2.3", "10.0.0.0/8", False),
        ("https://11.1.2.3", "10.0.0.0/8", True),
        ("https://api.example.com", "*", False),
        ("https://127.0.0.1:6443", "", False),
        ("https://localhost:6443", "", False),
    ],
)
async def test_the_environments_proxy_is_used_unless_excepted(server: str, exceptions: str, proxied: bool) -> None:
    proxies = {"https": "http://proxy:3128", "no": exceptions}
    access = await access_of(config(server=server), proxies=proxies)
    assert access.proxy == ("http://proxy:3128" if proxied else None)


async def test_the_kubeconfigs_own_proxy_wins() -> None:
    document = config(**{"proxy-url": "http://own:1"})
    assert (await access_of(document, proxies={"https": "http://other:2", "no": "*"})).proxy == "http://own:1"


def plugin(tmp_path: Path, answer: dict[str, Any], code: int = 0) -> dict[str, Any]:
    """A credential plugin that says `answer` and, on the other channel, a secret."""
    script = tmp_path / "plugin.sh"
    document = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": answer}
    (tmp_path / "answer").write_text(json.dumps(document))
    script.write_text(f"#!/bin/sh\necho {CANARY} >&2\ncat {tmp_path}/answer\nexit {code}\n")
    script.chmod(0o700)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


async def test_a_plugin_is_asked_for_its_token(tmp_path: Path) -> None:
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=15)
    answer = {"token": "from-plugin", "expirationTimestamp": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
    access = await access_of(config(plugin(tmp_path, answer)), clock=lambda: 0.0)
    assert access.headers == (("Authorization", "Bearer from-plugin"),)
    assert access.stale_at is not None
    assert 14 * 60 < access.stale_at < 15 * 60


async def test_a_plugin_may_answer_with_a_certificate(tmp_path: Path) -> None:
    certificate, key = pair("from-plugin")
    answer = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
    assert (await access_of(config(plugin(tmp_path, answer)))).tls is not None


async def test_a_plugin_that_fails_is_named_and_its_words_are_not_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CredentialsError, match="plugin failed: exec: process returned 3") as caught:
        await access_of(config(plugin(tmp_path, {}, code=3)))
    assert CANARY not in str(caught.value)
    assert CANARY not in caplog.text


@pytest.mark.parametrize("answer", [{}, {"token": ""}, {"clientCertificateData": "x"}, {"token": "a\nb"}])
async def test_a_plugin_that_proves_nothing_is_refused(tmp_path: Path, answer: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError):
        await access_of(config(plugin(tmp_path, answer)))


async def test_a_plugins_key_meets_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = pair("from-plugin")
    user = plugin(tmp_path, {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()})
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setenv("TMPDIR", str(spool))
    monkeypatch.setattr("tempfile.tempdir", None)
    await access_of(config(user))
    assert list(spool.iterdir()) == []


async def test_a_providers_token_is_used_as_long_as_it_lasts() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 4_000_000_000}).encode()).decode()
    token = f"e30.{claims.rstrip('=')}.c2ln"
    access = await access_of(config({"auth-provider": {"name": "oidc", "config": {"id-token": token}}}))
    assert access.headers == (("Authorization", f"Bearer {token}"),)


async def test_a_plugin_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(tmp_path / "missing")}}
    with pytest.raises(CredentialsError, match="plugin failed"):
        await access_of(config(user))


@pytest.mark.parametrize("user", ["", "a\r\nX-Evil: 1", "a\x00", "ü"])
def test_a_name_that_no_header_can_carry_is_no_identity(user: str) -> None:
    with pytest.raises(CredentialsError):
        impersonation_headers(user)
    with pytest.raises(CredentialsError):
        impersonation_headers("fine", [user])
