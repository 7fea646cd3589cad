from __future__ import annotations

import asyncssh
import pytest

from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.fetch.giturl import parse
from gitopsd.fetch.knownhosts import TrustedHosts

ED = asyncssh.generate_private_key("ssh-ed25519")
RSA = asyncssh.generate_private_key("ssh-rsa")
SHORT = asyncssh.generate_private_key("ssh-rsa", key_size=1024)


def line(pattern: str, key: asyncssh.SSHKey) -> bytes:
    return pattern.encode() + b" " + key.export_public_key()


def hosts(url: str, *lines: bytes) -> TrustedHosts:
    return TrustedHosts(parse(url), b"".join(lines))


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("example.com", "ssh://example.com/a"),
        ("example.com,other", "ssh://example.com/a"),
        ("*.com", "ssh://example.com/a"),
        ("[example.com]:2222", "ssh://example.com:2222/a"),
        ("[::1]:2222", "ssh://[::1]:2222/a"),
        ("10.0.0.1", "ssh://10.0.0.1/a"),
    ],
)
def test_a_host_is_found(pattern, url):
    assert hosts(url, line(pattern, ED)).keys == [ED.convert_to_public()]


@pytest.mark.parametrize("pattern", ["example.org", "!example.com,*.com", "[example.com]:22222", "xexample.com"])
def test_A16_a_host_that_is_not_named_is_not_trusted(pattern):
    with pytest.raises(RemoteError, match=r"known_hosts has no key for 'example\.com:2222'"):
        hosts("ssh://example.com:2222/a", line(pattern, ED))


def test_A17_short_keys_and_sha1_prove_nothing():
    found = hosts("ssh://h/a", line("h", RSA), line("h", SHORT))
    assert found.keys == [RSA.convert_to_public()]
    assert {"rsa-sha2-256", "rsa-sha2-512"} <= set(found.algorithms(()))
    assert not {"ssh-rsa", "ssh-dss"} & set(found.algorithms(()))
    with pytest.raises(RemoteError, match="only RSA keys below 2048 bits for 'h'"):
        hosts("ssh://h/a", line("h", SHORT))


def test_an_operator_chooses_among_what_the_host_can():
    found = hosts("ssh://h/a", line("h", RSA), line("h", ED))
    assert found.algorithms(("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512")) == ["ssh-ed25519", "rsa-sha2-512"]
    with pytest.raises(RemoteError, match="--ssh-hostkey-algos"):
        found.algorithms(("ssh-rsa",))


def test_an_authority_may_vouch_for_hosts():
    found = hosts("ssh://h/a", line("@cert-authority *", ED))
    assert found.keys == []
    assert "ssh-ed25519-cert-v01@openssh.com" in found.algorithms(())
    assert not any(name.startswith("ssh-rsa-cert") for name in found.algorithms(()))


@pytest.mark.parametrize("text", [b"oneword", b"@nonsense h ssh-ed25519 AAAA"])
def test_a_file_that_cannot_be_read_is_an_authentication_failure(text):
    with pytest.raises(FetchError) as caught:
        hosts("ssh://h/a", text)
    assert caught.value.reason == "AuthenticationFailed"
