"""Owner labels, common metadata and the keys that objects carry for us."""

from __future__ import annotations

import pytest

from gitopsd.apply import control
from gitopsd.apply.control import EncryptedSecretError, Owner, require_decrypted, with_metadata, with_owner
from gitopsd.krm.objects import Obj

PREFIX = "kustomize.toolkit.fluxcd.io"
OWNER = Owner("app", "flux-system")


def carrying(field: str, key: str, value: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", field: {f"{PREFIX}/{key}": value}}}


def test_owner_labels_are_laid_over_a_copy() -> None:
    """spec/kustomize.md 3.8."""
    obj: Obj = {"kind": "ConfigMap", "metadata": {"labels": {"a": "b", f"{PREFIX}/name": "other"}}}
    owned = with_owner(obj, OWNER)
    assert owned["metadata"]["labels"] == {"a": "b", f"{PREFIX}/name": "app", f"{PREFIX}/namespace": "flux-system"}
    assert obj["metadata"]["labels"][f"{PREFIX}/name"] == "other"
    assert OWNER.owns(owned)
    assert not OWNER.owns(obj)
    assert not Owner("app", "elsewhere").owns(owned)


def test_an_object_without_metadata_can_be_owned() -> None:
    assert OWNER.owns(with_owner({"kind": "ConfigMap"}, OWNER))


def test_common_metadata_wins_over_the_objects_own() -> None:
    """spec/kustomize.md 1.2, golden common-metadata."""
    obj: Obj = {"metadata": {"labels": {"team": "theirs", "keep": "me"}}}
    merged = with_metadata(obj, labels={"team": "ours"}, annotations={"note": "here"})
    assert merged["metadata"] == {"labels": {"team": "ours", "keep": "me"}, "annotations": {"note": "here"}}


def test_common_metadata_adds_no_empty_maps() -> None:
    assert with_metadata({"metadata": {"name": "a"}}, labels={}, annotations=None) == {"metadata": {"name": "a"}}


@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize(
    ("ask", "key", "value"),
    [
        (control.is_left_alone, "reconcile", "Disabled"),
        (control.is_left_alone, "ssa", "ignore"),
        (control.is_only_created, "ssa", "IFNOTPRESENT"),
        (control.is_kept, "prune", "disabled"),
        (control.is_kept, "reconcile", "disabled"),
        (control.is_kept, "ssa", "Ignore"),
        (lambda obj: control.is_merged(obj, None), "ssa", "Merge"),
        (lambda obj: control.is_merged({}, obj), "ssa", "merge"),
        (lambda obj: control.is_forced(obj, None), "force", "Enabled"),
        (lambda obj: control.is_forced({}, obj), "force", "enabled"),
    ],
)
def test_J33_control_keys_count_as_label_and_annotation_whatever_their_case(field, ask, key, value) -> None:
    """spec/kustomize.md 3.8."""
    assert ask(carrying(field, key, value))
    assert not ask(carrying(field, key, "something-else"))
    assert not ask({"metadata": {field: None}})


def test_J38_values_that_are_no_text_are_no_control_keys() -> None:
    assert not control.is_left_alone({"metadata": {"annotations": {f"{PREFIX}/reconcile": False}}})


def test_M03_an_encrypted_secret_without_decryption_is_refused() -> None:
    """spec/kustomize.md 3.6, 4."""
    secret: Obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "ns"}, "sops": {}}
    with pytest.raises(EncryptedSecretError) as error:
        require_decrypted([secret])
    assert str(error.value) == (
        "Secret/ns/s is SOPS encrypted, configuring decryption is required for this secret to be reconciled"
    )


def test_a_secret_that_is_to_stay_encrypted_passes_the_guard() -> None:
    """spec/kustomize.md 3.8, key decrypt."""
    secret = carrying("annotations", "decrypt", "Disabled") | {"kind": "Secret", "sops": {"mac": "x"}}
    require_decrypted([secret, carrying("annotations", "x", "y") | {"sops": {}}, {"kind": "Secret"}])
