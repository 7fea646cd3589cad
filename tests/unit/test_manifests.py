"""Promises of what users apply: the installation bundle and the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gitopsd
from gitopsd import settings
from gitopsd.api import crd
from gitopsd.api.kustomization import Kustomization
from gitopsd.api.source import GitRepository
from gitopsd.krm import documents
from gitopsd.krm.objects import Obj, get_in, labels_of, subject

ROOT = Path(__file__).parents[2]
BUNDLE = documents.load_objects((ROOT / "manifests" / "install.yaml").read_bytes(), source="install.yaml")
BY_SUBJECT = {subject(obj): obj for obj in BUNDLE}
DEPLOYMENT = BY_SUBJECT["Deployment/flux-system/gitopsd"]
POD = get_in(DEPLOYMENT, "spec", "template")
(MANAGER,) = get_in(POD, "spec", "containers")


def sample(name: str) -> Obj:
    (obj,) = documents.load_objects((ROOT / "manifests" / "samples" / name).read_bytes(), source=name)
    return obj


# --- the bundle -----------------------------------------------------------------------------------------------------


def test_the_bundle_holds_what_a_standard_install_holds() -> None:
    """spec/runtime.md 4.1, with one controller in place of three."""
    crds = {f"CustomResourceDefinition/{each['metadata']['name']}" for each in crd.documents()}
    assert BY_SUBJECT.keys() == crds | {
        "Namespace/flux-system",
        "ResourceQuota/flux-system/critical-pods-flux-system",
        "ServiceAccount/flux-system/gitopsd",
        "ClusterRole/crd-controller-flux-system",
        "ClusterRole/flux-edit-flux-system",
        "ClusterRole/flux-view-flux-system",
        "ClusterRoleBinding/crd-controller-flux-system",
        "ClusterRoleBinding/cluster-reconciler-flux-system",
        "Service/flux-system/source-controller",
        "Deployment/flux-system/gitopsd",
        "NetworkPolicy/flux-system/allow-egress",
        "NetworkPolicy/flux-system/allow-scraping",
    }


@pytest.mark.parametrize("name", BY_SUBJECT)
def test_everything_installed_can_be_found_by_its_labels(name: str) -> None:
    """spec/cli.md 17.1: check, version and uninstall look for nothing else."""
    expected = {
        "app.kubernetes.io/part-of": "flux",
        "app.kubernetes.io/instance": "flux-system",
        "app.kubernetes.io/managed-by": "gitopsd",
        "app.kubernetes.io/version": f"v{gitopsd.__version__}",
    }
    assert expected.items() <= labels_of(BY_SUBJECT[name]).items()


def test_the_crds_of_the_bundle_are_those_of_the_models() -> None:
    for expected in crd.documents():
        found = BY_SUBJECT[subject(expected)]
        assert found["spec"] == expected["spec"]
        assert found["metadata"]["annotations"] == expected["metadata"]["annotations"]


def test_the_image_is_of_this_version_and_has_a_tag() -> None:
    """spec/cli.md 17.1: `version` dies of an image without tag."""
    assert MANAGER["image"] == f"gitopsd:v{gitopsd.__version__}"
    assert MANAGER["name"] == "manager"


def test_the_arguments_are_ones_the_daemon_knows_and_uses() -> None:
    assert MANAGER["args"][0] == "run"
    read = settings.parse(MANAGER["args"][1:], {"RUNTIME_NAMESPACE": "flux-system"})
    assert read.unused == ()
    assert read.storage_path == Path("/data")
    assert read.watch_all_namespaces


def test_s4_5_artifacts_are_advertised_at_the_service_with_a_trailing_dot() -> None:
    """spec/source.md 4.5, spec/runtime.md 4.4."""
    (argument,) = [each for each in MANAGER["args"] if each.startswith("--storage-adv-addr=")]
    service = BY_SUBJECT["Service/flux-system/source-controller"]
    assert argument.partition("=")[2] == (f"{service['metadata']['name']}.$(RUNTIME_NAMESPACE).svc.cluster.local.")
    assert get_in(service, "spec", "ports", 0) == {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}


def test_ports_are_those_the_daemon_listens_on() -> None:
    """spec/runtime.md 3."""
    read = settings.parse([], {})
    ports = {each["name"]: each["containerPort"] for each in MANAGER["ports"]}
    addresses = {"http": read.storage_addr, "http-prom": read.metrics_addr, "healthz": read.health_addr}
    assert {name: f":{port}" for name, port in ports.items()} == addresses
    assert get_in(MANAGER, "livenessProbe", "httpGet") == {"path": "/healthz", "port": "healthz"}
    assert get_in(MANAGER, "readinessProbe", "httpGet") == {"path": "/readyz", "port": "healthz"}


def test_services_and_policies_select_the_pod() -> None:
    labels = POD["metadata"]["labels"]
    selector = get_in(DEPLOYMENT, "spec", "selector", "matchLabels")
    assert selector == {"app": "gitopsd"}
    assert selector.items() <= labels.items()
    assert get_in(BY_SUBJECT["Service/flux-system/source-controller"], "spec", "selector") == selector


def test_the_daemon_never_runs_twice_and_may_take_its_time_to_end() -> None:
    """spec/runtime.md 9: in-memory store, single writer."""
    assert get_in(DEPLOYMENT, "spec", "replicas") == 1
    assert get_in(DEPLOYMENT, "spec", "strategy") == {"type": "Recreate"}
    assert get_in(POD, "spec", "terminationGracePeriodSeconds") == 600


def test_the_container_has_no_rights_on_its_node() -> None:
    """spec/runtime.md 4.4."""
    assert MANAGER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert {each["mountPath"] for each in MANAGER["volumeMounts"]} == {"/data", "/tmp"}


def test_the_memory_limit_leaves_room_for_the_engines_and_the_artifacts() -> None:
    read = settings.parse([], {})
    limit = int(get_in(MANAGER, "resources", "limits", "memory").removesuffix("Gi")) << 30
    assert read.engine_processes * read.engine_memory + read.artifact_memory < limit * 3 // 4


RULES: list[tuple[list[str], list[str], list[str]]] = [
    ([""], ["namespaces", "secrets", "configmaps", "serviceaccounts"], ["get", "list", "watch"]),
    ([""], ["events"], ["create", "patch"]),
    ([""], ["configmaps/status"], ["get", "update", "patch"]),
    ([""], ["serviceaccounts/token"], ["create"]),
    (
        ["coordination.k8s.io"],
        ["leases"],
        ["get", "list", "watch", "create", "update", "patch", "delete"],
    ),
]


@pytest.mark.parametrize(("groups", "resources", "verbs"), RULES)
def test_the_daemon_may_what_upstream_may(groups: list[str], resources: list[str], verbs: list[str]) -> None:
    """spec/runtime.md 4.2."""
    rules = get_in(BY_SUBJECT["ClusterRole/crd-controller-flux-system"], "rules")
    assert {"apiGroups": groups, "resources": resources, "verbs": verbs} in rules


@pytest.mark.parametrize("binding", ["crd-controller-flux-system", "cluster-reconciler-flux-system"])
def test_the_bindings_are_for_the_daemons_account(binding: str) -> None:
    found: Any = BY_SUBJECT[f"ClusterRoleBinding/{binding}"]
    assert found["subjects"] == [{"kind": "ServiceAccount", "name": "gitopsd", "namespace": "flux-system"}]


# --- the samples ----------------------------------------------------------------------------------------------------


def test_the_sample_repository_is_followed_on_its_main_branch() -> None:
    repository = GitRepository.from_object(sample("platform-apps.yaml"))
    assert repository.key.path == "flux-system/platform-apps"
    assert (repository.spec.interval, repository.spec.url) == ("1m", "https://github.com/example/platform-apps")
    assert repository.spec.ref is not None
    assert repository.spec.ref.branch == "main"


def test_the_sample_application_is_built_from_the_sample_repository() -> None:
    application = Kustomization.from_object(sample("web-api.yaml"))
    assert application.key.path == "flux-system/web-api"
    assert application.source_key.subject == "GitRepository/flux-system/platform-apps"
    spec = application.spec
    assert (spec.interval, spec.timeout, spec.path) == ("5m", "5m", "./apps/web-api/overlays/prod")
    assert (spec.prune, spec.wait, spec.target_namespace) == (True, True, "app")
