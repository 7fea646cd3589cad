"""Addresses around a Helm repository: its index, its charts, and who may see its credentials.

Pure. Knows spec/source.md 7.4, 8.3, 11.1 and spec/hostile-inputs.md F07, F08. Invariants: a chart's address is http,
https or oci; credentials go to the repository's own origin only, unless its owner says otherwise.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from gitopsd.fetch.errors import printable
from gitopsd.fetch.http import origin_of

_CHARTS = frozenset(("http", "https", "oci"))


def index_url(repository: str) -> str:
    """Where the index of a repository is; a query of the repository's URL stays. Raises ValueError, safe to show."""
    parts = _split(repository)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/index.yaml", fragment=""))


def chart_url(repository: str, written: str) -> str:
    """The address of a chart, as its index writes it, below the repository's. Raises ValueError, safe to show.

    The query of the repository's URL is kept for a relative address that has none, as that may be what opens the door.
    """
    base = _split(repository)
    parts = _split(urljoin(urlunsplit(base._replace(path=f"{base.path.rstrip('/')}/", query="", fragment="")), written))
    if parts.scheme not in _CHARTS or not parts.hostname:
        raise ValueError(f"the address of the chart is not http, https or oci: '{_shown(parts)}'")
    if not urlsplit(written).netloc and not parts.query:
        parts = parts._replace(query=base.query)
    return urlunsplit(parts._replace(fragment=""))


def may_send_credentials(repository: str, chart: str, *, pass_credentials: bool) -> bool:
    """Whether the repository's user name and password may be sent to the address of a chart."""
    try:
        return origin_of(chart) == origin_of(repository) or pass_credentials
    except ValueError:
        return False


def shown_url(url: str) -> str:
    """The URL as a message shows it: without userinfo and query, where secrets are."""
    try:
        return _shown(_split(url))
    except ValueError:
        return "(an address that cannot be read)"


def _split(url: str) -> SplitResult:
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("the address holds whitespace or a control character")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("the address cannot be parsed") from None
    return parts


def _shown(parts: SplitResult) -> str:
    """Without what may be secret."""
    return printable(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")), 256)
