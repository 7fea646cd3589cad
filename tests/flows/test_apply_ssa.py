"""Server-side apply against a real API server: stages, decisions, take-over, errors, and what it costs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gitopsd.apply.changes import Action, ApplyError
from gitopsd.apply.control import with_owner
from gitopsd.krm.objects import Obj
from tests.controlplane import ControlPlane
from tests.flows.applying import PREFIX, Workbench, enforced, guard, unguard, workbench


@pytest.fixture
async def bench(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Workbench]:
    async with workbench(control_plane, namespace) as bench:
        yield bench


def actions(changes: Any) -> list[str]:
    return [str(entry.action) for entry in changes]


# -- created, configured, unchanged


async def test_created_configured_unchanged(bench: Workbench) -> None:
    """spec/kustomize.md 4.4, golden success."""
    objects = [bench.config_map("a", {"k": "v1"}), bench.deployment("web")]
    first = await bench.apply(*objects)
    assert first.lines() == [
        f"ConfigMap/{bench.namespace}/a created",
        f"Deployment/{bench.namespace}/web created",
    ]
    assert actions(await bench.apply(*objects)) == ["unchanged", "unchanged"]
    changed = await bench.apply(bench.config_map("a", {"k": "v2"}), objects[1])
    assert actions(changed) == ["configured", "unchanged"]
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "v2"}
    assert bench.managers("ConfigMap", "a") == ["kustomize-controller Apply"]


async def test_a_first_apply_costs_one_dry_run_and_one_apply_each(bench: Workbench) -> None:
    """decisions.md 4: no object is read that does not exist."""
    await bench.discovery.served()
    bench.requests.clear()
    objects = [bench.config_map("a"), bench.config_map("b"), bench.deployment("web"), bench.job("once")]
    changes = await bench.apply(*objects)
    assert actions(changes) == ["created"] * 4
    assert (bench.dry_runs(), len(bench.requests)) == (4, 8)


async def test_T30_a_run_without_change_asks_once_for_each_object_that_is_as_we_left_it(bench: Workbench) -> None:
    """decisions.md 3: what was known after the last apply saves the read."""
    objects = [bench.config_map(f"c{number}", {"k": "v"}) for number in range(10)]
    first = await bench.apply(*objects)
    bench.requests.clear()
    again = await bench.apply(*objects, known=first.known())
    assert actions(again) == ["unchanged"] * 10
    assert (bench.dry_runs(), len(bench.requests)) == (10, 10)
    assert again.known() == first.known()


async def test_what_nobody_moved_costs_no_request(bench: Workbench) -> None:
    """decisions.md 3."""
    objects = [with_owner(bench.config_map("a", {"k": "v"}), bench.owner)]
    first = await bench.applier().apply(objects)
    bench.requests.clear()
    keys = {entry.key for entry in first}
    again = await bench.applier().apply(objects, known=first.known(), unmoved=keys)
    assert (actions(again), bench.requests) == (["unchanged"], [])
    assert again.known() == first.known()
    objects[0]["data"] = {"k": "new"}
    assert actions(await bench.applier().apply(objects, known=again.known(), unmoved=keys)) == ["configured"]


async def test_a_foreign_change_is_found_although_the_object_was_known(bench: Workbench) -> None:
    first = await bench.apply(bench.config_map("a", {"k": "git"}))
    bench.api.merge("v1", "ConfigMap", "a", {"data": {"k": "hand"}}, bench.namespace, manager="kubectl-edit")
    again = await bench.apply(bench.config_map("a", {"k": "git"}), known=first.known())
    assert actions(again) == ["configured"]
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "git"}


async def test_finalizers_alone_are_no_change(bench: Workbench) -> None:
    """spec/kustomize.md 4.4 step 6."""
    await bench.apply(bench.config_map("a"))
    changes = await bench.apply(bench.config_map("a", finalizers=["example.com/hold"]))
    assert actions(changes) == ["unchanged"]


async def test_common_metadata_taken_away_is_removed(bench: Workbench) -> None:
    """Golden common-metadata."""
    await bench.apply(bench.config_map("a", labels={"team": "ours"}, annotations={"note": "here"}))
    changes = await bench.apply(bench.config_map("a", labels={"team": "theirs"}))
    assert actions(changes) == ["configured"]
    metadata = (bench.live("ConfigMap", "a") or {})["metadata"]
    assert metadata["labels"]["team"] == "theirs"
    assert "annotations" not in metadata


async def test_secrets_are_merged_from_string_data(bench: Workbench) -> None:
    """spec/kustomize.md 4.3."""
    secret: Obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": bench.namespace}}
    secret["stringData"] = {"k": "v"}
    assert actions(await bench.apply(secret)) == ["created"]
    assert (bench.live("Secret", "s") or {})["data"] == {"k": base64.b64encode(b"v").decode()}
    assert actions(await bench.apply(secret)) == ["unchanged"]


# -- take-over


async def test_fields_of_kubectl_become_ours_and_those_of_others_stay(bench: Workbench) -> None:
    """spec/kustomize.md 4.4 step 5, golden kubectl-takeover."""
    mine = bench.config_map("a", {"k": "kubectl", "old": "kubectl"})
    mine["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    bench.api.create(mine, manager="kubectl-client-side-apply")
    theirs = {"data": {"theirs": "x"}, "metadata": {"labels": {"their": "label"}}}
    bench.api.merge("v1", "ConfigMap", "a", theirs, bench.namespace, manager="other-controller")
    assert actions(await bench.apply(bench.config_map("a", {"k": "git"}))) == ["configured"]
    live = bench.live("ConfigMap", "a") or {}
    assert live["data"] == {"k": "git", "theirs": "x"}
    assert live["metadata"]["labels"]["their"] == "label"
    assert "annotations" not in live["metadata"]
    assert bench.managers("ConfigMap", "a") == ["kustomize-controller Apply", "other-controller Update"]

    bench.edit("a", {"k": "edited", "more": "edited"})
    bench.edit("a", {"flux": "kept"}, manager="flux-client-side-apply")
    assert actions(await bench.apply(bench.config_map("a", {"k": "git"}))) == ["configured"]
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "git", "theirs": "x", "flux": "kept"}
    assert bench.managers("ConfigMap", "a") == [
        "flux-client-side-apply Update",
        "kustomize-controller Apply",
        "other-controller Update",
    ]


async def test_what_kubectl_wrote_through_a_subresource_stays_its_own(bench: Workbench) -> None:
    """spec/kustomize.md 4.4 step 5: subresources are left alone, as `kubectl scale` needs it."""
    service: Obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": bench.namespace}}
    service["spec"] = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    await bench.apply(service)
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    bench.api.merge("v1", "Service", "web", status, bench.namespace, manager="kubectl-edit", subresource="status")
    assert actions(await bench.apply(service)) == ["unchanged"]
    assert bench.managers("Service", "web") == ["kubectl-edit Update", "kustomize-controller Apply"]


async def test_overridden_managers_lose_their_fields(bench: Workbench) -> None:
    """spec/kustomize.md 7.5, --override-manager."""
    bench.api.create(bench.config_map("a", {"k": "x", "theirs": "x"}), manager="my-tool")
    await bench.apply(bench.config_map("a", {"k": "git"}), override_managers=["my-tool"])
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "git"}
    assert bench.managers("ConfigMap", "a") == ["kustomize-controller Apply"]


async def test_a_take_over_that_meets_a_newer_object_is_decided_anew(bench: Workbench) -> None:
    """The take-over names the state it was computed from; somebody may write in between."""
    bench.api.create(bench.config_map("a", {"k": "x"}), manager="kubectl-create")
    patch, interfered = bench.client.patch, []

    async def patch_late(path: str, body: Any, **options: Any) -> Any:
        if isinstance(body, list) and not interfered:
            interfered.append(path)
            await asyncio.to_thread(bench.edit, "a", {"new": "x"})
        return await patch(path, body, **options)

    bench.client.patch = patch_late  # type: ignore[method-assign]
    await bench.apply(bench.config_map("a", {"k": "git"}))
    assert interfered
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "git"}


async def test_managed_fields_move_to_the_manifests_version(bench: Workbench) -> None:
    """spec/kustomize.md 4.4 step 3, gate MigrateAPIVersion."""
    autoscaler: Obj = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a", "namespace": bench.namespace},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    }
    await bench.apply(autoscaler)
    found: set[str] = set()
    for _ in range(5):  # the autoscaler's controller writes too: a migration that meets it is done by the next run
        await bench.apply({**autoscaler, "apiVersion": "autoscaling/v2"}, migrate_api_version=True)
        live = bench.live("HorizontalPodAutoscaler", "a", api_version="autoscaling/v2") or {}
        found = {entry["apiVersion"] for entry in live["metadata"]["managedFields"] if not entry.get("subresource")}
        if found == {"autoscaling/v2"}:
            break
    assert found == {"autoscaling/v2"}


# -- control keys


async def test_J33_ssa_modes(bench: Workbench) -> None:
    """spec/kustomize.md 3.8, golden ssa-annotations."""

    def marked(name: str, mode: str) -> Obj:
        return bench.config_map(name, {"k": "git"}, annotations={f"{PREFIX}/ssa": mode})

    for name, data in {"if-there": {}, "merge": {"extra": "hand"}, "default": {"extra": "hand"}}.items():
        bench.api.create(bench.config_map(name, {"k": "hand", **data}), manager="kubectl-create")
    ignored = bench.config_map("ignore-there", {"k": "hand"}, annotations={f"{PREFIX}/ssa": "Ignore"})
    bench.api.create(ignored, manager="kubectl-create")
    changes = await bench.apply(
        bench.config_map("default", {"k": "git"}),
        marked("if-new", "IfNotPresent"),
        marked("if-there", "IfNotPresent"),
        marked("ignore-new", "Ignore"),
        bench.config_map("ignore-there", {"k": "git"}),
        marked("merge", "Merge"),
    )
    assert {entry.key.name: str(entry.action) for entry in changes} == {
        "default": "configured",
        "if-new": "created",
        "if-there": "skipped",
        "ignore-new": "skipped",
        "ignore-there": "skipped",
        "merge": "configured",
    }
    assert [entry.id for entry in changes.inventory()] == [
        f"{bench.namespace}_{name}__ConfigMap"
        for name in ["default", "if-new", "if-there", "ignore-new", "ignore-there", "merge"]
    ]
    assert bench.live("ConfigMap", "ignore-new") is None
    assert (bench.live("ConfigMap", "merge") or {})["data"] == {"k": "git", "extra": "hand"}
    assert (bench.live("ConfigMap", "default") or {})["data"] == {"k": "git"}
    assert bench.managers("ConfigMap", "merge") == ["kubectl-create Update", "kustomize-controller Apply"]
    assert bench.managers("ConfigMap", "if-there") == ["kubectl-create Update"]
    assert "labels" not in (bench.live("ConfigMap", "if-there") or {})["metadata"]


async def test_J33_reconcile_disabled_on_the_live_object_keeps_manual_edits(bench: Workbench) -> None:
    """spec/kustomize.md 3.8, golden reconcile-disabled."""
    first = await bench.apply(bench.config_map("a", {"k": "git"}))
    edit = {"metadata": {"annotations": {f"{PREFIX}/reconcile": "disabled"}}, "data": {"k": "hand"}}
    bench.api.merge("v1", "ConfigMap", "a", edit, bench.namespace, manager="kubectl-edit")
    changes = await bench.apply(bench.config_map("a", {"k": "git"}), known=first.known())
    assert actions(changes) == ["skipped"]
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "hand"}
    assert bench.managers("ConfigMap", "a") == ["kubectl-edit Update", "kustomize-controller Apply"]


async def test_an_object_left_alone_hides_that_its_manifest_is_refused(bench: Workbench) -> None:
    """spec/kustomize.md 4.4: the skip test comes before the dry run."""
    bench.api.create(bench.config_map("a", {"k": "v"}, labels={f"{PREFIX}/reconcile": "Disabled"}))
    bad = bench.config_map("a", {"not a key!": "v"})
    assert actions(await bench.apply(bad)) == ["skipped"]


async def test_an_unknown_kind_that_is_to_be_ignored_is_no_error(bench: Workbench) -> None:
    obj = {"apiVersion": "example.com/v1", "kind": "Nothing", "metadata": {"name": "b", "namespace": bench.namespace}}
    obj["metadata"]["annotations"] = {f"{PREFIX}/ssa": "Ignore"}
    assert actions(await bench.apply(obj)) == ["skipped"]


# -- stages and order


async def test_kinds_go_in_order_into_event_and_inventory(bench: Workbench) -> None:
    """spec/kustomize.md 4.2, goldens apply-order and multiple-namespaces."""
    other = f"{bench.namespace}-b"
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "z", "namespace": other}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}
    inside = bench.config_map("a", namespace=other)
    try:
        changes = await bench.apply(bench.deployment("web"), inside, bench.config_map("b"), account, space)
    finally:
        bench.api.delete("v1", "Namespace", other)
    assert changes.lines() == [
        f"Namespace/{other} created",
        f"ServiceAccount/{other}/z created",
        f"ConfigMap/{bench.namespace}/b created",
        f"ConfigMap/{other}/a created",
        f"Deployment/{bench.namespace}/web created",
    ]
    assert [entry.id for entry in changes.inventory()][:2] == [f"_{other}__Namespace", f"{other}_z__ServiceAccount"]


async def test_one_refused_object_blocks_its_stage_while_earlier_ones_stay(bench: Workbench) -> None:
    """spec/kustomize.md 4.2, 10 row 11, golden dry-run-failure."""
    other = f"{bench.namespace}-b"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}
    service: Obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": bench.namespace}}
    service["spec"] = {"ports": [{"port": 99999}]}
    with pytest.raises(ApplyError) as error:
        await bench.apply(space, bench.config_map("a"), service)
    bench.api.delete("v1", "Namespace", other)
    assert str(error.value) == (
        f'Service/{bench.namespace}/web dry-run failed (Invalid): Service "web" is invalid: '
        "[spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535, inclusive, "
        "spec.ports[0].targetPort: Invalid value: 99999: must be between 1 and 65535, inclusive]\n"
        f"Namespace/{other} created\n"
    )
    assert error.value.done.lines() == [f"Namespace/{other} created"]
    assert bench.live("ConfigMap", "a") is None


async def test_J31_a_definition_and_its_object_go_in_one_run(bench: Workbench) -> None:
    """Golden crd-and-cr."""
    group = f"{bench.namespace}.example.com"
    try:
        changes = await bench.apply(bench.widget(group, "w", size=3), bench.crd(group))
        assert changes.lines() == [
            f"CustomResourceDefinition/widgets.{group} created",
            f"Widget/{bench.namespace}/w created",
        ]
        # a new field in the schema and in the object at once: the server may answer by the old schema for a moment
        wider = bench.crd(group, colour={"type": "string"})
        again = await bench.apply(bench.widget(group, "w", size=3, colour="red"), wider)
        assert actions(again) == ["configured", "configured"]
    finally:
        bench.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"widgets.{group}")


async def test_a_stage_that_does_not_settle_fails_the_apply_and_keeps_what_was_made(bench: Workbench) -> None:
    """spec/kustomize.md 4.2: stage 1 must be Current."""
    group = f"{bench.namespace}.example.com"
    rival = bench.crd(group)
    bench.api.create(rival)
    clash = bench.crd(group)
    clash["metadata"]["name"] = f"gadgets.{group}"
    clash["spec"]["names"] = {"kind": "Widget", "plural": "gadgets", "singular": "widget", "listKind": "WidgetList"}
    try:
        with pytest.raises(ApplyError) as error:
            await bench.apply(clash, bench.config_map("a"), stage_patience=1.0)
        assert str(error.value) in {
            f"timeout waiting for: [CustomResourceDefinition/gadgets.{group} status: '{status}']\n"
            f"CustomResourceDefinition/gadgets.{group} created\n"
            for status in ("InProgress", "Failed")
        } | {
            f"failed early due to stalled resources: [CustomResourceDefinition/gadgets.{group} status: 'Failed']\n"
            f"CustomResourceDefinition/gadgets.{group} created\n"
        }
        assert bench.live("ConfigMap", "a") is None
    finally:
        for name in ("widgets", "gadgets"):
            bench.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{name}.{group}")


# -- refusals and their words


async def test_a_namespaced_object_without_namespace_is_refused_without_a_request(bench: Workbench) -> None:
    """spec/kustomize.md 4.8, golden no-namespace."""
    with pytest.raises(ApplyError) as error:
        await bench.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    assert str(error.value) == (
        "ConfigMap/a namespace not specified: the server could not find the requested resource\n"
    )
    assert bench.count("PATCH") == 0


async def test_an_unknown_kind_is_named(bench: Workbench) -> None:
    """spec/kustomize.md 4.8, golden unknown-kind."""
    obj = {"apiVersion": "example.com/v1", "kind": "Nothing", "metadata": {"name": "b", "namespace": bench.namespace}}
    with pytest.raises(ApplyError) as error:
        await bench.apply(bench.config_map("a"), obj)
    assert str(error.value) == (
        f'Nothing/{bench.namespace}/b dry-run failed: no matches for kind "Nothing" in version "example.com/v1"\n'
    )
    assert bench.live("ConfigMap", "a") is None


async def test_a_missing_namespace_is_named(bench: Workbench) -> None:
    """spec/kustomize.md 2.3."""
    with pytest.raises(ApplyError) as error:
        await bench.apply(bench.config_map("a", namespace="nowhere"))
    assert str(error.value) == 'ConfigMap/nowhere/a not found: namespaces "nowhere" not found\n'


async def test_a_bad_secret_is_refused_without_its_value(bench: Workbench) -> None:
    """Golden bad-secret; spec/kustomize.md 8.5."""
    secret: Obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": bench.namespace}}
    with pytest.raises(ApplyError) as error:
        await bench.apply({**secret, "data": {"k": "not base64!"}})
    assert str(error.value) == (
        f"Secret/{bench.namespace}/s dry-run failed: failed to convert new object "
        f"({bench.namespace}/s; /v1, Kind=Secret) to proper version: unable to convert unstructured object to /v1, "
        "Kind=Secret: error decoding from json: illegal base64 data at input byte 3\n"
    )
    with pytest.raises(ApplyError) as error:
        await bench.apply({**secret, "data": {"k": 73313}})
    assert "expected string" in str(error.value)
    assert "73313" not in str(error.value)


async def test_fields_nobody_declared_are_dropped_for_built_in_kinds(bench: Workbench) -> None:
    """spec/kustomize.md 4.3, golden unknown-field."""
    obj = bench.deployment("web", replicass=3, strategyy={"type": "Recreate"})
    obj["metadata"]["nope"] = 1
    obj["spec"]["template"]["spec"]["containers"][0] |= {"imagee": "x", "ports": [{"containerPort": 80, "nme": "y"}]}
    assert actions(await bench.apply(obj)) == ["created"]
    live = bench.live("Deployment", "web", api_version="apps/v1") or {}
    assert live["spec"]["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert actions(await bench.apply(obj)) == ["unchanged"]


async def test_fields_nobody_declared_are_refused_with_a_wrong_type_and_for_roles(bench: Workbench) -> None:
    """spec/kustomize.md 4.3: a type error leaves the object to the server; Role and ClusterRole are not touched."""
    obj = bench.deployment("web", replicass=3)
    obj["spec"]["replicas"] = "many"
    with pytest.raises(ApplyError, match="expected numeric"):
        await bench.apply(obj)
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": [], "ruls": []}
    role["metadata"] = {"name": "r", "namespace": bench.namespace}
    with pytest.raises(ApplyError, match=r"dry-run failed: .*\.ruls: field not declared in schema"):
        await bench.apply(role)


async def test_P02_a_tenant_is_refused_by_the_server(bench: Workbench, control_plane: ControlPlane) -> None:
    """Golden impersonation; the whole stage stops."""
    tenant = bench.client.as_user(f"system:serviceaccount:{bench.namespace}:robot")
    bench.client = tenant
    with pytest.raises(ApplyError) as error:
        await bench.apply(bench.config_map("a"))
    assert str(error.value) == (
        f'ConfigMap/{bench.namespace}/a dry-run failed (Forbidden): configmaps "a" is forbidden: User '
        f'"system:serviceaccount:{bench.namespace}:robot" cannot patch resource "configmaps" in API group "" in the '
        f'namespace "{bench.namespace}"\n'
    )


async def test_Q19_a_terminating_namespace_refuses_and_may_be_tried_again(bench: Workbench) -> None:
    name = f"{bench.namespace}-t"
    bench.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    bench.api.create(bench.config_map("hold", namespace=name, finalizers=["example.com/hold"]))
    bench.api.delete("v1", "Namespace", name)
    try:
        with pytest.raises(ApplyError, match=r"dry-run failed \(Forbidden\): .* is being terminated"):
            await bench.apply(bench.config_map("a", namespace=name))
    finally:
        bench.api.merge("v1", "ConfigMap", "hold", {"metadata": {"finalizers": None}}, name)


async def test_Q20_a_refusal_by_policy_has_the_policys_words(bench: Workbench) -> None:
    policy = guard(bench, "CREATE", "not in this house")
    try:
        await enforced(bench, policy)
        with pytest.raises(ApplyError) as error:
            await bench.apply(bench.config_map("guarded"), bench.config_map("free"))
    finally:
        unguard(bench, policy)
    assert str(error.value) == (
        f'ConfigMap/{bench.namespace}/guarded dry-run failed (Invalid): configmaps "guarded" is forbidden: '
        f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: not in this house\n"
    )
    assert bench.live("ConfigMap", "free") is None


async def test_Q14_an_object_too_large_for_the_store_is_named_with_its_size(bench: Workbench) -> None:
    group = f"{bench.namespace}.example.com"
    try:
        with pytest.raises(ApplyError) as error:
            await bench.apply(bench.crd(group, text={"type": "string"}), bench.widget(group, "w", text="x" * 1_700_000))
    finally:
        bench.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"widgets.{group}")
    text = str(error.value).partition("\n")[0]
    assert text.startswith(f"Widget/{bench.namespace}/w ")
    assert "too large" in text
    assert text.endswith(" bytes)")


async def test_the_earliest_refusal_is_reported_whoever_answers_first(bench: Workbench) -> None:
    objects = [bench.config_map(name, {"bad key!": "x"}) for name in ("d", "b", "c", "a", "e", "f")]
    for _ in range(3):
        with pytest.raises(ApplyError, match=f"^ConfigMap/{bench.namespace}/a dry-run failed"):
            await bench.apply(*objects)


async def test_a_cluster_scoped_object_loses_the_namespace_a_build_gave_it(bench: Workbench) -> None:
    """spec/kustomize.md 1.3: the id is that of the object the server has."""
    name = f"{bench.namespace}-high"
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 10}
    priority["metadata"] = {"name": name, "namespace": bench.namespace}
    try:
        changes = await bench.apply(priority)
        assert changes.lines() == [f"PriorityClass/{name} created"]
        assert changes.inventory()[0].id == f"_{name}_scheduling.k8s.io_PriorityClass"
    finally:
        bench.api.delete("scheduling.k8s.io/v1", "PriorityClass", name)


# -- force


async def test_J32_an_immutable_field_fails_and_with_force_the_object_is_made_anew(bench: Workbench) -> None:
    """spec/kustomize.md 4.6, golden force."""
    await bench.apply(bench.job("job"))
    uid = (bench.live("Job", "job", api_version="batch/v1") or {})["metadata"]["uid"]
    changed = bench.job("job", image="example/c:2")
    with pytest.raises(ApplyError, match=rf"^Job/{bench.namespace}/job dry-run failed \(Invalid\): "):
        await bench.apply(changed)
    assert actions(await bench.apply(changed, force=True)) == ["created"]
    live = bench.live("Job", "job", api_version="batch/v1") or {}
    assert live["metadata"]["uid"] != uid
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "example/c:2"
    assert actions(await bench.apply(changed, force=True)) == ["unchanged"]


async def test_J32_an_object_can_ask_for_it_itself(bench: Workbench) -> None:
    """spec/kustomize.md 3.8, key force; goldens force and force-service."""
    secret: Obj = {"apiVersion": "v1", "kind": "Secret", "immutable": True, "stringData": {"k": "v1"}}
    secret["metadata"] = {"name": "s", "namespace": bench.namespace, "annotations": {f"{PREFIX}/force": "Enabled"}}
    await bench.apply(secret)
    assert actions(await bench.apply({**secret, "stringData": {"k": "v2"}})) == ["created"]
    assert (bench.live("Secret", "s") or {})["data"] == {"k": "djI="}


async def test_force_serves_a_service_whose_address_cannot_change(bench: Workbench) -> None:
    """Golden force-service."""
    service: Obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": bench.namespace}}
    service["spec"] = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
    await bench.apply(service)
    headless = {**service, "spec": {**service["spec"], "clusterIP": "None"}}
    with pytest.raises(ApplyError) as error:
        await bench.apply(headless)
    assert str(error.value) == (
        f'Service/{bench.namespace}/web dry-run failed (Invalid): Service "web" is invalid: '
        'spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set\n'
    )
    assert actions(await bench.apply(headless, force=True)) == ["created"]


async def test_force_never_deletes_what_could_not_be_made_anew(bench: Workbench) -> None:
    """spec/kustomize.md 4.6: upstream loses the running object over a typo."""
    await bench.apply(bench.job("job"))
    typo = bench.job("job", image="example/c:2")
    typo["spec"]["template"]["spec"]["restartPolicy"] = "Nevr"
    with pytest.raises(ApplyError, match=r"dry-run failed \(Invalid\)"):
        await bench.apply(typo, force=True)
    assert (bench.live("Job", "job", api_version="batch/v1") or {})["spec"]


async def test_force_deletes_nothing_when_another_object_of_the_stage_is_refused(bench: Workbench) -> None:
    await bench.apply(bench.job("job"))
    uid = (bench.live("Job", "job", api_version="batch/v1") or {})["metadata"]["uid"]
    with pytest.raises(ApplyError, match="ConfigMap"):
        await bench.apply(bench.job("job", image="example/c:2"), bench.config_map("a", {"bad key!": "x"}), force=True)
    assert (bench.live("Job", "job", api_version="batch/v1") or {})["metadata"]["uid"] == uid


async def test_a_recreation_waits_for_finalizers_and_not_for_ever(bench: Workbench) -> None:
    """spec/kustomize.md 9 row 15, 10 row 10: bounded by the effective timeout."""
    held = bench.job("job")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    bench.api.create(with_owner(held, bench.owner))
    changed = bench.job("job", image="example/c:2")
    with pytest.raises(ApplyError) as error:
        await bench.apply(changed, force=True, timeout=1.5)
    assert "applying did not end within" in str(error.value) or str(error.value) == (
        f"Job/{bench.namespace}/job immutable field detected, failed to delete object: "
        f"timeout waiting for: [Job/{bench.namespace}/job status: 'Terminating']\n"
    )
    again = asyncio.ensure_future(bench.apply(changed, force=True))
    await asyncio.sleep(0.3)
    assert not again.done()
    bench.api.merge("batch/v1", "Job", "job", {"metadata": {"finalizers": None}}, bench.namespace)
    assert actions(await again) == ["created"]


# -- spec.ignore


IGNORE = [{"paths": ["/spec/replicas"], "target": {"kind": "Deployment"}}]


async def test_an_ignored_field_alone_is_no_drift(bench: Workbench) -> None:
    """spec/kustomize.md 4.5, 10 row 12."""
    assert actions(await bench.apply(bench.deployment("web"), ignore=IGNORE)) == ["created"]
    bench.api.merge("apps/v1", "Deployment", "web", {"spec": {"replicas": 2}}, bench.namespace, manager="scaler")
    assert actions(await bench.apply(bench.deployment("web"), ignore=IGNORE)) == ["unchanged"]
    assert actions(await bench.apply(bench.deployment("web"))) == ["configured"]


async def test_with_another_change_an_ignored_field_keeps_its_value_and_owner(bench: Workbench) -> None:
    """spec/kustomize.md 4.5: adopted when nobody else applies it."""
    await bench.apply(bench.deployment("web"), ignore=IGNORE)
    bench.api.merge("apps/v1", "Deployment", "web", {"spec": {"replicas": 2}}, bench.namespace, manager="scaler")
    changed = bench.deployment("web", minReadySeconds=3)
    assert actions(await bench.apply(changed, ignore=IGNORE)) == ["configured"]
    spec = (bench.live("Deployment", "web", api_version="apps/v1") or {})["spec"]
    assert (spec["replicas"], spec["minReadySeconds"]) == (2, 3)


async def test_with_another_change_a_field_that_another_applier_holds_is_given_up(bench: Workbench) -> None:
    """spec/kustomize.md 4.5: released."""
    await bench.apply(bench.deployment("web"), ignore=IGNORE)
    theirs = bench.deployment("web", replicas=2)
    bench.api.apply(theirs, manager="vpa")
    changed = bench.deployment("web", minReadySeconds=3)
    assert actions(await bench.apply(changed, ignore=IGNORE)) == ["configured"]
    live = bench.live("Deployment", "web", api_version="apps/v1") or {}
    assert live["spec"]["replicas"] == 2
    ours = next(entry for entry in live["metadata"]["managedFields"] if entry["manager"] == "kustomize-controller")
    assert "f:replicas" not in ours["fieldsV1"]["f:spec"]
    assert actions(await bench.apply(changed, ignore=IGNORE)) == ["unchanged"]


async def test_a_rule_that_cannot_be_read_fails_the_apply(bench: Workbench) -> None:
    """spec/kustomize.md 4.5."""
    with pytest.raises(ApplyError, match="invalid ignore rule target"):
        await bench.apply(bench.config_map("a"), ignore=[{"paths": ["/a"], "target": {"name": "("}}])
    assert bench.live("ConfigMap", "a") is None


async def test_new_rules_are_not_taken_for_known(bench: Workbench) -> None:
    await bench.apply(bench.deployment("web"), ignore=IGNORE)
    bench.api.merge("apps/v1", "Deployment", "web", {"spec": {"replicas": 2}}, bench.namespace, manager="scaler")
    seen = await bench.apply(bench.deployment("web"), ignore=IGNORE)
    assert actions(seen) == ["unchanged"]
    assert actions(await bench.apply(bench.deployment("web"), known=seen.known())) == ["configured"]


# -- trouble


async def test_T13_what_was_written_before_an_error_is_reported(bench: Workbench) -> None:
    """spec/kustomize.md 9 row 15: nothing that exists may be lost from the inventory."""
    patch = bench.client.patch

    async def refuse_b(path: str, body: Any, **options: Any) -> Any:
        if path.endswith("/b") and "dryRun" not in (options.get("params") or {}):
            path = path.replace("/configmaps/", "/nothings/")
        return await patch(path, body, **options)

    bench.client.patch = refuse_b  # type: ignore[method-assign]
    with pytest.raises(ApplyError) as error:
        await bench.apply(bench.config_map("a"), bench.config_map("b"), bench.deployment("web"))
    assert str(error.value).startswith(f"ConfigMap/{bench.namespace}/b apply failed: ")
    assert str(error.value).endswith(f"\nConfigMap/{bench.namespace}/a created\n")
    assert [entry.id for entry in error.value.done.inventory()] == [f"{bench.namespace}_a__ConfigMap"]
    assert bench.live("Deployment", "web", api_version="apps/v1") is None


async def test_T16_a_cancelled_apply_knows_what_it_may_have_written(bench: Workbench) -> None:
    patch, reached = bench.client.patch, asyncio.Event()

    async def hang_on_b(path: str, body: Any, **options: Any) -> Any:
        if path.endswith("/b") and "dryRun" not in (options.get("params") or {}):
            await patch(path, body, **options)
            reached.set()
            await asyncio.Event().wait()
        return await patch(path, body, **options)

    bench.client.patch = hang_on_b  # type: ignore[method-assign]
    applier = bench.applier(concurrency=1)
    objects = [bench.config_map("a"), bench.config_map("b"), bench.deployment("web")]
    task = asyncio.ensure_future(applier.apply([with_owner(obj, bench.owner) for obj in objects]))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert applier.touched.lines() == [
        f"ConfigMap/{bench.namespace}/a created",
        f"ConfigMap/{bench.namespace}/b unknown",
    ]
    assert len(applier.touched.inventory()) == 2


async def test_Q21_a_stage_is_bounded_in_time(bench: Workbench) -> None:
    async def never(*args: Any, **options: Any) -> Any:
        await asyncio.Event().wait()

    bench.client.patch = never  # type: ignore[method-assign]
    with pytest.raises(ApplyError, match=r"^applying did not end within 200ms\n$"):
        await bench.apply(bench.config_map("a"), timeout=0.2)


async def test_an_object_that_appears_between_look_and_write_is_taken(bench: Workbench) -> None:
    patch = bench.client.patch

    async def late(path: str, body: Any, **options: Any) -> Any:
        if "dryRun" not in (options.get("params") or {}):
            await asyncio.to_thread(bench.api.create, bench.config_map("a", {"theirs": "x"}))
        return await patch(path, body, **options)

    bench.client.patch = late  # type: ignore[method-assign]
    assert [entry.action for entry in await bench.apply(bench.config_map("a", {"k": "v"}))] == [Action.CREATED]
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "v", "theirs": "x"}
