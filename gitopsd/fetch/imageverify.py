"""Whether an OCI artifact comes from whom it should: cosign with keys or without, and notation (spec/source.md 6.3).

Theory of operation. Signatures are looked for where cosign 3 puts them, then where cosign 2 did, and each is judged in
a thread until one is good. What was wrong with the others is told only if none is.

Knows the order of things; refuses to know formats (`imagesignatures`), places (`cosignstore`), certificates and logs
(`keyless`, `trustroot`) and notation (`notation`), and has no word in whether an artifact must be verified.
Invariants: one good signature is enough, whatever stands beside it; an answer is given for the digest of the
descriptor, never for a tag. Callers set the time limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Protocol

from gitopsd.engine import Engine
from gitopsd.fetch.cosignstore import Attempts, CosignStore
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.fulcio import Identities
from gitopsd.fetch.http import HttpClient
from gitopsd.fetch.imagesignatures import Artifact, KeyCheck, SimpleSignature, VerifyError, read_keys
from gitopsd.fetch.keyless import KeylessCheck
from gitopsd.fetch.notation import NotationCheck
from gitopsd.fetch.registry import Descriptor, Registry, RegistryAccess, Repository
from gitopsd.fetch.trustroot import PublicRoot, TrustRoot
from gitopsd.tasks import offload

__all__ = ["ImageVerifier", "VerifyError"]


class _Check(Protocol):
    """Judges signatures; blocking. Both raise VerifyError."""

    @property
    def needs_content(self) -> bool: ...
    def bundle(self, raw: bytes, artifact: Artifact) -> None: ...
    def signature(self, found: SimpleSignature, artifact: Artifact) -> None: ...


class ImageVerifier:
    """Verifies signatures. One for the daemon: it keeps the public trusted root. Used within one event loop."""

    def __init__(
        self, registry: Registry, web: HttpClient, engine: Engine, *, public_root: PublicRoot | None = None
    ) -> None:
        self._registry = registry
        self._web = web
        self._engine = engine
        self._public_root = public_root or PublicRoot()

    async def cosign(
        self,
        repository: Repository,
        artifact: Descriptor,
        access: RegistryAccess,
        *,
        keys: Mapping[str, bytes] | Sequence[bytes] | None = None,
        identities: Sequence[tuple[str, str]] = (),
        trusted_root: bytes = b"",
    ) -> None:
        """Return if the artifact has a good signature; raise VerifyError, safe to show, if not.

        With `keys` (PEM, by the names of their Secret's keys) one of them must have made it, so an empty mapping
        accepts nothing; no log is asked. With None, one of `identities` must have, pairs of Go regular expressions for
        issuer and subject, any of which may match; none means anybody. `trusted_root` is a private Sigstore's; the
        public one's is fetched.
        """
        check: _Check
        if keys is None:
            check = await self._keyless(identities, trusted_root)
        else:
            check = KeyCheck(await offload(read_keys, keys))
        attempts = Attempts()
        store = CosignStore(self._registry, repository, access, artifact, attempts)
        try:
            if await self._is_accepted(store, check, attempts):
                return
        except RemoteError as error:
            if isinstance(error, VerifyError):
                raise
            raise VerifyError(error.message, rule=error.rule) from error
        raise _refusal(repository.reference(artifact.digest), attempts, with_keys=keys is not None)

    async def _keyless(self, identities: Sequence[tuple[str, str]], trusted_root: bytes) -> KeylessCheck:
        allowed = await offload(Identities, identities)
        if trusted_root:
            return KeylessCheck(await offload(TrustRoot.read, trusted_root), allowed)
        return KeylessCheck(await self._public_root.get(), allowed)

    async def _is_accepted(self, store: CosignStore, check: _Check, attempts: Attempts) -> bool:
        content = b""
        if check.needs_content:
            content = (await store.registry.manifest(store.repository, store.artifact.digest, store.access)).raw
        artifact = Artifact(store.artifact.digest, content)
        async with aclosing(store.bundles()) as bundles:
            async for raw in bundles:
                if await attempts.accept(partial(check.bundle, raw, artifact)):
                    return True
        async with aclosing(store.signatures()) as signatures:
            async for one in signatures:
                if await attempts.accept(partial(check.signature, one, artifact)):
                    return True
        return False

    async def notation(
        self,
        repository: Repository,
        artifact: Descriptor,
        access: RegistryAccess,
        *,
        policy: bytes,
        certificates: Mapping[str, bytes],
    ) -> bool:
        """Whether the artifact has a signature that the trust policy accepts, by one of the certificates' authorities.

        `policy` is `trustpolicy.json`, `certificates` are PEM or DER by the names of their Secret's keys. False: the
        policy lets the artifact pass although nothing proves it. Raises VerifyError, safe to show.
        """
        check = NotationCheck(self._registry, self._web, self._engine, repository, access)
        try:
            return await check.run(artifact, policy, certificates)
        except RemoteError as error:
            if isinstance(error, VerifyError):
                raise
            raise VerifyError(error.message, rule=error.rule) from error


def _refusal(reference: str, attempts: Attempts, *, with_keys: bool) -> VerifyError:
    if with_keys:
        detail = f": {attempts.told}" if attempts.told else ""
        return VerifyError(f"no matching signatures were found for '{reference}'{detail}")
    if not attempts.found:
        return VerifyError("no signatures found")
    return VerifyError(f"no matching signatures: {attempts.told}")
