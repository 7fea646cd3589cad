"""Addresses around a Helm repository: its index, its charts, and who may see its credentials.

Pure. Knows spec/source.md 7.4, 8.3, 11.1 and spec/hostile-inputs.md F07, F08. Invariants: a chart's address is http,
https or oci; credentials go to the repository's own origin only, unless its owner says otherwise.
"""

from __future__ import annotations


def index_url(repository: str) -> str:
    """Where the index of a repository is; a query of the repository's URL stays. Raises ValueError, safe to show."""
    raise NotImplementedError


def chart_url(repository: str, written: str) -> str:
    """The address of a chart, as its index writes it, below the repository's. Raises ValueError, safe to show."""
    raise NotImplementedError


def may_send_credentials(repository: str, chart: str, *, pass_credentials: bool) -> bool:
    """Whether the repository's user name and password may be sent to the address of a chart."""
    raise NotImplementedError
