"""Who has to have signed what a GitRepository points at: `spec.verify`, its Secret, and what the status says of it.

A part of the source controller. Knows `spec/source.md` 5.6 and the fingerprint of 16; the cryptography is
`fetch.gitverify`'s. A verdict holds for one commit, one mode and one set of keys: when any of them changes, it is made
anew, and an artifact that passed before stays until then.
"""

from __future__ import annotations

from typing import Final

from gitopsd.api.meta import ConditionType, Reason
from gitopsd.api.source import GitRef, GitRepository
from gitopsd.controllers.secrets import Secret
from gitopsd.controllers.source import Services, SourceError
from gitopsd.errors import GitopsdError
from gitopsd.fetch.errors import printable
from gitopsd.fetch.git import Fetched
from gitopsd.fetch.gitkeys import TrustedKeys, fingerprint
from gitopsd.fetch.gitsigned import SignatureError, is_signed_tag, tag_hash
from gitopsd.fetch.gitverify import verify_commit, verify_tag
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import offload

_MODES: Final = {"head": "HEAD", "HEAD": "HEAD", "Tag": "Tag", "TagAndHEAD": "TagAndHEAD"}
_MODE_FIELD: Final = "sourceVerificationMode"
_KEYS_FIELD: Final = "sourceVerificationFingerprint"
_NOT_A_TAG: Final = "cannot verify tag object's signature if a tag reference is not specified"


class GitVerification:
    """The verification of one GitRepository in one run. Everything raises SourceError."""

    def __init__(self, services: Services, source: GitRepository, status: StatusSession) -> None:
        self._services = services
        self._source = source
        self._status = status
        self._secret: Secret | None = None
        self._was_good = status.is_true(ConditionType.SOURCE_VERIFIED)

    def begin(self) -> None:
        """What the run before said does not outlive the question; a verdict that still holds stays."""
        status, verify = self._status, self._source.spec.verify
        if verify is None or not self._was_good:
            status.delete(ConditionType.SOURCE_VERIFIED)
        if verify is None:
            status.fields.pop(_MODE_FIELD, None)
            status.fields.pop(_KEYS_FIELD, None)
        elif verify.mode not in _MODES:
            message = f"unknown verification mode '{printable(verify.mode, 64)}'"
            raise self._failure(Reason.INVALID_VERIFICATION_MODE, message, stalls=True)

    async def is_current(self) -> bool:
        """Whether what is stored was verified as it would be today (`spec/source.md` 5.4).

        Keys that cannot be read now take nothing back.
        """
        verify, seen = self._source.spec.verify, self._source.status
        if verify is None:
            return True
        if not self._was_good or seen.source_verification_mode not in {_MODES[verify.mode], "TagAndHEAD"}:
            return False
        try:
            secret = await self._keys()
        except GitopsdError:
            return True
        return fingerprint(secret.data) == seen.source_verification_fingerprint

    async def check(self, found: Fetched) -> None:
        """Demand the signatures of what was fetched, and note in the status that they are good."""
        verify, status = self._source.spec.verify, self._status
        if verify is None:
            return
        try:
            secret = await self._keys()
            keys = await offload(TrustedKeys.read, secret.data)
        except GitopsdError as error:
            raise self._failure(Reason.VERIFICATION_ERROR, f"public keys secret error: {error}") from error
        lines = [await self._check_tag(found, keys)] if verify.verifies_tag else []
        if verify.verifies_commit:
            lines.append(await self._check_commit(found, keys))
        status.fields[_MODE_FIELD] = _MODES[verify.mode]
        status.fields[_KEYS_FIELD] = fingerprint(secret.data)
        message = "".join(["verified signature of", *(f"\n\t- {line}" for line in lines)])
        status.mark(ConditionType.SOURCE_VERIFIED, "True", Reason.SUCCEEDED, message)
        self._services.event(status.obj, "Trace", Reason.SUCCEEDED, message)

    async def _check_tag(self, found: Fetched, keys: TrustedKeys) -> str:
        name = tag_name(self._source.spec.ref, found.revision)
        if not name:
            raise self._failure(Reason.INVALID_VERIFICATION_MODE, _NOT_A_TAG, stalls=True)
        shown = printable(name, 256)
        if found.tag_object:
            shown += f"@{tag_hash(found.tag_object)}"
        try:
            if not await offload(is_signed_tag, found.tag_object):
                message = f"cannot verify signature of tag '{shown}' since it is not signed"
                raise self._failure(Reason.INVALID_GIT_OBJECT, message)
            key = await offload(verify_tag, found.tag_object, keys)
        except SignatureError as error:
            message = f"signature verification of tag '{shown}' failed: {error}"
            raise self._failure(Reason.INVALID_TAG_SIGNATURE, message) from error
        return f"tag '{shown}' with key '{key}'"

    async def _check_commit(self, found: Fetched, keys: TrustedKeys) -> str:
        try:
            key = await offload(verify_commit, found.commit_object, keys)
        except SignatureError as error:
            message = f"signature verification of commit '{found.commit}' failed: {error}"
            raise self._failure(Reason.INVALID_COMMIT_SIGNATURE, message) from error
        return f"commit '{found.commit}' with key '{key}'"

    async def _keys(self) -> Secret:
        """The Secret with the keys, read once a run."""
        if self._secret is None:
            verify = self._source.spec.verify
            assert verify is not None
            self._secret = await self._services.secrets.get(self._source.metadata.namespace, verify.secret_ref.name)
        return self._secret

    def _failure(self, reason: str, message: str, *, stalls: bool = False) -> SourceError:
        """The failure, which is a condition of its own that is False."""
        failure = SourceError(None, reason, message, stalls=stalls)
        self._status.mark(ConditionType.SOURCE_VERIFIED, "False", reason, failure.message)
        return failure


def tag_name(ref: GitRef | None, revision: str) -> str:
    """The short name of the tag that a revision was found by; empty when it was found by something else."""
    if ref is None or ref.commit:
        return ""
    if ref.name:
        return ref.name.removesuffix("^{}").removeprefix("refs/tags/") if ref.name.startswith("refs/tags/") else ""
    return revision.rpartition("@")[0] if ref.tag or ref.semver else ""
