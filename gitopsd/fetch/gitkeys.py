"""The public keys that a Secret holds: OpenPGP and SSH, told apart by the names of its entries (spec/source.md 5.6).

Knows armored key rings and authorized_keys; refuses to know signatures and Kubernetes. Pure, and blocking: belongs into
a thread. Invariants: no key material reaches a message or a `repr`; private keys are refused; the number of keys is
bounded (spec/hostile-inputs.md D05, D06).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gitopsd.errors import GitopsdError
from gitopsd.fetch.errors import printable

if TYPE_CHECKING:
    from asyncssh import SSHKey
    from pysequoia import Cert

MOST_KEYS: Final = 1000
"""How many keys one Secret may hold."""

_PRIVATE: Final = re.compile(rb"-----BEGIN (?:[A-Z0-9 ]{1,40} )?PRIVATE KEY(?: BLOCK)?-----")
_PGP_KEY: Final = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_PGP_KEY_END: Final = b"-----END PGP PUBLIC KEY BLOCK-----"
# The options before a key in the style of authorized_keys: they end at the first space outside of quotes.
_SSH_OPTIONS: Final = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+[ \t]+(?=\S)')


class KeysError(GitopsdError):
    """The data of a Secret cannot serve as public keys."""


def fingerprint(data: Mapping[str, bytes]) -> str:
    """`sha256:<hex>` of the keys of a Secret: another value when any of them changes, in whatever order they come."""
    hashed = hashlib.sha256()
    for name in sorted(data):
        for part in (name.encode(), data[name]):
            hashed.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{hashed.hexdigest()}"


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys of one Secret. `unreadable` names entries that hold no key."""

    pgp: tuple[Cert, ...] = field(repr=False)
    ssh: tuple[SSHKey, ...] = field(repr=False)
    unreadable: tuple[str, ...] = ()

    @classmethod
    def read(cls, data: Mapping[str, bytes]) -> TrustedKeys:
        """Take keys by the names of their entries: `*.sshpub` are SSH keys, all else armored OpenPGP.

        An entry that holds no key adds no trust and is passed over while others do. Raises KeysError for no key at
        all, for too many, and for private keys.
        """
        pgp: list[Cert] = []
        ssh: list[SSHKey] = []
        unreadable: list[str] = []
        for name, value in sorted(data.items()):
            if _PRIVATE.search(value):
                raise KeysError(f"'{_shown(name)}' holds a private key")
            before = len(pgp) + len(ssh)
            if name.endswith(".sshpub"):
                ssh += _ssh_keys(value)
            else:
                pgp += _pgp_keys(name, value)
            _check_amount(len(pgp) + len(ssh))
            if len(pgp) + len(ssh) == before:
                unreadable.append(_shown(name))
        if not pgp and not ssh:
            raise KeysError(f"no public key in {listed(unreadable)}" if unreadable else "it is empty")
        return cls(tuple(pgp), tuple(ssh), tuple(unreadable))


def _pgp_keys(name: str, value: bytes) -> list[Cert]:
    from pysequoia import Cert
    from pysequoia.packet import PacketPile, Tag

    found: list[Cert] = []
    blocks = value.split(_PGP_KEY)[1:]
    _check_amount(len(blocks))
    for block in (_PGP_KEY + part.partition(_PGP_KEY_END)[0] + _PGP_KEY_END for part in blocks):
        try:
            if any(packet.tag in (Tag.SecretKey, Tag.SecretSubkey) for packet in PacketPile.from_bytes(block)):
                raise KeysError(f"'{_shown(name)}' holds a private key")
            found += Cert.split_bytes(block)
        except RuntimeError:  # the library's only error; its text holds a stack
            continue
        _check_amount(len(found))
    return found


def _ssh_keys(value: bytes) -> list[SSHKey]:
    lines = [line.strip() for line in value.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    _check_amount(len(lines))
    return [key for line in lines if (key := _ssh_key(line)) is not None]


def _check_amount(keys: int) -> None:
    if keys > MOST_KEYS:
        raise KeysError(f"there are more than {MOST_KEYS} keys")


def _ssh_key(line: str) -> SSHKey | None:
    """The key of one line of authorized_keys; None without one."""
    from asyncssh import KeyImportError, import_public_key
    from cryptography.exceptions import UnsupportedAlgorithm

    options = _SSH_OPTIONS.match(line)
    for text in (line, line[options.end() :] if options else ""):
        try:
            return import_public_key(text)
        except (KeyImportError, ValueError, OverflowError, UnsupportedAlgorithm):
            continue
    return None


def _shown(name: str) -> str:
    return printable(name, 128)


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first ones, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
