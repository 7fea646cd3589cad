"""What an object's own labels and annotations ask of us: do not touch, only create, recreate, do not delete.

Pure; the table is `spec/kustomize.md` 3.8. A key counts as label or annotation alike, its value regardless of case.
The owner labels, which say for whom an object was applied, are written and read here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gitopsd.api import meta
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, annotations_of, get_in, gvk_of, labels_of, subject


@dataclass(frozen=True, slots=True)
class Owner:
    """For whom objects are applied: the two owner labels, and the field manager that writes."""

    name: str
    namespace: str
    group: str = meta.KUSTOMIZE_GROUP
    field_manager: str = meta.KUSTOMIZE_APPLY_MANAGER

    @property
    def labels(self) -> dict[str, str]:
        """The labels every applied object carries."""
        return {f"{self.group}/name": self.name, f"{self.group}/namespace": self.namespace}

    def owns(self, live: Obj) -> bool:
        """Whether a live object still carries our labels."""
        found = labels_of(live)
        return all(found.get(key) == value for key, value in self.labels.items())


class EncryptedSecretError(GitopsdError):
    """A Secret that is still encrypted; applied, it would be a Secret of ciphertext."""


def with_owner(obj: Obj, owner: Owner) -> Obj:
    """A copy that carries the owner labels, over any other value of these keys."""
    return with_metadata(obj, labels=owner.labels)


def with_metadata(
    obj: Obj, *, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
) -> Obj:
    """A copy with these labels and annotations laid over its own (`spec.commonMetadata`)."""
    metadata = dict(obj.get("metadata") or {})
    for field, added in (("labels", labels), ("annotations", annotations)):
        if added:
            own = metadata.get(field)
            metadata[field] = {**(own if isinstance(own, dict) else {}), **added}
    return {**obj, "metadata": metadata}


def require_decrypted(objects: Iterable[Obj]) -> None:
    """Refuse Secrets that still hold a `sops` block, unless they are annotated to stay encrypted.

    Looks before normalisation, which would drop the block (`spec/kustomize.md` 3.6). Raises EncryptedSecretError.
    """
    for obj in objects:
        gvk = gvk_of(obj)
        if (gvk.group, gvk.kind) != ("", "Secret") or obj.get("sops") is None:
            continue
        if _lower(annotations_of(obj).get(meta.KUSTOMIZE_DECRYPT)) != "disabled":
            raise EncryptedSecretError(
                f"{subject(obj)} is SOPS encrypted, configuring decryption is required for this secret to be reconciled"
            )


def is_left_alone(obj: Obj) -> bool:
    """Neither applied nor deleted: `reconcile: disabled` or `ssa: Ignore`, in the manifest or on the live object."""
    return _says(obj, meta.KUSTOMIZE_RECONCILE, "disabled") or _says(obj, meta.KUSTOMIZE_SSA, "ignore")


def is_only_created(manifest: Obj) -> bool:
    """`ssa: IfNotPresent`; counts in the manifest alone."""
    return _says(manifest, meta.KUSTOMIZE_SSA, "ifnotpresent")


def is_merged(manifest: Obj, live: Obj | None) -> bool:
    """`ssa: Merge`: fields of other managers are not taken over."""
    return _says(manifest, meta.KUSTOMIZE_SSA, "merge") or _says(live, meta.KUSTOMIZE_SSA, "merge")


def is_forced(manifest: Obj, live: Obj | None) -> bool:
    """`force: enabled`: may be deleted and made anew when a field cannot be changed."""
    return _says(manifest, meta.KUSTOMIZE_FORCE, "enabled") or _says(live, meta.KUSTOMIZE_FORCE, "enabled")


def is_kept(live: Obj) -> bool:
    """Never deleted by us: `prune: disabled` or left alone; asks the live object only."""
    return _says(live, meta.KUSTOMIZE_PRUNE, "disabled") or is_left_alone(live)


_EMPTY: Final[Obj] = {}


def _says(obj: Obj | None, key: str, value: str) -> bool:
    metadata = get_in(obj, "metadata", default=_EMPTY)
    return any(_lower(get_in(metadata, field, key)) == value for field in ("labels", "annotations"))


def _lower(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""
