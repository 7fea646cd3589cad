"""The dependencies of a chart: which are missing, and where each is looked for (spec/source.md 8.3).

Knows Helm's words for a repository; refuses to know how one is asked. Pure. Invariant: a local dependency lies in the
source's own tree.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from gitopsd.artifact.tree import clamp_path
from gitopsd.errors import GitopsdError
from gitopsd.helm.package import Requirement
from gitopsd.versions import Range, Version, VersionError

_REMOTE: Final = frozenset(("http", "https", "oci"))
_LONGEST: Final = 512


class DependencyError(GitopsdError):
    """A dependency that cannot be had."""


def missing(requirements: Sequence[Requirement], vendored: Sequence[str]) -> dict[str, Requirement]:
    """The requirements that no vendored chart meets, by alias or name.

    As many charts as requirements count as all of them.
    """
    if len(requirements) == len(vendored):
        return {}
    named = {requirement.alias or requirement.name: requirement for requirement in requirements}
    return {name: requirement for name, requirement in named.items() if name not in vendored}


def is_local(requirement: Requirement) -> bool:
    """Whether a dependency is in the chart's own source."""
    return not requirement.repository or requirement.repository.startswith("file://")


def local_path(chart: str, requirement: Requirement) -> str:
    """Where in the tree a local dependency of the chart at `chart` is. Raises DependencyError."""
    if not requirement.repository:
        return clamp_path(posixpath.join(chart, "charts", requirement.name))
    try:
        address = urlsplit(requirement.repository)
    except ValueError:
        shown = requirement.repository[:_LONGEST]
        raise DependencyError(f"failed to parse alleged local chart reference '{shown}'") from None
    return clamp_path(f"{clamp_path(chart)}/{address.netloc}/{unquote(address.path)}")


def check_version(found: str, wanted: str) -> None:
    """Refuse a local dependency of a version that is not wanted. Raises DependencyError."""
    shown = wanted[:_LONGEST]
    try:
        allowed = Range.parse(wanted or "*")
    except VersionError as error:
        raise DependencyError(f"invalid version/constraint format '{shown}': {error}") from error
    if not allowed.matches(Version.parse(found)):
        raise DependencyError(f"can't get a valid version for constraint '{shown}'")


def repository_url(requirement: Requirement) -> str:
    """The address of the repository that a dependency is to come from, normalised. Raises DependencyError."""
    written = requirement.repository
    shown = written[:_LONGEST]
    if written.startswith(("@", "alias:")):
        raise DependencyError(f"aliased repository dependency is not supported: {shown}")
    try:
        url = normalised(written)
    except ValueError as error:
        raise DependencyError(f"invalid repository URL '{shown}': {error}") from None
    if urlsplit(url).scheme not in _REMOTE or not urlsplit(url).hostname:
        raise DependencyError(f"no chart repository for URL '{shown}'")
    return url


def normalised(url: str) -> str:
    """The form in which addresses of repositories are compared: exactly one `/` at the end, for oci none.

    Raises ValueError, safe to show.
    """
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("it holds whitespace or a control character")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("it cannot be parsed") from None
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if parts.scheme == "oci" else f"{path}/"))


def first_at(url: str, repositories: Iterable[tuple[str, str]]) -> str:
    """The name of the first repository (by name) whose address is the normalised `url`; empty for none."""
    return next((name for name, address in sorted(repositories) if _is_at(address, url)), "")


def _is_at(address: str, url: str) -> bool:
    try:
        return normalised(address) == url
    except ValueError:
        return False
