"""What can be built but not applied, variables that do harm, and objects that others refer to (J, L and N)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from tests.flows.hostile import Case, Hostile
from tests.flows.stage import condition, config_map, is_ready

KUSTOMIZATION = "kustomization.yaml"
FAILED = "ReconciliationFailed"
PASSWORD = "planted-4711-password"
WATCHED = {"reconcile.fluxcd.io/watch": "Enabled"}


def built(text: str, says: str) -> Case:
    """A kustomization that builds well, with a ConfigMap that the server refuses."""
    return Case({KUSTOMIZATION: text, "cm.yaml": config_map("bad")}, says, FAILED)


def test_J17_J20_what_the_server_refuses_is_applied_not_even_in_part(hostile: Hostile) -> None:
    generated = "resources: [cm.yaml]\nconfigMapGenerator: [{name: gen, files: [%s]}]\n"
    hostile.trial(
        {
            "prefix": built("resources: [cm.yaml]\nnamePrefix: A_/../\n", "A_/../bad"),
            "labels": built("resources: [cm.yaml]\ncommonLabels: {a: 'no label value!'}\n", "ConfigMap/"),
            "long-labels": built(f"resources: [cm.yaml]\ncommonLabels: {{a: {'x' * 9000}}}\n", "ConfigMap/"),
            "large": Case(
                {KUSTOMIZATION: generated % "big.txt", "big.txt": "x" * (2 << 20), "cm.yaml": config_map("bad")},
                "gen-",
                FAILED,
            ),
        }
    )
    assert hostile.get("ConfigMap", "bad") is None
    revision = hostile.push(
        {"ok/bin": b"\xff\x00", "ok/kustomization.yaml": (generated % "bin").replace("cm.yaml", "")}
    )
    hostile.refetch()
    hostile.kustomization("ok", path="./ok")
    seen = hostile.until_applied(revision, "ok")
    name = seen["status"]["inventory"]["entries"][0]["id"].split("_")[1]
    assert (hostile.get("ConfigMap", name) or {})["binaryData"] == {"bin": "/wA="}


def test_J17_a_namespace_that_cannot_be_fails_the_apply_and_prunes_nothing(hostile: Hostile) -> None:
    good = hostile.push({"app/cm.yaml": config_map("one"), "app/kustomization.yaml": "resources: [cm.yaml]\n"})
    hostile.source()
    hostile.kustomization(path="./app")
    before = hostile.until_applied(good)
    far = f"resources: [cm.yaml]\nnamespace: {'x' * 300}\n"
    nowhere = hostile.push({"far/cm.yaml": config_map("one"), "far/kustomization.yaml": far, "app/cm.yaml": None})
    reference = {"kind": "GitRepository", "name": "app"}
    spec = {"interval": "10m", "prune": True, "sourceRef": reference, "path": "./far"}
    hostile.apply("Kustomization", "far", spec)
    hostile.refetch()
    seen = hostile.until_reason("Kustomization", FAILED, "far")
    hostile.assert_answer("far", seen, FAILED, "xxx")
    assert seen["status"]["lastAttemptedRevision"] == nowhere
    seen = hostile.until_reason("Kustomization", "BuildFailed")
    hostile.assert_kept("app", before, seen)
    assert hostile.get("ConfigMap", "one") is not None


def test_J30_an_empty_build_prunes_as_asked_and_says_so_first(hostile: Hostile) -> None:
    hostile.push({"app/one.yaml": config_map("one"), "app/two.yaml": config_map("two")})
    hostile.source()
    hostile.kustomization(path="./app")
    hostile.until_ready("Kustomization")
    revision = hostile.push({"app/one.yaml": None, "app/two.yaml": None, "app/README.md": "moved\n"})
    hostile.refetch()
    seen = hostile.until_applied(revision)
    assert seen["status"]["inventory"] == {"entries": []}
    assert hostile.get("ConfigMap", "one") is None
    assert hostile.warning("app", "EmptyBuild")["message"] == "nothing is left to apply, all 2 objects are pruned"


def test_J37_who_waits_for_himself_is_told_the_way(hostile: Hostile) -> None:
    hostile.push({"cm.yaml": config_map("one")})
    hostile.source()
    hostile.until_ready("GitRepository")
    ns = hostile.namespace
    hostile.kustomization("self", dependsOn=[{"name": "self"}])
    hostile.kustomization("left", dependsOn=[{"name": "right"}])
    hostile.kustomization("right", dependsOn=[{"name": "left"}])
    hostile.kustomization("many", dependsOn=[{"name": f"gone-{number}"} for number in range(500)])
    expected = {
        "self": f"dependency '{ns}/self' is not ready, dependsOn has a cycle: {ns}/self -> {ns}/self",
        "left": f"dependency '{ns}/right' is not ready, dependsOn has a cycle: {ns}/left -> {ns}/right -> {ns}/left",
        "many": f"dependency '{ns}/gone-0' not found: kustomizations.kustomize.toolkit.fluxcd.io \"gone-0\" not found",
    }
    for name, message in expected.items():
        token = hostile.request("Kustomization", name)
        seen = hostile.handled("Kustomization", token, name)
        assert condition(seen)["reason"] == "DependencyNotReady"
        assert condition(seen)["message"] == message
        assert not [event for event in hostile.events("Kustomization", name) if event["type"] == "Warning"]
    hostile.kustomization("right", dependsOn=[])
    for name in ("right", "left"):
        hostile.until_ready("Kustomization", name)


def substituted(text: str, says: str, **values: str) -> Case:
    """A ConfigMap with a text to be substituted, in the line `a: …`."""
    return Case(
        {"bad.yaml": config_map("bad") + f"data:\n  a: {text}\n"}, says, spec={"postBuild": {"substitute": values}}
    )


def test_L01_L02_L03_variables_cannot_run_away_nor_make_other_objects(hostile: Hostile) -> None:
    inject = "x\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: injected}"
    hostile.trial(
        {
            "nested": substituted("${a:=" * 1000 + "}" * 1000, "nested deeper than 32", v="1"),
            "unclosed": substituted("${v", "envsubst error", v="1"),
            "division": substituted("${v/a/b", "envsubst error", v="1"),
            "copies": substituted("${v}" * 50, "bytes after substitution", v="x" * 400_000),
            "metadata": Case(
                {"bad.yaml": config_map("${name}")},
                "name",
                spec={"postBuild": {"substitute": {"name": "x, namespace: y"}}},
            ),
            "yaml": substituted("${v}", "bad", v="[a, {b: "),
        }
    )
    revision = hostile.push({"ok/cm.yaml": config_map("ok") + "data:\n  a: ${v}\n  b: $${v}\n  c: a${v:0:999999999}\n"})
    hostile.refetch()
    hostile.kustomization("ok", path="./ok", postBuild={"substitute": {"v": inject}})
    hostile.until("Kustomization", "ok", lambda obj: condition(obj).get("status") in ("True", "False"))
    assert hostile.get("Secret", "injected") is None
    hostile.kustomization("ok", path="./ok", postBuild={"substitute": {"v": "${other}"}})
    hostile.until_applied(revision, "ok")
    assert (hostile.get("ConfigMap", "ok") or {})["data"] == {"a": "${other}", "b": "${v}", "c": "a${other}"}


def secret(name: str, values: Mapping[str, str], labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A Secret."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    metadata = {"name": name, "labels": dict(labels or {})}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}


def test_L02_L04_L05_N01_references_are_named_and_their_values_never(hostile: Hostile) -> None:
    hostile.secrets = (PASSWORD,)
    text = config_map("one") + "data:\n  a: x${token}\n"
    untouched = config_map("two").replace(
        "name: two", "name: two\n  labels: {kustomize.toolkit.fluxcd.io/substitute: disabled}"
    )
    revision = hostile.push({"one.yaml": text, "two.yaml": untouched + "data: {a: 'x${token}'}\n"})
    hostile.source()
    reference = {"substituteFrom": [{"kind": "Secret", "name": "values"}]}
    hostile.kustomization(postBuild=reference)
    seen = hostile.until_reason("Kustomization", "BuildFailed")
    hostile.assert_answer(
        "app", seen, "BuildFailed", "substitute from 'Secret/values' error: secrets \"values\" not found"
    )
    hostile.api.apply(secret("values", {"not-a-name": PASSWORD}, WATCHED), hostile.namespace)
    seen = hostile.until("Kustomization", "app", lambda obj: "not-a-name" in condition(obj)["message"])
    assert "var name is invalid" in condition(seen)["message"]
    hostile.assert_fit("app", condition(seen)["message"])
    hostile.api.apply(secret("values", {"token": f"{PASSWORD}: ]["}, WATCHED), hostile.namespace)
    seen = hostile.until("Kustomization", "app", lambda obj: "not-a-name" not in condition(obj)["message"])
    hostile.assert_answer("app", seen, "BuildFailed", "one")
    hostile.api.apply(secret("values", {"token": PASSWORD}, WATCHED), hostile.namespace)
    hostile.until_applied(revision)
    assert (hostile.get("ConfigMap", "one") or {})["data"] == {"a": f"x{PASSWORD}"}
    assert (hostile.get("ConfigMap", "two") or {})["data"] == {"a": "x${token}"}
    assert PASSWORD not in hostile.daemon.log_text()
    told = [event["message"] for event in hostile.events("Kustomization")]
    assert told
    assert not [message for message in told if PASSWORD in message]


def test_L04_many_and_large_variables_are_read(hostile: Hostile) -> None:
    large = {f"key_{number}": "x" * 80 for number in range(10_000)}
    hostile.api.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": large}, hostile.namespace
    )
    revision = hostile.push({"cm.yaml": config_map("one") + "data:\n  a: ${key_9999}\n"})
    hostile.source()
    missing = {"kind": "ConfigMap", "name": "gone", "optional": True}
    hostile.kustomization(postBuild={"substituteFrom": [missing, {"kind": "ConfigMap", "name": "large"}]})
    hostile.until_applied(revision)
    assert (hostile.get("ConfigMap", "one") or {})["data"] == {"a": "x" * 80}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"username": "", "password": PASSWORD}, "'username'"),
        ({"ca.crt": f"no certificate {PASSWORD}"}, "ca.crt"),
    ],
)
def test_N02_what_does_not_fit_is_named_by_its_key_and_never_shown(
    hostile: Hostile, values: Mapping[str, str], says: str
) -> None:
    hostile.secrets = (PASSWORD,)
    hostile.push({"cm.yaml": config_map("one")})
    hostile.source(url=f"{hostile.git.https_url}/{hostile.namespace}.git", secretRef={"name": "values"})
    hostile.until("GitRepository", "app", lambda obj: '"values" not found' in condition(obj).get("message", ""))
    hostile.api.apply(secret("values", values), hostile.namespace)
    seen = hostile.handled("GitRepository", hostile.request("GitRepository"))
    assert condition(seen)["status"] == "False"
    assert says in condition(seen)["message"]
    hostile.assert_fit("app", condition(seen)["message"])
    hostile.api.apply(secret("values", {"ca.crt": hostile.git.authority.pem.decode()}), hostile.namespace)
    assert is_ready(hostile.refetch())
    assert PASSWORD not in hostile.daemon.log_text()


def test_N06_a_rotated_secret_counts_from_the_next_attempt_on(hostile: Hostile) -> None:
    hostile.secrets = (PASSWORD, "pass")
    revision = hostile.push({"cm.yaml": config_map("one")})
    url = f"{hostile.git.url}/private/{hostile.namespace}.git"
    hostile.api.apply(secret("login", {"username": "user", "password": PASSWORD}), hostile.namespace)
    hostile.source(url=url, secretRef={"name": "login"})
    hostile.kustomization()
    seen = hostile.until("GitRepository", "app", lambda obj: condition(obj).get("status") == "False")
    assert PASSWORD not in condition(seen)["message"]
    hostile.api.apply(secret("login", {"username": "user", "password": "pass"}), hostile.namespace)
    hostile.refetch()
    hostile.until_applied(revision)
    hostile.api.apply(secret("login", {"username": "user", "password": PASSWORD}), hostile.namespace)
    seen = hostile.refetch()
    assert condition(seen)["status"] == "False"
    assert seen["status"]["artifact"]["revision"] == revision
    hostile.api.apply(secret("login", {"username": "user", "password": "pass"}), hostile.namespace)
    assert is_ready(hostile.refetch())
