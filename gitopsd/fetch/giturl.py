"""Addresses of Git repositories: read strictly, shown without secrets, compared by origin.

Knows the syntax of `http`, `https` and `ssh` URLs and of the relative URLs of submodules; refuses to know protocols,
credentials and Kubernetes. Pure.
Invariant: no part of a `GitURL` can be taken for an option or for shell syntax (spec/hostile-inputs.md A14, A15).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from gitopsd.api.meta import Reason
from gitopsd.fetch.errors import FetchError, printable

_LONGEST = 4096
_PORTS = {"http": 80, "https": 443, "ssh": 22}
_SYNTAX = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# None of these is in the address of a real repository, and each means something to a shell on the other side.
_SHELL = frozenset("'\"`$\\;|&<>")
_PATH_SAFE = "/:@!$&'()*+,;=~%-._"


@dataclass(frozen=True)
class GitURL:
    """An address taken apart. `path` and `query` are percent-encoded as they go on the wire; userinfo is decoded."""

    scheme: str
    host: str
    port: int | None
    path: str
    query: str = ""
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"<GitURL {self.shown}>"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self.host, self.port or _PORTS[self.scheme]

    @property
    def origin(self) -> tuple[str, str, int]:
        """What has to be equal for credentials to be sent."""
        return self.scheme, self.host.lower(), self.address[1]

    @property
    def netloc(self) -> str:
        """Host and, where it was given, port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def bare(self) -> str:
        """The address without userinfo and query."""
        return f"{self.scheme}://{self.netloc}{self.path}"

    @property
    def shown(self) -> str:
        """The address as a message shows it: secrets of userinfo and query are `***`."""
        query = "?***" if self.query else ""
        return f"{self.scheme}://{_shown_userinfo(self)}{self.netloc}{printable(self.path)}{query}"

    def below(self, tail: str, query: str = "") -> str:
        """The full address, without userinfo, of what is `tail` below this one."""
        both = "&".join(part for part in (self.query, query) if part)
        return f"{self.scheme}://{self.netloc}{self.path.rstrip('/')}{tail}{'?' if both else ''}{both}"

    @property
    def ssh_path(self) -> str:
        """The path that a Git server is asked for over SSH: decoded, and `~` at its beginning left to the server."""
        path = unquote(self.path)
        return path[1:] if path.startswith("/~") else path


def parse(text: str) -> GitURL:
    """Take an address apart.

    Raises FetchError `URLInvalid`, which stalls: `failed to parse url '<url>': <why>`.
    """
    try:
        return read(text)
    except ValueError as error:
        # An address that cannot be taken apart may hide a password anywhere before its last @.
        shown = re.sub(r"(://).*@", r"\1***@", printable(text, _LONGEST))
        why = "it cannot be taken apart" if "@" in text else str(error)
        raise FetchError(Reason.URL_INVALID, f"failed to parse url '{shown}': {why}", stalls=True) from None


def relative(base: GitURL, reference: str) -> GitURL:
    """The address of a submodule: absolute, or relative to the repository it is in.

    Userinfo of `base` is not carried over. Raises ValueError for anything that is not http, https or ssh, and for a
    path that climbs above the host (spec/hostile-inputs.md A36).
    """
    if not reference.startswith(("./", "../")):
        return read(reference)
    parts = base.path.rstrip("/").split("/")[1:]
    for part in reference.split("/"):
        if part == "..":
            if not parts:
                raise ValueError("it climbs above its host")
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    moved = replace(base, path="/" + "/".join(parts), username="", password="", query="")
    checked = read(moved.bare)
    return replace(checked, username=base.username) if base.scheme == "ssh" else checked


def mask_userinfo(text: str) -> str:
    """Hide passwords and tokens in anything that looks like the userinfo of a URL."""
    return re.sub(r"(://)([^/\s?#]*)@", lambda found: f"{found[1]}{_masked_pair(found[2])}@", text)


def _masked_pair(userinfo: str) -> str:
    name, colon, _ = userinfo.partition(":")
    return f"{name}:***" if colon else ("***" if name != "git" else name)


def _shown_userinfo(url: GitURL) -> str:
    if url.password:
        return f"{quote(url.username)}:***@"
    if not url.username:
        return ""
    # A user name alone is a token more often than a name, except for SSH.
    return f"{quote(url.username)}@" if url.scheme == "ssh" else "***@"


def read(text: str) -> GitURL:
    """Take an address apart; raises ValueError saying why it cannot be one, without hiding what it quotes."""
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    if any(character.isspace() or ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise ValueError("it holds whitespace or a control character")
    found = _SYNTAX.fullmatch(text)
    if found is None:
        raise ValueError("it has no scheme")
    scheme, authority, path, query, fragment = found[1].lower(), found[2], found[3], found[4] or "", found[5]
    if scheme not in _PORTS:
        raise ValueError(f"scheme '{printable(scheme, 64)}' is not supported, only http, https and ssh")
    if fragment is not None:
        raise ValueError("it has a fragment")
    userinfo, _, netloc = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    host, port = _host_and_port(netloc)
    encoded = quote(query, safe=_PATH_SAFE + "?")
    url = GitURL(scheme, host, port, _path(path, scheme), encoded, _decoded(username), _decoded(password))
    if url.username.startswith("-"):
        raise ValueError("the user name begins with a dash")
    return url


def _host_and_port(netloc: str) -> tuple[str, int | None]:
    if netloc.startswith("["):
        host, bracket, rest = netloc[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("the brackets around its host are wrong")
        try:
            host = ipaddress.IPv6Address(host).compressed
        except ValueError:
            raise ValueError("the host in brackets is not an IPv6 address") from None
        return host, _port(rest[1:]) if rest else None
    host, colon, port = netloc.partition(":")
    if not host:
        raise ValueError("it has no host")
    if _HOST.fullmatch(host) is None or len(host) > 253:
        raise ValueError(f"invalid host '{printable(host, 256)}'")
    return host, _port(port) if colon else None


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:6]) < 65536:
        raise ValueError(f"invalid port '{printable(text, 64)}' after host")
    return int(text)


def _decoded(text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise ValueError("invalid percent-encoding")
    decoded = unquote(text)
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in decoded):
        raise ValueError("it holds an encoded control character")
    return decoded


def _path(text: str, scheme: str) -> str:
    decoded = _decoded(text)
    if scheme == "ssh":
        if not decoded.strip("/"):
            raise ValueError("it names no repository")
        if not _SHELL.isdisjoint(decoded):
            raise ValueError("its path holds a character that a shell would interpret")
    return quote(text, safe=_PATH_SAFE)
