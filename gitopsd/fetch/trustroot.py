"""Whom signatures without keys are traced back to: the authorities and logs of a Sigstore, public or private.

Theory of operation. A trusted root (`trusted_root.json`) lists certificate authorities, transparency logs, certificate
logs and timestamp authorities, each with the time during which it was good. A private Sigstore's comes from a Secret.
The public one is fetched with TUF, whose first root is a part of the sigstore library: when it is first wanted, and
again after a day, for logs and authorities come and go; after a failure not again for a while. What was fetched is used
until there is something newer.

Knows the file and TUF; refuses to know signatures. Invariant: what was not good at a time is not in `TrustRoot.at`.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gitopsd.fetch.errors import printable
from gitopsd.fetch.fulcio import CertificateError
from gitopsd.fetch.imagesignatures import VerifyError
from gitopsd.tasks import offload

log = structlog.get_logger()

PUBLIC_SIGSTORE: Final = "https://tuf-repo-cdn.sigstore.dev"
ROOT_LIMIT: Final = 1 << 20
_RETRY_AFTER: Final = 60.0
_LONGEST_FETCH: Final = 60.0
_RENEW_AFTER: Final = 24 * 3600.0
_RETRY_RENEWAL_AFTER: Final = 3600.0
_LONGEST_RENEWAL: Final = 5.0
_SOCKET_TIMEOUT: Final = 10
_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.trustedroot"


class _Period(msgspec.Struct, frozen=True):
    start: datetime | None = None
    end: datetime | None = None


class _Raw(msgspec.Struct, frozen=True, rename="camel"):
    raw_bytes: bytes


class _Chain(msgspec.Struct, frozen=True):
    certificates: list[_Raw]


class _Authority(msgspec.Struct, frozen=True, rename="camel"):
    cert_chain: _Chain
    valid_for: _Period = _Period()


class _Key(msgspec.Struct, frozen=True, rename="camel"):
    raw_bytes: bytes
    valid_for: _Period = _Period()


class _Log(msgspec.Struct, frozen=True, rename="camel"):
    public_key: _Key


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    certificate_authorities: list[_Authority] = []
    tlogs: list[_Log] = []
    ctlogs: list[_Log] = []


@dataclass(frozen=True)
class TrustRoot:
    """The authorities and logs of one Sigstore. `plain` is the file's content, for the library that reads it, too."""

    plain: Mapping[str, Any]

    @classmethod
    def read(cls, raw: bytes, what: str = "trusted_root.json") -> TrustRoot:
        """Read the file. Raises VerifyError, which says nothing of its content."""
        if len(raw) > ROOT_LIMIT:
            raise VerifyError(f"{what} is larger than {ROOT_LIMIT} bytes", rule="size")
        try:
            plain = msgspec.json.decode(raw, type=dict[str, Any])
            root = cls(plain)
            found = root.document
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise VerifyError(f"{what} cannot be read: {printable(str(error), 128)}") from None
        if not found.media_type.startswith(_MEDIA_TYPE):
            raise VerifyError(f"{what} is no trusted root, but '{printable(found.media_type, 64)}'")
        if not found.certificate_authorities or not found.tlogs:
            raise VerifyError(f"{what} lists no certificate authority or no transparency log")
        root.authorities()
        root.keys("tlogs")
        root.keys("ctlogs")
        return root

    @property
    def document(self) -> _Document:
        """The parts that we read."""
        return msgspec.convert(self.plain, _Document)

    def at(self, issued: datetime, logged: datetime) -> TrustRoot:
        """Only the authorities and certificate logs that were good at `issued`, and the logs that were at `logged`."""
        times = {"certificateAuthorities": issued, "ctlogs": issued, "tlogs": logged}
        found = {name: [one for one in self.plain.get(name, []) if _is_good(one, at)] for name, at in times.items()}
        return TrustRoot({**self.plain, **found})

    def authorities(self) -> list[x509.Certificate]:
        """The certificates of all authorities. Raises VerifyError."""
        chains = [authority.cert_chain for authority in self.document.certificate_authorities]
        try:
            return [x509.load_der_x509_certificate(raw.raw_bytes) for chain in chains for raw in chain.certificates]
        except CertificateError:
            raise VerifyError("trusted_root.json holds a certificate that cannot be read") from None

    def keys(self, logs: str) -> dict[bytes, object]:
        """The keys of the `tlogs` or `ctlogs`, by the SHA-256 of each. A key that nobody here can use is left out."""
        document = self.document
        found = document.tlogs if logs == "tlogs" else document.ctlogs
        keys: dict[bytes, object] = {}
        for one in found:
            raw = one.public_key.raw_bytes
            try:
                keys[hashlib.sha256(raw).digest()] = load_der_public_key(raw)
            except (ValueError, UnsupportedAlgorithm):
                log.debug("a log's key in a trusted root cannot be used")
        return keys


def _is_good(one: Mapping[str, Any], at: datetime) -> bool:
    stated = one.get("validFor") or one.get("publicKey", {}).get("validFor") or {}
    period = msgspec.convert(stated, _Period)
    return (period.start is None or _aware(period.start) <= at) and (period.end is None or at <= _aware(period.end))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class PublicRoot:
    """The trusted root of the public Sigstore, fetched when it is first wanted. Used within one event loop."""

    def __init__(
        self,
        fetch: Callable[[], bytes] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        limit: float = _LONGEST_FETCH,
    ) -> None:
        """`fetch` blocks, and raises VerifyError; `limit` is how long (seconds) it is waited for."""
        self._fetch = fetch or partial(fetch_root, PUBLIC_SIGSTORE)
        self._clock = clock
        self._limit = limit
        self._lock = asyncio.Lock()
        self._root: TrustRoot | None = None
        self._fetched = 0.0
        self._tried: float | None = None
        self._why = ""

    async def get(self) -> TrustRoot:
        """The root. Raises VerifyError, for a minute the same one."""
        async with self._lock:
            if self._root is None:
                await self._try(self._limit)
            elif self._is_old():
                # One that takes longer is there for the next who asks.
                with suppress(VerifyError):
                    await self._try(min(self._limit, _LONGEST_RENEWAL))
            assert self._root is not None
            return self._root

    def _is_old(self) -> bool:
        now = self._clock()
        is_old = now - self._fetched >= _RENEW_AFTER
        return is_old and (self._tried is None or now - self._tried >= _RETRY_RENEWAL_AFTER)

    async def _try(self, limit: float) -> None:
        now = self._clock()
        if self._tried is not None and now - self._tried < _RETRY_AFTER:
            raise VerifyError(self._why)
        self._tried = now
        self._why = "the trusted root of the public Sigstore could not be fetched in time"
        try:
            async with asyncio.timeout(limit):
                await offload(self._load)
        except TimeoutError:
            raise VerifyError(self._why) from None
        except VerifyError as error:
            self._why = error.message
            raise

    def _load(self) -> None:
        # In the thread, so that a result which nobody waits for any more is there for the next.
        self._root = TrustRoot.read(self._fetch(), "the trusted root of the public Sigstore")
        self._fetched = self._clock()


def fetch_root(url: str, first: bytes = b"") -> bytes:
    """Fetch `trusted_root.json` from a TUF repository, beginning with its `first` root. Blocking. Raises VerifyError.

    The network's own errors stay in the log: they would name addresses of ours.
    """
    from tuf.api.exceptions import DownloadError, RepositoryError
    from tuf.ngclient.config import UpdaterConfig
    from tuf.ngclient.updater import Updater
    from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

    first = first or embedded_root(url)
    config = UpdaterConfig(targets_max_length=ROOT_LIMIT)
    try:
        with tempfile.TemporaryDirectory(prefix="gitopsd-tuf-") as folder:
            fetcher = Urllib3Fetcher(socket_timeout=_SOCKET_TIMEOUT, app_user_agent="gitopsd")
            updater = Updater(folder, url, folder, f"{url}/targets/", fetcher, config, bootstrap=first)
            updater.refresh()
            info = updater.get_targetinfo("trusted_root.json")
            if info is None or info.length > ROOT_LIMIT:
                raise VerifyError("the public Sigstore offers no trusted root")
            with open(updater.download_target(info), "rb") as file:  # noqa: PTH123 - the library gives a text
                return file.read(ROOT_LIMIT)
    except (DownloadError, RepositoryError, OSError) as error:
        log.warning("the trusted root of the public Sigstore cannot be fetched", error=printable(str(error), 512))
        raise VerifyError(
            f"the trusted root of the public Sigstore cannot be fetched: {type(error).__name__}"
        ) from error


def embedded_root(url: str) -> bytes:
    """The first root of a repository that the sigstore library knows."""
    return (resources.files("sigstore") / "_store" / quote(url, safe="") / "root.json").read_bytes()
