"""Credentials out of `.dockerconfigjson`: which entry is for which repository.

Knows the two forms of Docker's configuration in Secrets (spec/source.md 11.1); refuses to know Kubernetes. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gitopsd.fetch.registryaddress import Repository


def credentials(secrets: Sequence[tuple[str, Mapping[str, bytes]]], repository: Repository) -> tuple[str, str, str]:
    """User name, password and bearer token for a repository out of Secrets (type, data); all empty for none.

    An identity token is the password of the user `<token>`. Secrets of other types are ignored. Raises ValueError,
    safe to show, for a configuration that cannot be read.
    """
    raise NotImplementedError
