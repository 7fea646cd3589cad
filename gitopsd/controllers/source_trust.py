"""Whom a source trusts to have signed an OCI artifact: `spec.verify` and the Secrets it names.

A part of the source controller, for OCIRepositories and for charts in registries. Knows the keys of
`spec/source.md` 11.1; the cryptography is `fetch.imageverify`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from gitopsd.api.source import OCIVerification
from gitopsd.controllers.secrets import Secrets
from gitopsd.errors import GitopsdError
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.imageverify import ImageVerifier
from gitopsd.fetch.registry import Descriptor, RegistryAccess, Repository

_POLICY = "trustpolicy.json"
_TRUSTED_ROOT = "trusted_root.json"


@dataclass(frozen=True)
class Trust:
    """What a signature is checked with."""

    provider: str
    is_keyless: bool = False
    keys: Mapping[str, bytes] = field(default_factory=dict)  # public keys of cosign, certificates of notation
    policy: bytes = b""
    identities: tuple[tuple[str, str], ...] = ()
    trusted_root: bytes = b""

    @property
    def fingerprint(self) -> str:
        """A digest of all of it, the same whatever the order: other trust, another fingerprint."""
        parts = [f"key {name}".encode() + b"\0" + data for name, data in self.keys.items()]
        parts += [f"identity {issuer}\0{subject}".encode() for issuer, subject in self.identities]
        parts += [b"policy\0" + self.policy, b"root\0" + self.trusted_root, self.provider.encode()]
        digests = sorted(hashlib.sha256(part).digest() for part in parts)
        return f"sha256:{hashlib.sha256(b''.join(digests)).hexdigest()}"


def provider_name(verify: OCIVerification) -> str:
    """The provider as messages name it (`spec/source.md` 6.3)."""
    return "cosign keyless" if verify.provider == "cosign" and verify.secret_ref is None else verify.provider


async def read_trust(secrets: Secrets, namespace: str, verify: OCIVerification, trusted_root: str = "") -> Trust:
    """Read what `spec.verify` names; `trusted_root` is the name of the Secret with a Sigstore of one's own.

    Raises RemoteError with what follows `failed to verify the signature using provider '…': `.
    """
    if verify.provider == "notation":
        return await _notation(secrets, namespace, verify)
    if verify.secret_ref is not None:
        data = await _data(secrets, namespace, verify.secret_ref.name)
        return Trust("cosign", keys={key: value for key, value in data.items() if key.endswith(".pub")})
    root = b""
    if trusted_root:
        data = await _data(secrets, namespace, trusted_root)
        root = _required(data, _TRUSTED_ROOT, f"{namespace}/{trusted_root}")
    identities = tuple((identity.issuer, identity.subject) for identity in verify.match_oidc_identity)
    return Trust("cosign", is_keyless=True, identities=identities, trusted_root=root)


async def _notation(secrets: Secrets, namespace: str, verify: OCIVerification) -> Trust:
    if verify.secret_ref is None:
        raise RemoteError("verification secret cannot be empty")
    name = f"{namespace}/{verify.secret_ref.name}"
    data = await _data(secrets, namespace, verify.secret_ref.name)
    policy = _required(data, _POLICY, name)
    certificates = {key: value for key, value in data.items() if key.endswith((".crt", ".pem"))}
    if not certificates:
        raise RemoteError(f"no certificates found in secret '{name}'")
    return Trust("notation", keys=certificates, policy=policy)


async def _data(secrets: Secrets, namespace: str, name: str) -> Mapping[str, bytes]:
    try:
        return (await secrets.get(namespace, name)).data
    except GitopsdError as error:
        raise RemoteError(f"failed to get secret '{namespace}/{name}': {error}") from error


def _required(data: Mapping[str, bytes], key: str, secret: str) -> bytes:
    if key not in data:
        raise RemoteError(f"'{key}' not found in secret '{secret}'")
    return data[key]


async def verify_image(
    verifier: ImageVerifier, repository: Repository, descriptor: Descriptor, access: RegistryAccess, trust: Trust
) -> bool:
    """Whether a signature was checked and good; False where the policy lets the artifact pass without.

    Raises RemoteError for everything else.
    """
    if trust.provider == "notation":
        return await verifier.notation(
            repository, descriptor, access, policy=trust.policy, certificates=dict(trust.keys)
        )
    if not trust.is_keyless and not trust.keys:
        # Without any key the verifier would look for keyless signatures, which nobody asked for.
        raise RemoteError(f"no matching signatures were found for '{repository.reference(descriptor.digest)}'")
    await verifier.cosign(
        repository,
        descriptor,
        access,
        keys=None if trust.is_keyless else trust.keys,
        identities=trust.identities,
        trusted_root=trust.trusted_root,
    )
    return True
