"""Where things are in a registry: repositories, tags, digests, and how people write them.

Knows how addresses are read by those who push and pull images (spec/source.md 6.1, 6.3), Docker Hub's short forms
included; refuses to know what is behind an address. Pure.
Invariant: host and path of a `Repository` hold no character that could mean something else in a URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gitopsd.fetch.errors import printable

SCHEME: Final = "oci://"
DOCKER_HUB: Final = "index.docker.io"
_HUB_NAMES: Final = frozenset(("", "docker.io", DOCKER_HUB))
_PATH_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789_-./"
_TAG_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789_-.ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LONGEST_TAG: Final = 128
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class Repository:
    """A repository of a registry; `host` has a port if one was written. Docker Hub is the host that its API has."""

    host: str
    path: str

    @property
    def shown(self) -> str:
        """The repository as messages name it."""
        return f"{self.host}/{self.path}"

    def reference(self, tag_or_digest: str) -> str:
        """An artifact of the repository as messages name it: with `:` before a tag, `@` before a digest."""
        return f"{self.shown}{'@' if is_digest(tag_or_digest) else ':'}{tag_or_digest}"


def parse_repository(url: str) -> Repository:
    """Read `oci://host/path`. Raises ValueError with the text that follows `URL validation failed for '…': `."""
    if not url.startswith(SCHEME):
        raise ValueError("URL must be in format 'oci://<domain>/<org>/<repo>'")
    address = url.removeprefix(SCHEME)
    if not address:
        raise ValueError("a repository name must be specified")
    host, slash, path = address.partition("/")
    # What has neither a dot nor a port is part of a name on Docker Hub.
    if not slash or not ("." in host or ":" in host):
        host, path = "", address
    _check(path, "repository", 2, 255, _PATH_CHARACTERS)
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError(f"repository can have no empty, '.' or '..' parts: {path}")
    if host and not _is_authority(host):
        raise ValueError(f"registries must be valid RFC 3986 URI authorities: {printable(host, 256)}")
    if host in _HUB_NAMES:
        return Repository(DOCKER_HUB, path if "/" in path else f"library/{path}")
    return Repository(host, path)


def is_digest(reference: str) -> bool:
    """Whether a reference is a digest that content can be checked with."""
    return _DIGEST.fullmatch(reference) is not None


def check_reference(reference: str) -> None:
    """Raise ValueError, safe to show, for a text that is neither a tag nor a digest."""
    if ":" not in reference:
        _check(reference, "tag", 1, _LONGEST_TAG, _TAG_CHARACTERS)
    elif not is_digest(reference):
        raise ValueError(f"'{printable(reference, 256)}' is not a digest such as sha256:<64 hex digits>")


def is_tag(text: str) -> bool:
    """Whether a registry could have a tag of this name."""
    return 0 < len(text) <= _LONGEST_TAG and not text.strip(_TAG_CHARACTERS)


def _check(text: str, what: str, shortest: int, longest: int, characters: str) -> None:
    shown = printable(text, 512)
    if not shortest <= len(text) <= longest:
        raise ValueError(f"{what} must be between {shortest} and {longest} characters in length: {shown}")
    if not set(text) <= set(characters):
        raise ValueError(f"{what} can only contain the characters `{characters}`: {shown}")


def _is_authority(host: str) -> bool:
    if _HOST.fullmatch(host) is None:
        return False
    try:
        return bool(urlsplit(f"//{host}").hostname) and urlsplit(f"//{host}").port != 0
    except ValueError:
        return False
