"""OCIRepositories whose artifacts must be signed, followed by a running daemon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.apiclient import Obj
from tests.flows.hostile import Hostile
from tests.flows.stage import SOURCE_API, condition, is_ready
from tests.notary import Notary, trust_policy
from tests.servers.registry import Registry
from tests.signers import Signatures
from tests.sigstore import Sigstore, new_key, public_pem

KIND = "OCIRepository"
KEY = new_key()
SIGSTORE = Sigstore()


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


class Scene:
    """An OCIRepository named `app` of a repository with the stage's name."""

    def __init__(self, stage: Hostile, registry: Registry) -> None:
        self.stage = stage
        self.registry = registry
        self._requests = 0

    def push(self, content: str) -> Signatures:
        """A new artifact under `latest`."""
        digest = self.registry.push(self.stage.namespace, "latest", {"app.yaml": content})
        return Signatures(self.registry, self.stage.namespace, digest)

    def secret(self, name: str, data: Mapping[str, bytes]) -> None:
        text = {key: value.decode() for key, value in data.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": text}
        self.stage.api.create(secret, self.stage.namespace)

    def source(self, **verify: Any) -> None:
        url = f"oci://{self.registry.host}/{self.stage.namespace}"
        spec = {"url": url, "interval": "10m", "insecure": True, "verify": verify}
        obj = {"apiVersion": SOURCE_API, "kind": KIND, "metadata": {"name": "app"}, "spec": spec}
        self.stage.api.apply(obj, self.stage.namespace)

    def again(self) -> None:
        """Ask for a run, as the command line does."""
        self._requests += 1
        metadata = {"annotations": {"reconcile.fluxcd.io/requestedAt": f"request {self._requests}"}}
        self.stage.api.merge(SOURCE_API, KIND, "app", {"metadata": metadata}, self.stage.namespace)

    def until(self, accept: Any) -> Obj:
        return self.stage.until(KIND, "app", accept, api=SOURCE_API)

    def verified(self, signatures: Signatures) -> Obj:
        """Wait until the artifact is served."""
        revision = f"latest@{signatures.digest}"
        return self.until(lambda obj: is_ready(obj) and obj["status"]["artifact"]["revision"] == revision)

    def refused(self) -> str:
        """Wait until it is not, and return what is said."""
        found = self.until(lambda obj: condition(obj, "SourceVerified").get("status") == "False")
        assert condition(found)["reason"] == condition(found, "SourceVerified")["reason"] == "VerificationError"
        assert condition(found)["message"] == condition(found, "SourceVerified")["message"]
        return str(condition(found)["message"])


@pytest.fixture
def scene(hostile: Hostile, registry: Registry) -> Scene:
    return Scene(hostile, registry)


def verified_message(obj: Obj) -> str:
    return str(condition(obj, "SourceVerified").get("message", ""))


def test_s6_3_G12_only_what_a_key_signed_is_served(scene: Scene) -> None:
    scene.secret("keys", {"cosign.pub": public_pem(KEY), "readme": b"not a key"})
    signed = scene.push("one")
    signed.with_key(KEY)
    scene.source(provider="cosign", secretRef={"name": "keys"})
    first = scene.verified(signed)
    assert verified_message(first) == f"verified signature of revision latest@{signed.digest}"

    unsigned = scene.push("two")
    scene.again()
    start = "failed to verify the signature using provider 'cosign': no matching signatures were found for '"
    assert scene.refused().startswith(start)
    kept = scene.stage.get(KIND, "app", api=SOURCE_API)
    assert kept is not None
    assert kept["status"]["artifact"] == first["status"]["artifact"]

    unsigned.with_key_before_3(KEY)
    scene.again()
    assert verified_message(scene.verified(unsigned)) == f"verified signature of revision latest@{unsigned.digest}"


def test_s6_3_a_sigstore_of_ones_own_tells_who_signed(scene: Scene) -> None:
    scene.secret("root", {"trusted_root.json": SIGSTORE.trusted_root()})
    signed = scene.push("one")
    signed.keyless(SIGSTORE.signed())
    trusted: dict[str, Any] = {"provider": "cosign", "trustedRootSecretRef": {"name": "root"}}
    scene.source(**trusted, matchOIDCIdentity=[{"issuer": "^https://issuer", "subject": "^somebody@"}])
    assert scene.refused() == (
        "failed to verify the signature using provider 'cosign keyless': no matching signatures: "
        "it was made by 'ci@example.org' of 'https://issuer.example'"
    )
    scene.source(**trusted, matchOIDCIdentity=[{"issuer": "^https://issuer", "subject": "^ci@"}])
    assert verified_message(scene.verified(signed)) == f"verified signature of revision latest@{signed.digest}"


def test_s6_3_a_notation_policy_says_what_is_verified_and_what_passes(scene: Scene) -> None:
    notary = Notary()
    scene.secret("strict", {"trustpolicy.json": trust_policy(), "ca.crt": notary.pem})
    scene.secret("skip", {"trustpolicy.json": trust_policy("skip"), "ca.crt": notary.pem})
    artifact = scene.push("one")
    scene.source(provider="notation", secretRef={"name": "skip"})
    assert condition(scene.verified(artifact), "SourceVerified") == {}
    scene.source(provider="notation", secretRef={"name": "strict"})
    start = "failed to verify the signature using provider 'notation': no signature is associated with \""
    assert scene.refused().startswith(start)
    artifact.notation(notary.sign(artifact.descriptor))
    scene.again()
    found = scene.until(lambda obj: condition(obj, "SourceVerified").get("status") == "True")
    assert verified_message(found) == f"verified signature of revision latest@{artifact.digest}"
