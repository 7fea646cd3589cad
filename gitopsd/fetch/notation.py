"""Signatures of the Notary Project: fetched here, judged by the engine with the project's own library.

Theory of operation. The engine has no network, so it is asked in rounds, and names in each answer what it lacks. The
policy comes first, for it may ask for no signature at all; then the envelopes of the first three signatures; then what
the servers of revocation lists and OCSP say, if the certificates name such servers and the policy wants to know.

Knows where signatures are kept and how pages are fetched; refuses to know trust policies, certificates and envelopes.
Invariants: `MOST_ATTEMPTS` signatures and `_MOST_PAGES` pages at most; a page that cannot be had is told to the engine
as such, and the policy decides whether that matters; nobody's credentials go to a page.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from gitopsd.engine import Answer, Engine, EngineError
from gitopsd.errors import GitopsdError
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import HttpClient, origin_of
from gitopsd.fetch.imagesignatures import VerifyError
from gitopsd.fetch.registry import Descriptor, Registry, RegistryAccess, Repository

log = structlog.get_logger()

ARTIFACT_TYPE: Final = "application/vnd.cncf.notary.signature"
MOST_ATTEMPTS: Final = 3
ENVELOPE_LIMIT: Final = 1 << 20
_PAGE_LIMIT: Final = 8 << 20
_PAGE_TIMEOUT: Final = 5.0
_ENGINE_TIMEOUT: Final = 20.0
_MOST_PAGES: Final = 8
# One for the policy, one with the signatures, and pages that lead to other pages (OCSP first, then lists).
_MOST_ROUNDS: Final = 6


@dataclass(frozen=True)
class Envelope:
    """A signature as it is kept: its manifest, and the one blob in it."""

    manifest: Descriptor
    media_type: str
    content: bytes = field(repr=False)


@dataclass
class _Question:
    """What is asked in one round; it grows from round to round."""

    reference: str
    artifact: Descriptor
    policy: bytes = field(repr=False)
    certificates: Mapping[str, bytes] = field(repr=False)
    envelopes: Sequence[Envelope] | None = None
    pages: list[tuple[dict[str, Any], int, bytes]] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        envelopes = None
        if self.envelopes is not None:
            envelopes = [{"manifest": _plain(one.manifest), "mediaType": one.media_type} for one in self.envelopes]
        return {
            "reference": self.reference,
            "artifact": _plain(self.artifact),
            "certificates": list(self.certificates),
            "signatures": envelopes,
            "fetched": [{**page, "status": status} for page, status, _ in self.pages],
        }

    def parts(self) -> list[bytes]:
        envelopes = [one.content for one in self.envelopes or ()]
        return [self.policy, *self.certificates.values(), *envelopes, *(content for _, _, content in self.pages)]


def _plain(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


class NotationCheck:
    """Asks the engine about one artifact."""

    def __init__(
        self, registry: Registry, web: HttpClient, engine: Engine, repository: Repository, access: RegistryAccess
    ) -> None:
        self._registry = registry
        self._web = web
        self._engine = engine
        self._repository = repository
        self._access = access

    async def run(self, artifact: Descriptor, policy: bytes, certificates: Mapping[str, bytes]) -> bool:
        """Whether a signature proves the artifact; False if the policy lets it pass without. Raises VerifyError."""
        reference = self._repository.reference(artifact.digest)
        question = _Question(reference, artifact, policy, certificates)
        for _ in range(_MOST_ROUNDS):
            answer = await self._ask(question)
            for note in answer.header.get("notes") or ():
                log.info("a check of a notation signature failed and is tolerated", artifact=reference, check=note)
            match answer.header["verdict"]:
                case "verified":
                    return True
                case "unverified":
                    return False
                case "signatures":
                    question.envelopes = await self._envelopes(artifact)
                case "pages":
                    await self._fetch(answer.header["pages"], question)
        raise VerifyError("its certificates name more and more servers that tell about revoked certificates")

    async def _ask(self, question: _Question) -> Answer:
        try:
            return await self._engine.request(
                "notation",
                question.header(),
                question.parts(),
                subject=f"the signature of {question.reference}",
                timeout=_ENGINE_TIMEOUT,
            )
        except EngineError as error:
            raise VerifyError(printable(str(error), 2048)) from error

    async def _envelopes(self, artifact: Descriptor) -> list[Envelope]:
        """The first signatures that the registry lists. Raises RemoteError if one of them cannot be had."""
        found = await self._registry.referrers(self._repository, artifact.digest, self._access, ARTIFACT_TYPE)
        return [await self._envelope(manifest) for manifest in found[:MOST_ATTEMPTS]]

    async def _envelope(self, signature: Descriptor) -> Envelope:
        shown = signature.digest
        try:
            manifest = await self._registry.manifest(self._repository, signature.digest, self._access)
            if len(manifest.layers) != 1:
                raise VerifyError(f"it has {len(manifest.layers)} layers instead of one")
            (layer,) = manifest.layers
            if layer.size > ENVELOPE_LIMIT:
                raise VerifyError(f"its envelope is larger than {ENVELOPE_LIMIT} bytes", rule="size")
            content = await self._registry.blob(self._repository, layer, self._access, limit=ENVELOPE_LIMIT)
        except RemoteError as error:
            message = f"the signature with digest {shown} cannot be read: {error.message}"
            raise VerifyError(message, rule=error.rule) from error
        return Envelope(signature, layer.media_type, content)

    async def _fetch(self, pages: Sequence[dict[str, Any]], question: _Question) -> None:
        room = _MOST_PAGES - len(question.pages)
        results = await asyncio.gather(*(self._page(page) for page in pages[:room]))
        question.pages += [(page, *result) for page, result in zip(pages[:room], results, strict=True)]
        question.pages += [(page, 0, b"") for page in pages[room:]]

    async def _page(self, page: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and content of a page; a status of 0 says that there is none."""
        headers = {"Content-Type": page["type"]} if page.get("type") else {}
        body = base64.b64decode(page["body"]) if page.get("body") else None
        try:
            origin_of(page["url"])
            async with (
                asyncio.timeout(_PAGE_TIMEOUT),
                self._web.request(page["method"], page["url"], headers=headers, body=body, is_foreign=True) as answer,
            ):
                return answer.status, await answer.read(_PAGE_LIMIT)
        except (GitopsdError, OSError, ValueError, TimeoutError) as error:
            log.info("whether a certificate was revoked cannot be found out", reason=printable(str(error), 256))
            return 0, b""
