"""The words of this package: on whose behalf a token is wanted, and what is handed out.

Knows no cloud and no network. Invariant: nothing secret is part of a `repr`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from gitopsd.api.meta import Reason
from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.proxy import Proxy

T = TypeVar("T")

Cloud = Literal["aws", "azure", "gcp"]

_GATE_DISABLED = (
    "to use spec.serviceAccountName for provider authentication please enable the ObjectLevelWorkloadIdentity "
    "feature gate in the controller"
)


@dataclass(frozen=True)
class Identity:
    """Which object wants a token, and as whom.

    Without a `service_account` it is the daemon's own identity. With one, `annotations` are those of that
    ServiceAccount in the object's namespace, and `token` asks the API server for a token of it with an audience.
    `tls` is used only where the object brings its own credentials (GitHub Apps): what a tenant trusts must never
    decide who sees the daemon's identity.
    """

    kind: str
    namespace: str
    name: str
    proxy: Proxy | None = None
    tls: TlsIdentity = field(default_factory=TlsIdentity)
    service_account: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    token: Callable[[str], Awaitable[str]] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class AwsKeys:
    """Keys that sign requests to AWS. `session_token` is empty for long-lived keys."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class GitCloudAuth:
    """How a Git server of a cloud is asked: with a user name and password, or with a bearer token."""

    username: str = ""
    password: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)


@dataclass(frozen=True)
class Issued(Generic[T]):
    """Something a cloud gave out, and for how many seconds it is good."""

    value: T = field(repr=False)
    lifetime: float


class NoCredentialsError(RemoteError):
    """Nothing here says who the daemon is in that cloud: no environment, no metadata service."""


def require_object_identity(*, is_enabled: bool) -> None:
    """Raise the FetchError of an object that names a ServiceAccount for a cloud without the feature gate.

    Stalls (spec/source.md 5.7, 6.3, 9.4).
    """
    if not is_enabled:
        raise FetchError(Reason.FEATURE_GATE_DISABLED, _GATE_DISABLED, stalls=True)
