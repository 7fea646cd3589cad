"""`gitopsd events`, `stats`, `tree` and `trace` against a real API server (`spec/cli.md` 8 to 11)."""

from __future__ import annotations

import base64
import gzip
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.flows.commandline import (
    HELM,
    KUSTOMIZE,
    SOURCE,
    artifact,
    cli_fixture,  # noqa: F401
    meanwhile_fixture,  # noqa: F401
    ready,
)

OWNER = "kustomize.toolkit.fluxcd.io"
HELM_OWNER = "helm.toolkit.fluxcd.io"


def event(cli, name, kind, about, *, seconds_ago=60, message="happened", type_="Normal", namespace=None):
    then = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    namespace = namespace or cli.namespace
    cli.api.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {"kind": kind, "name": about, "namespace": namespace},
            "type": type_,
            "reason": "Tested",
            "message": message,
            "firstTimestamp": then,
            "lastTimestamp": then,
            "count": 1,
        }
    )


def cells(text):
    return [[cell.strip() for cell in row.split("\t")][:-1] for row in text.splitlines()[1:]]


def test_events_are_told_oldest_first(cli):
    """spec/cli.md 8: only those about our kinds."""
    event(cli, "one", "Kustomization", "app", seconds_ago=60)
    event(cli, "two", "GitRepository", "git", seconds_ago=3000, message="two\nlines", type_="Warning")
    event(cli, "three", "Pod", "app")
    said = cli("events")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[0].split("\t")[0].strip() == "LAST SEEN"
    rows = cells(said.out)
    assert [row[1:] for row in rows] == [
        ["Warning", "Tested", "GitRepository/git", "two"],
        ["", "", "", "lines"],
        ["Normal", "Tested", "Kustomization/app", "happened"],
    ]
    assert rows[0][0] == "50m"


def test_events_of_an_object_come_with_those_of_its_source(cli):
    """spec/cli.md 8, --for Kind/name."""
    cli.create(KUSTOMIZE, "Kustomization", "app")
    event(cli, "one", "Kustomization", "app")
    event(cli, "two", "GitRepository", "git")
    event(cli, "three", "GitRepository", "other")
    event(cli, "four", "Kustomization", "other", type_="Warning")
    said = cli("events", "--for", "kustomization/app")
    assert {row[3] for row in cells(said.out)} == {"Kustomization/app", "GitRepository/git"}
    said = cli("events", "--for", "Kustomization", "--types", "warning")
    assert {row[3] for row in cells(said.out)} == {"Kustomization/other"}


def test_a_source_elsewhere_adds_the_namespace(cli):
    """spec/cli.md 8, columns."""
    elsewhere = cli.control_plane.create_namespace()
    cli.create(
        KUSTOMIZE,
        "Kustomization",
        "app",
        sourceRef={"kind": "GitRepository", "name": "git", "namespace": elsewhere},
    )
    event(cli, "one", "Kustomization", "app", seconds_ago=5)
    event(cli, "two", "GitRepository", "git", namespace=elsewhere)
    said = cli("events", "--for", "Kustomization/app")
    assert [[row[0], row[4]] for row in cells(said.out)] == [
        [elsewhere, "GitRepository/git"],
        [cli.namespace, "Kustomization/app"],
    ]
    cli.api.delete("v1", "Namespace", elsewhere)


def test_no_events_are_no_failure(cli):
    """spec/cli.md 8, none."""
    said = cli("events")
    assert (said.status, said.out, said.err) == (0, "", f"✗ No events found in {cli.namespace} namespace.\n")


def test_events_of_what_does_not_exist(cli):
    """spec/cli.md 2.7."""
    said = cli("events", "--for", "Kustomization/nope")
    assert (said.status, said.err) == (1, '✗ kustomizations.kustomize.toolkit.fluxcd.io "nope" not found\n')


def test_watching_events_prints_old_and_new_ones(cli, meanwhile):
    """spec/cli.md 8, --watch: heading once; the end of the time is no failure."""
    event(cli, "old", "Kustomization", "app")

    def happen():
        time.sleep(1)
        event(cli, "new", "Kustomization", "app", message="just now")
        event(cli, "foreign", "Pod", "app")

    meanwhile(happen)
    said = cli("events", "--watch", "--timeout", "3s")
    assert (said.status, said.err) == (0, "")
    assert [row[-1] for row in cells(said.out)] == ["happened", "just now"]


def test_stats_always_have_a_row_for_each_kind(cli):
    """spec/cli.md 11: thirteen rows, kinds that are not served count nothing."""
    cli.create(SOURCE, "GitRepository", "a", ready(artifact=artifact("r", size=2048)))
    cli.create(SOURCE, "GitRepository", "b", ready("False"), suspend=True)
    said = cli("stats")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[0].split() == ["RECONCILERS", "RUNNING", "FAILING", "SUSPENDED", "STORAGE"]
    rows = cells(said.out)
    assert len(rows) == 13
    assert rows[0] == ["GitRepository", "1", "1", "1", "2.0 KiB"]
    assert rows[7] == ["Alert", "0", "0", "0", "-"]


def release_secret(cli, manifest):
    record = base64.b64encode(gzip.compress(json.dumps({"name": "rel", "manifest": manifest}).encode())).decode()
    cli.api.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "helm.sh/release.v1",
            "metadata": {"name": "sh.helm.release.v1.rel.v2", "namespace": cli.namespace},
            "stringData": {"release": record},
        }
    )


MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: role}
"""


@pytest.fixture
def forest(cli):
    """A Kustomization of a Namespace, a Kustomization and a HelmRelease."""
    ns = cli.namespace
    own = [
        {"id": "_apps__Namespace", "v": "v1"},
        {"id": f"{ns}_root_{OWNER}_Kustomization", "v": "v1"},
        {"id": f"{ns}_child_{OWNER}_Kustomization", "v": "v1"},
        {"id": f"{ns}_rel_{HELM_OWNER}_HelmRelease", "v": "v2"},
    ]
    child = [{"id": f"{ns}_a_apps_Deployment", "v": "v1"}, {"id": f"{ns}_root_{OWNER}_Kustomization", "v": "v1"}]
    cli.create(KUSTOMIZE, "Kustomization", "root", {"inventory": {"entries": own}})
    cli.create(KUSTOMIZE, "Kustomization", "child", {"inventory": {"entries": child}})
    newest = {
        "name": "rel", "namespace": ns, "version": 2, "status": "deployed", "chartName": "c", "chartVersion": "1",
        "configDigest": "sha256:0", "digest": "sha256:0", "firstDeployed": "2026-08-07T12:00:00Z",
        "lastDeployed": "2026-08-07T12:00:00Z",
    }  # fmt: skip
    cli.create(HELM, "HelmRelease", "rel", ready(history=[newest], storageNamespace=ns))
    release_secret(cli, MANIFEST)
    return ns


def test_a_tree_shows_what_was_applied_and_what_that_applied(cli, forest):
    """spec/cli.md 9: releases from Helm's own record, no object inside itself."""
    said = cli("tree", "kustomization", "root")
    assert (said.status, said.err) == (0, "")
    assert said.out == (
        f"Kustomization/{forest}/root\n"
        "├── Namespace/apps\n"
        f"├── Kustomization/{forest}/child\n"
        f"│   ├── Deployment/{forest}/a\n"
        f"│   └── Kustomization/{forest}/root\n"
        f"└── HelmRelease/{forest}/rel\n"
        f"    ├── ConfigMap/{forest}/config\n"
        "    └── ClusterRole/role\n"
        "\n"
    )


def test_a_compact_tree_shows_our_own_kinds(cli, forest):
    """spec/cli.md 9, --compact."""
    assert cli("tree", "ks", "root", "--compact").out == (
        f"Kustomization/{forest}/root\n"
        f"├── Kustomization/{forest}/child\n"
        f"│   └── Kustomization/{forest}/root\n"
        f"└── HelmRelease/{forest}/rel\n\n"
    )


def test_a_tree_for_scripts(cli, forest):
    """spec/cli.md 9, json and yaml."""
    found = json.loads(cli("tree", "ks", "child", "-o", "json").out)
    assert list(found) == ["resource", "resources"]
    assert found["resource"] == {
        "Namespace": forest,
        "Name": "child",
        "GroupKind": {"Group": OWNER, "Kind": "Kustomization"},
    }
    assert [each["resource"]["Name"] for each in found["resources"]] == ["a", "root"]
    assert cli("tree", "ks", "child", "-o", "yaml").out.startswith("resource:\n  GroupKind:\n    Group: kustomize.")


def test_what_lives_in_another_cluster_is_not_looked_for(cli, forest):
    """spec/cli.md 9, nested Kustomization."""
    cli.api.merge(KUSTOMIZE, "Kustomization", "root", {"spec": {"kubeConfig": {"secretRef": {"name": "x"}}}}, forest)
    assert f"├── Kustomization/{forest}/child\n└── " in cli("tree", "ks", "root").out


def test_a_missing_child_is_an_error(cli):
    """spec/cli.md 9."""
    entries = [{"id": f"{cli.namespace}_nope_{OWNER}_Kustomization", "v": "v1"}]
    cli.create(KUSTOMIZE, "Kustomization", "root", {"inventory": {"entries": entries}})
    said = cli("tree", "ks", "root")
    assert (said.status, said.out) == (1, "")
    assert said.err == ('✗ failed to find object: kustomizations.kustomize.toolkit.fluxcd.io "nope" not found\n')


def test_a_tree_needs_a_name(cli):
    """spec/cli.md 9."""
    said = cli("tree", "ks")
    assert (said.status, said.err) == (1, "✗ kustomization name is required\n")


@pytest.fixture
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def config_map(cli, name, labels=None, owners=()):
    metadata = {"name": name, "namespace": cli.namespace, "labels": labels or {}, "ownerReferences": list(owners)}
    return cli.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


def owned(cli, group, name):
    return {f"{group}/name": name, f"{group}/namespace": cli.namespace}


@pytest.mark.usefixtures("utc")
def test_a_trace_leads_back_to_the_commit(cli):
    """spec/cli.md 10: the Kustomization report, 17 wide; owners are followed."""
    git = ready(message="stored artifact", artifact=artifact("main@sha1:a"))
    cli.create(SOURCE, "GitRepository", "git", git, ref={"branch": "main"})
    cli.create(KUSTOMIZE, "Kustomization", "app", ready(lastAppliedRevision="main@sha1:a"), targetNamespace="t")
    owner = config_map(cli, "owner", owned(cli, OWNER, "app"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    config_map(cli, "y", owners=[reference])
    said = cli("trace", "cm", "y")
    assert (said.status, said.err) == (0, "")
    assert said.out == (
        "\n"
        "Object:          ConfigMap/y\n"
        f"Namespace:       {cli.namespace}\n"
        "Status:          Managed by Flux\n"
        "---\n"
        "Kustomization:   app\n"
        f"Namespace:       {cli.namespace}\n"
        "Target:          t\n"
        "Path:            ./\n"
        "Revision:        main@sha1:a\n"
        "Status:          Last reconciled at 2026-08-07 12:00:00 +0000 UTC\n"
        "Message:         all is well\n"
        "---\n"
        "GitRepository:   git\n"
        f"Namespace:       {cli.namespace}\n"
        "URL:             https://example.com/x.git\n"
        "Branch:          main\n"
        "Revision:        main@sha1:a\n"
        "Status:          Last reconciled at 2026-08-07 12:00:00 +0000 UTC\n"
        "Message:         stored artifact\n"
    )


@pytest.mark.usefixtures("utc")
def test_a_trace_leads_back_to_the_chart(cli):
    """spec/cli.md 10: the Helm report, 16 wide."""
    ns = cli.namespace
    cli.create(SOURCE, "HelmRepository", "h", ready("False", "no index"))
    cli.create(SOURCE, "HelmChart", f"{ns}-app", ready(artifact=artifact("1.2.3")), version="1.x")
    cli.create(HELM, "HelmRelease", "app", ready(lastAttemptedRevision="1.2.3", helmChart=f"{ns}/{ns}-app"))
    config_map(cli, "y", owned(cli, HELM_OWNER, "app"))
    said = cli("trace", "y", "--kind", "ConfigMap", "--api-version", "v1")
    assert said.out == (
        "\n"
        "Object:         ConfigMap/y\n"
        f"Namespace:      {ns}\n"
        "Status:         Managed by Flux\n"
        "---\n"
        "HelmRelease:    app\n"
        f"Namespace:      {ns}\n"
        "Revision:       1.2.3\n"
        "Status:         Last reconciled at 2026-08-07 12:00:00 +0000 UTC\n"
        "Message:        all is well\n"
        "---\n"
        f"HelmChart:      {ns}-app\n"
        f"Namespace:      {ns}\n"
        "Chart:          c\n"
        "Version:        1.x\n"
        "Revision:       1.2.3\n"
        "Status:         Last reconciled at 2026-08-07 12:00:00 +0000 UTC\n"
        "Message:        all is well\n"
        "---\n"
        "HelmRepository: h\n"
        f"Namespace:      {ns}\n"
        "URL:            https://example.com/charts\n"
        "Status:         Last reconciled at 2026-08-07 12:00:00 +0000 UTC\n"
        "Message:        no index\n"
    )


@pytest.mark.parametrize("word", ["configmap", "configmaps", "cm", "ConfigMap", "configmaps.v1."])
def test_every_word_of_kubectl_names_the_kind(cli, word):
    """spec/cli.md 10: any kubectl resource word."""
    config_map(cli, "y")
    said = cli("trace", f"{word}/y")
    assert (said.status, said.out) == (0, "")
    assert said.err == (f"failed to trace ConfigMap/y in namespace {cli.namespace}: object not managed by Flux")


def test_a_word_with_a_group_names_its_kind(cli):
    """spec/cli.md 10: `deployments.apps`, `ks`."""
    cli.create(KUSTOMIZE, "Kustomization", "app")
    for word in ("ks", "kustomizations.kustomize.toolkit.fluxcd.io", "kustomization.v1.kustomize.toolkit.fluxcd.io"):
        assert cli("trace", word, "app").err.startswith("failed to trace Kustomization/app in namespace")
    said = cli("trace", "nonsense/app")
    assert (said.status, said.err) == (1, '✗ the server doesn\'t have a resource type "nonsense"\n')


def test_several_objects_are_separated(cli):
    """spec/cli.md 10, separator."""
    cli.create(SOURCE, "GitRepository", "git")
    cli.create(KUSTOMIZE, "Kustomization", "app")
    for name in ("a", "b"):
        config_map(cli, name, owned(cli, OWNER, "app"))
    out = cli("trace", "cm", "a", "b").out
    assert out.count("Object: ") == 2
    assert "Status:          Unknown\n---\n\nObject:          ConfigMap/b\n" in out


def test_owners_in_a_circle_end(cli):
    """A crafted object must not hang the tool."""
    first = config_map(cli, "a")["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": first}
    config_map(cli, "b", owners=[reference])
    uid = cli.api.get("v1", "ConfigMap", "b", cli.namespace)["metadata"]["uid"]
    back = {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "uid": uid}
    cli.api.merge("v1", "ConfigMap", "a", {"metadata": {"ownerReferences": [back]}}, cli.namespace)
    assert "object not managed by Flux" in cli("trace", "cm", "a").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either `<resource>/<name>` or `<resource> <name>` is required as an argument"),
        (("cm",), "either `<resource>/<name>` or `<resource> <name>` is required as an argument"),
        (("cm/",), "either `<resource>/<name>` or `<resource> <name>` is required as an argument"),
        (("--kind", "ConfigMap"), "object name is required"),
        (("x", "--api-version", "v1"), "object kind is required (--kind)"),
        (("x", "--kind", "ConfigMap"), "object apiVersion is required (--api-version)"),
        (("cm/nope",), 'configmaps "nope" not found'),
    ],
)
def test_mistakes_of_trace(cli, arguments, message):
    """spec/cli.md 10, argument errors."""
    said = cli("trace", *arguments)
    assert (said.status, said.err) == (1, f"✗ {message}\n")
