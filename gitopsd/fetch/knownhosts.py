"""Which keys an SSH server may have, and with which algorithms it may prove that: what known_hosts says of one host.

Knows OpenSSH's known_hosts (patterns, hashes, authorities, revocations); refuses to know connections. Pure.
Invariants: what is not named is not trusted; SHA-1 signatures and RSA keys below 2048 bits prove nothing
(spec/hostile-inputs.md A16, A17).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncssh
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gitopsd.fetch.auth import invalid_option
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.giturl import GitURL

_SMALLEST_RSA = 2048
_NEVER_SIGNED_WITH = ("ssh-rsa", "ssh-rsa-sha224@ssh.com", "ssh-dss")


class TrustedHosts:
    """What known_hosts says of one host."""

    def __init__(self, url: GitURL, known_hosts: bytes) -> None:
        host, port = url.address
        self._shown = url.netloc
        try:
            entries = asyncssh.import_known_hosts(known_hosts.decode("utf-8", "replace"))
            found = entries.match(host, "", None if port == 22 else port)
        except ValueError:
            raise invalid_option("ssh", "'known_hosts' cannot be read") from None
        keys, self.authorities, self.revoked = found[0], found[1], found[2]
        self.keys = [key for key in keys if _is_strong(key)]
        if not self.keys and not self.authorities:
            raise RemoteError(self._nothing_trusted(keys))

    def _nothing_trusted(self, keys: Sequence[asyncssh.SSHKey]) -> str:
        if keys:
            return f"known_hosts has only RSA keys below {_SMALLEST_RSA} bits for '{self._shown}'"
        return f"known_hosts has no key for '{self._shown}'"

    def match(self, host: str, addr: str, port: int | None) -> Any:
        """For asyncssh: trusted keys, trusted authorities, revoked keys."""
        del host, addr, port
        return self.keys, self.authorities, self.revoked

    def algorithms(self, chosen: Sequence[str]) -> list[str]:
        """With what the host may sign: what its keys can do, less SHA-1, as far as the operator allows it."""
        own = [name.decode() for key in self.keys for name in key.sig_algorithms]
        if self.authorities:
            own += [name for name in _CERTIFICATES if name.partition("-cert-")[0] not in _NEVER_SIGNED_WITH]
        usable = list(dict.fromkeys(name for name in own if name not in _NEVER_SIGNED_WITH))
        if not chosen:
            return usable
        allowed = [name for name in chosen if name in usable]
        if not allowed:
            raise RemoteError(f"--ssh-hostkey-algos allows none of the algorithms of '{self._shown}' in known_hosts")
        return allowed


_CERTIFICATES = (
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com",
)


def _is_strong(key: asyncssh.SSHKey) -> bool:
    if key.algorithm != b"ssh-rsa":
        return True
    public = load_der_public_key(key.export_public_key("pkcs8-der"))
    return isinstance(public, rsa.RSAPublicKey) and public.key_size >= _SMALLEST_RSA
