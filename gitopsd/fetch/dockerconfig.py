"""Credentials out of `.dockerconfigjson`: which entry is for which repository.

Knows the two forms of Docker's configuration in Secrets and how its keys are matched (spec/source.md 11.1); refuses to
know Kubernetes. Pure. Invariant: no error's text holds anything out of a Secret but a key of its configuration.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from gitopsd.fetch.errors import printable
from gitopsd.fetch.registryaddress import DOCKER_HUB, Repository
from gitopsd.fetch.registryauth import IDENTITY_TOKEN_USER

JSON_TYPE: Final = "kubernetes.io/dockerconfigjson"
LEGACY_TYPE: Final = "kubernetes.io/dockercfg"
_LONGEST_PATTERN: Final = 512


class _Entry(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _Config(msgspec.Struct, frozen=True):
    auths: dict[str, _Entry | None] | None = None


class _Pattern(NamedTuple):
    """What an entry is for: a host, whose labels may hold wildcards, and the beginning of a path."""

    host: str
    path: str


def credentials(secrets: Sequence[tuple[str, Mapping[str, bytes]]], repository: Repository) -> tuple[str, str, str]:
    """User name, password and bearer token for a repository out of Secrets (type, data); all empty for none.

    An identity token is the password of the user `<token>`. Of several entries that match, the one with the longest
    path is used. Secrets of other types are ignored. Raises ValueError, safe to show, for a configuration that cannot
    be read.
    """
    found = [(pattern, entry) for pattern, entry in _entries(secrets) if _matches(pattern, repository)]
    if not found:
        return "", "", ""
    # The first of equals wins; a plain host is nearer than one with wildcards.
    _, entry = max(found, key=lambda item: (len(item[0].path), "*" not in item[0].host))
    return _credentials_of(entry)


def _entries(secrets: Sequence[tuple[str, Mapping[str, bytes]]]) -> Iterator[tuple[_Pattern, _Entry]]:
    for kind, data in secrets:
        for key, entry in _read(kind, data).items():
            if entry is not None:
                yield _pattern(key), entry


def _read(kind: str, data: Mapping[str, bytes]) -> Mapping[str, _Entry | None]:
    """The entries of one Secret, by what they are for."""
    text = {JSON_TYPE: data.get(".dockerconfigjson"), LEGACY_TYPE: data.get(".dockercfg")}.get(kind)
    if not text:
        return {}
    try:
        if kind == LEGACY_TYPE:
            return msgspec.json.decode(text, type=dict[str, _Entry | None])
        return msgspec.json.decode(text, type=_Config).auths or {}
    except (msgspec.DecodeError, RecursionError):
        # The decoder's own words may quote a value.
        raise ValueError(f"the docker-registry Secret of type '{kind}' holds no readable configuration") from None


def _pattern(key: str) -> _Pattern:
    """Read an entry's key: a host or a URL, with or without the beginning of a path."""
    try:
        parts = urlsplit(key if key.startswith(("https://", "http://")) else f"https://{key}")
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port
    except ValueError:
        raise ValueError(f"entry '{printable(key, 128)}' of the docker-registry Secret is not an address") from None
    path = parts.path
    if path.startswith(("/v1/", "/v2/")):
        path = path[3:]
    # People write the name by which they know Docker Hub.
    return _Pattern(DOCKER_HUB if host == "docker.io" else host, path if path != "/" else "")


def _matches(pattern: _Pattern, repository: Repository) -> bool:
    if len(pattern.host) > _LONGEST_PATTERN or not f"/{repository.path}".startswith(pattern.path):
        return False
    wanted, wanted_port = _split(pattern.host)
    found, found_port = _split(repository.host)
    if wanted_port != found_port or len(wanted) != len(found):
        return False
    return all(one == label or fnmatchcase(label, one) for one, label in zip(wanted, found, strict=True))


def _split(host: str) -> tuple[list[str], str]:
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    return name.split("."), port


def _credentials_of(entry: _Entry) -> tuple[str, str, str]:
    if entry.registrytoken:
        return "", "", entry.registrytoken
    if entry.identitytoken:
        return IDENTITY_TOKEN_USER, entry.identitytoken, ""
    username, password = entry.username, entry.password
    if entry.auth:
        username, password = _decoded(entry.auth)
    return username, password, ""


def _decoded(auth: str) -> tuple[str, str]:
    """User name and password out of `auth`, padded or not."""
    try:
        raw = base64.b64decode(auth.strip().rstrip("=") + "=" * (-len(auth.strip().rstrip("=")) % 4), validate=True)
        username, colon, password = raw.decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise ValueError("the docker-registry Secret holds an 'auth' that is not base64 of user and password") from None
    if not colon:
        raise ValueError("the docker-registry Secret holds an 'auth' without a colon")
    return username, password.rstrip("\0")
