"""Our own objects, bent: names at their limits, finalizers, forged statuses, requests without end (L07 and O)."""

from __future__ import annotations

import pytest

from tests.apiclient import ApiStatusError
from tests.flows.hostile import Hostile
from tests.flows.stage import KUSTOMIZE_API, REQUESTED_AT, SOURCE_API, condition, config_map, is_ready

FOREIGN = "example.com/keeps-it"


def put_status(hostile: Hostile, kind: str, api: str, status: dict[str, object]) -> None:
    """Write a status as somebody with too many rights would."""
    hostile.api.merge(api, kind, "app", {"status": status}, hostile.namespace, manager="forger", subresource="status")


@pytest.mark.parametrize("text", ["-1m", "1e3s", "", "1µs", "1d", "m" * 10_000, "1h 1m"])
def test_L07_what_is_no_duration_is_not_admitted(hostile: Hostile, text: str) -> None:
    for make in (hostile.source, hostile.kustomization):
        with pytest.raises(ApiStatusError) as refused:
            make(interval=text)
        assert refused.value.status == 422
        assert "spec.interval" in refused.value.message


def test_L07_odd_durations_are_read_and_harm_nobody(hostile: Hostile) -> None:
    revision = hostile.push({"cm.yaml": config_map("one")})
    hostile.source(interval="1h1h")
    for number, text in enumerate(["1h1h", "999999h", "0.5h30m", "1h0.5s1ms"]):
        hostile.kustomization(f"app-{number}", interval=text, retryInterval=text, timeout=text)
        hostile.until_applied(revision, f"app-{number}")


def test_O02_names_at_their_limits_are_reconciled_or_refused_in_words(hostile: Hostile) -> None:
    revision = hostile.push({"cm.yaml": config_map("one"), "long/cm.yaml": config_map("n" * 253)})
    source = "s" * 253
    hostile.source(source)
    hostile.until_ready("GitRepository", source)
    reference = {"kind": "GitRepository", "name": source}
    label = "k" * 63
    hostile.kustomization(label, sourceRef=reference, path="./long")
    seen = hostile.until_applied(revision, label)
    assert seen["status"]["inventory"]["entries"] == [{"id": f"{hostile.namespace}_{'n' * 253}__ConfigMap", "v": "v1"}]
    assert (hostile.get("ConfigMap", "n" * 253) or {})["metadata"]["labels"][
        "kustomize.toolkit.fluxcd.io/name"
    ] == label
    too_long = "k" * 253
    hostile.kustomization(too_long, sourceRef=reference, path="./")
    seen = hostile.until("Kustomization", too_long, lambda obj: condition(obj).get("status") == "False")
    hostile.assert_answer(too_long, seen, "ReconciliationFailed", "must be no more than 63")
    assert hostile.get("ConfigMap", "one") is None
    hostile.api.delete(KUSTOMIZE_API, "Kustomization", too_long, hostile.namespace)
    hostile.until("Kustomization", too_long, lambda obj: obj is None)


def test_O04_a_recreated_object_inherits_nothing_from_its_namesake(hostile: Hostile) -> None:
    hostile.push({"one/cm.yaml": config_map("one"), "two/cm.yaml": config_map("two")})
    hostile.source()
    hostile.kustomization(path="./one", deletionPolicy="Orphan")
    first = hostile.until_ready("Kustomization")
    hostile.api.delete(KUSTOMIZE_API, "Kustomization", "app", hostile.namespace)
    hostile.until("Kustomization", "app", lambda obj: obj is None)
    hostile.kustomization(path="./two")
    seen = hostile.until_ready("Kustomization")
    assert seen["metadata"]["uid"] != first["metadata"]["uid"]
    assert [entry["id"].split("_")[1] for entry in seen["status"]["inventory"]["entries"]] == ["two"]
    assert [entry["totalReconciliations"] for entry in seen["status"]["history"]] == [1]
    assert hostile.get("ConfigMap", "one") is not None  # an orphan of the first is no business of the second


def test_O04_O09_toggles_and_new_specs_in_a_row_end_at_the_last(hostile: Hostile) -> None:
    hostile.push({f"{number}/cm.yaml": config_map(f"cm-{number}") for number in range(10)})
    hostile.source()
    for number in range(10):
        hostile.kustomization(path=f"./{number}", suspend=number % 2 == 0)
    seen = hostile.until_ready("Kustomization")
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    names = [entry["id"].split("_")[1] for entry in seen["status"]["inventory"]["entries"]]
    assert names == ["cm-9"]
    left = [
        one for one in hostile.api.list("v1", "ConfigMap", hostile.namespace) if one["metadata"]["name"][:3] == "cm-"
    ]
    assert [one["metadata"]["name"] for one in left] == ["cm-9"]


def test_O04_deleted_while_it_waits_it_goes_at_once_with_all_it_made(hostile: Hostile) -> None:
    claim = (
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: disk}\n"
        "spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}}}\n"
    )
    hostile.push({"disk.yaml": claim, "cm.yaml": config_map("one")})
    hostile.source()
    hostile.kustomization(wait=True, timeout="10m")
    hostile.until(
        "Kustomization", "app", lambda obj: "Running health checks" in condition(obj, "Reconciling").get("message", "")
    )
    hostile.api.delete(KUSTOMIZE_API, "Kustomization", "app", hostile.namespace)
    hostile.until("Kustomization", "app", lambda obj: obj is None)
    assert hostile.get("ConfigMap", "one") is None


def test_O05_finalizers_are_put_back_left_alone_and_never_added_to_what_goes(hostile: Hostile) -> None:
    hostile.push({"cm.yaml": config_map("one")})
    hostile.source()
    hostile.kustomization()
    hostile.until_ready("Kustomization")
    path = {"metadata": {"finalizers": [FOREIGN]}}
    hostile.api.merge(KUSTOMIZE_API, "Kustomization", "app", path, hostile.namespace)
    hostile.handled("Kustomization", hostile.request("Kustomization"))
    seen = hostile.get("Kustomization")
    assert seen is not None
    assert sorted(seen["metadata"]["finalizers"]) == [FOREIGN, "finalizers.fluxcd.io"]
    hostile.api.delete(KUSTOMIZE_API, "Kustomization", "app", hostile.namespace)
    seen = hostile.until(
        "Kustomization", "app", lambda obj: (obj or {"metadata": {}})["metadata"].get("finalizers") == [FOREIGN]
    )
    assert hostile.get("ConfigMap", "one") is None
    hostile.request("Kustomization")
    hostile.assert_others_are_fine()
    seen = hostile.get("Kustomization")
    assert seen is not None
    assert seen["metadata"]["finalizers"] == [FOREIGN]
    assert hostile.get("ConfigMap", "one") is None
    nothing = {"metadata": {"finalizers": None}}
    hostile.api.merge(KUSTOMIZE_API, "Kustomization", "app", nothing, hostile.namespace)
    hostile.until("Kustomization", "app", lambda obj: obj is None)


def test_O06_a_forged_status_deletes_nothing_and_is_overwritten(hostile: Hostile) -> None:
    revision = hostile.push({"cm.yaml": config_map("one")})
    hostile.source()
    hostile.kustomization()
    hostile.until_applied(revision)
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-somebody"}}
    hostile.api.apply(mine, hostile.namespace)
    forged = [
        {"id": "kube-system_extension-apiserver-authentication__ConfigMap", "v": "v1"},
        {"id": f"{hostile.namespace}_of-somebody__ConfigMap", "v": "v1"},
        {"id": "_kube-system__Namespace", "v": "v1"},
    ]
    put_status(
        hostile, "Kustomization", KUSTOMIZE_API,
        {"inventory": {"entries": forged}, "lastAppliedRevision": "main@sha1:" + "0" * 40},
    )  # fmt: skip
    hostile.handled("Kustomization", hostile.request("Kustomization"))
    seen = hostile.until_applied(revision)
    assert seen["status"]["inventory"]["entries"] == [{"id": f"{hostile.namespace}_one__ConfigMap", "v": "v1"}]
    assert hostile.get("ConfigMap", "of-somebody") is not None
    assert hostile.api.get("v1", "ConfigMap", "extension-apiserver-authentication", "kube-system") is not None
    assert "deletionTimestamp" not in (hostile.api.get("v1", "Namespace", "kube-system") or {})["metadata"]


def test_O06_a_forged_artifact_is_fetched_from_nowhere(hostile: Hostile) -> None:
    revision = hostile.push({"cm.yaml": config_map("one")})
    hostile.source()
    hostile.kustomization()
    hostile.until_applied(revision)
    before = (hostile.get("GitRepository") or {})["status"]["artifact"]
    forged = {
        "url": f"{hostile.git.url}/forged.tar.gz", "path": "../../../etc/passwd", "digest": "sha256:" + "0" * 64,
        "revision": "main@sha1:" + "f" * 40, "lastUpdateTime": before["lastUpdateTime"],
    }  # fmt: skip
    put_status(hostile, "GitRepository", SOURCE_API, {"artifact": forged})
    hostile.handled("Kustomization", hostile.request("Kustomization"))
    assert hostile.get("ConfigMap", "one") is not None
    seen = hostile.refetch()
    assert seen["status"]["artifact"]["revision"] == revision
    assert seen["status"]["artifact"]["digest"] == before["digest"]
    hostile.until_applied(revision)
    assert not [one for one in hostile.git.requests if "forged" in one.path]


def test_O07_requests_without_end_are_answered_by_the_last(hostile: Hostile) -> None:
    revision = hostile.push({"cm.yaml": config_map("one")})
    hostile.source()
    hostile.kustomization()
    hostile.until_applied(revision)
    for number in range(100):
        token = f"{number}" + "x" * (200_000 if number == 50 else 0)
        patch = {"metadata": {"annotations": {REQUESTED_AT: token}}}
        hostile.api.merge(KUSTOMIZE_API, "Kustomization", "app", patch, hostile.namespace)
    seen = hostile.handled("Kustomization", "99")
    assert is_ready(seen)
    assert sum(entry["totalReconciliations"] for entry in seen["status"]["history"]) <= 101
    large = "y" * 250_000
    hostile.api.merge(
        KUSTOMIZE_API, "Kustomization", "app", {"metadata": {"annotations": {REQUESTED_AT: large}}}, hostile.namespace
    )
    assert is_ready(hostile.handled("Kustomization", large))
