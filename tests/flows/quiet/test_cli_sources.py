"""`get`, `reconcile`, `suspend` and `resume` for each kind of source (`spec/cli.md` 4 to 6).

The daemon is played by hand: what the tool waits for is written when it is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.flows.commandline import (
    HELM,
    KUSTOMIZE,
    SHA,
    SOURCE,
    artifact,
    cli_fixture,  # noqa: F401
    meanwhile_fixture,  # noqa: F401
    ready,
    until,
)

REQUESTED = "reconcile.fluxcd.io/requestedAt"
DIGEST = f"sha256:{SHA}{SHA[:24]}"


@dataclass(frozen=True)
class Row:
    """A kind as the tool names it, and a revision of it with how it is shown."""

    word: str
    kind: str
    revision: str
    shown: str


ROWS = (
    Row("git", "GitRepository", f"main@sha1:{SHA}", "main@sha1:01234567"),
    Row("oci", "OCIRepository", f"6.3.5@{DIGEST}", "6.3.5@sha256:01234567"),
    Row("helm", "HelmRepository", DIGEST, "sha256:01234567"),
    Row("chart", "HelmChart", f"6.3.5+{SHA}", f"6.3.5+{SHA}"),
    Row("bucket", "Bucket", DIGEST, "sha256:01234567"),
)
each_kind = pytest.mark.parametrize("row", ROWS, ids=[row.word for row in ROWS])
OCI_CHARTS = {"type": "oci", "url": "oci://example.com/charts"}


def found(cli, kind, name, api_version=SOURCE):
    return cli.api.get(api_version, kind, name, cli.namespace)


def handle(cli, kind, name, status=None, api_version=SOURCE):
    """Do what the daemon does: see the request, then write the status of its work."""
    token = until(lambda: found(cli, kind, name, api_version)["metadata"].get("annotations", {}).get(REQUESTED))
    cli.write_status(api_version, kind, name, {**(status or ready()), "lastHandledReconcileAt": token})


def asked(kind, name, namespace, last):
    """The lines of one reconciliation."""
    return (
        f"► annotating {kind} {name} in {namespace} namespace\n"
        f"✔ {kind} annotated\n"
        f"◎ waiting for {kind} reconciliation\n"
        f"✔ {last}\n"
    )


@each_kind
def test_get_sources_prints_one_table_for_each_kind(cli, row):
    """spec/cli.md 4 and 2.6: hashes are cut in both columns, a chart's revision stays whole."""
    cli.create(SOURCE, row.kind, "app", ready(message=f"stored {SHA}", artifact=artifact(row.revision)))
    cli.create(SOURCE, row.kind, "new", suspend=True)
    said = cli("get", "sources", row.word)
    assert (said.status, said.err) == (0, "")
    wide = len(row.shown)
    assert said.out == (
        f"NAME\t{'REVISION':{wide}}\tSUSPENDED\tREADY\tMESSAGE                  \n"
        f"app \t{row.shown}\tFalse    \tTrue \tstored 01234567         \t\n"
        f"new \t{'':{wide}}\tTrue     \tFalse\twaiting to be reconciled\t\n"
    )
    assert cli("get", "source", row.word, "app", "--no-header").out == (
        f"app\t{row.shown}\tFalse\tTrue\tstored 01234567\t\n"
    )
    everywhere = cli("get", "sources", row.word, "-A", "--status-selector=ready=true").out.splitlines()
    assert everywhere[0].split("\t")[0].strip() == "NAMESPACE"
    assert any(line.split("\t")[0].strip() == cli.namespace for line in everywhere[1:])


@each_kind
def test_a_source_that_is_not_there_is_an_error(cli, row):
    """spec/cli.md 2.7"""
    assert cli("get", "sources", row.word).err == f'✗ no {row.kind} objects found in "{cli.namespace}" namespace\n'
    said = cli("get", "sources", row.word, "x")
    assert (said.status, said.err) == (1, f"✗ {row.kind} object 'x' not found in \"{cli.namespace}\" namespace\n")
    assert cli("reconcile", "source", row.word).err == f"✗ {row.kind} name is required\n"
    for verb in ("suspend", "resume"):
        assert cli(verb, "source", row.word).err == f"✗ source {row.word} name is required\n"


def test_get_sources_all_has_a_table_for_each_kind_in_order(cli):
    """spec/cli.md 4: the kind in lower case before the name, a blank line after each table."""
    for row in ROWS:
        cli.create(SOURCE, row.kind, "app", ready(artifact=artifact(row.revision)))
    cli.create(SOURCE, "ExternalArtifact", "app", ready(artifact=artifact("1.0.0")))
    said = cli("get", "sources", "all")
    assert (said.status, said.err) == (0, "")
    tables = said.out.removesuffix("\n\n").split("\n\n")
    assert [table.splitlines()[1].split("\t")[0].strip() for table in tables] == [
        "ocirepository/app",
        "bucket/app",
        "gitrepository/app",
        "helmrepository/app",
        "helmchart/app",
        "externalartifact/app",
    ]
    shown = {row.kind.lower(): row.shown for row in ROWS}
    for table in tables[:5]:
        name, revision, *_ = (cell.strip() for cell in table.splitlines()[1].split("\t"))
        assert revision == shown[name.partition("/")[0]]
    assert len(cli("get", "sources", "all", "--status-selector=ready=false").out.splitlines()) == 12


def test_a_helm_repository_of_type_oci_is_always_ready(cli, meanwhile):
    """spec/cli.md 4, 5.3 and 6.2: whatever its status says, nothing reconciles it."""
    stale = ready("False", "stale", artifact=artifact(DIGEST))
    cli.create(SOURCE, "HelmRepository", "charts", stale, **OCI_CHARTS)
    assert cli("get", "sources", "helm").out == (
        "NAME  \tREVISION\tSUSPENDED\tREADY\tMESSAGE                  \n"
        "charts\t        \tFalse    \tTrue \tHelm repository is Ready\t\n"
    )
    assert "charts" in cli("get", "sources", "helm", "--status-selector=Ready=True").out
    assert "charts" not in cli("get", "sources", "helm", "--status-selector=Ready=False").out
    said = cli("reconcile", "source", "helm", "charts")
    assert (said.status, said.err) == (0, "✔ reconciliation not supported by the object\n")
    assert REQUESTED not in found(cli, "HelmRepository", "charts")["metadata"].get("annotations", {})


def test_a_helm_repository_of_type_oci_is_resumed_at_once(cli):
    """spec/cli.md 6.2: static kinds are judged by kstatus only."""
    cli.create(SOURCE, "HelmRepository", "charts", **OCI_CHARTS)
    # The default of the CRD would keep everybody waiting; the daemon clears it once (spec/cli.md 18).
    cli.write_status(SOURCE, "HelmRepository", "charts", {"observedGeneration": None})
    assert cli("suspend", "source", "helm", "charts").status == 0
    assert cli("resume", "source", "helm", "charts").err.splitlines()[-2:] == [
        "✔ HelmRepository charts reconciliation completed",
        "✔ Helm repository is Ready",
    ]


@each_kind
def test_reconcile_source_asks_waits_and_tells_the_whole_revision(cli, meanwhile, row):
    """spec/cli.md 5.3 and 5.5"""
    cli.create(SOURCE, row.kind, "app", ready())
    meanwhile(lambda: handle(cli, row.kind, "app", ready(artifact=artifact(row.revision))))
    said = cli("reconcile", "source", row.word, "app")
    assert (said.status, said.out) == (0, "")
    assert said.err == asked(row.kind, "app", cli.namespace, f"fetched revision {row.revision}")


@each_kind
def test_reconcile_source_leaves_a_suspended_one_alone(cli, row):
    """spec/cli.md 5.3, step 3"""
    cli.create(SOURCE, row.kind, "app", ready(), suspend=True)
    said = cli("reconcile", "source", row.word, "app")
    assert (said.status, said.err) == (1, "✗ resource is suspended\n")
    assert REQUESTED not in found(cli, row.kind, "app")["metadata"].get("annotations", {})


@each_kind
def test_suspend_and_resume_a_source(cli, meanwhile, row):
    """spec/cli.md 6: true, then no field at all; the revision at the end."""
    cli.create(SOURCE, row.kind, "app", ready())
    said = cli("suspend", "source", row.word, "app")
    assert (said.status, said.out) == (0, "")
    assert said.err == (
        f"► suspending source {row.word} app in {cli.namespace} namespace\n✔ source {row.word} suspended\n"
    )
    assert found(cli, row.kind, "app")["spec"]["suspend"] is True

    def daemon():
        until(lambda: "suspend" not in found(cli, row.kind, "app")["spec"])
        generation = found(cli, row.kind, "app")["metadata"]["generation"]
        cli.write_status(SOURCE, row.kind, "app", ready(generation=generation, artifact=artifact(row.revision)))

    meanwhile(daemon)
    said = cli("resume", "source", row.word, "app")
    assert said.status == 0
    assert said.err == (
        f"► resuming source {row.word} app in {cli.namespace} namespace\n"
        f"✔ source {row.word} resumed\n"
        f"◎ waiting for {row.kind} reconciliation\n"
        f"✔ {row.kind} app reconciliation completed\n"
        f"✔ fetched revision {row.revision}\n"
    )


@each_kind
def test_suspend_and_resume_all_sources_of_a_kind(cli, row):
    """spec/cli.md 6: `--all` does not wait."""
    for name in ("a", "b"):
        cli.create(SOURCE, row.kind, name, ready())
    assert cli("suspend", "source", row.word, "--all").status == 0
    assert [found(cli, row.kind, name)["spec"]["suspend"] for name in "ab"] == [True, True]
    said = cli("resume", "source", row.word, "--all")
    assert said.status == 0
    assert said.err.count(f"✔ source {row.word} resumed\n") == 2
    assert "waiting" not in said.err


@pytest.mark.parametrize("row", [row for row in ROWS if row.word in {"git", "oci", "bucket"}], ids=lambda row: row.word)
def test_a_kustomization_with_its_source(cli, meanwhile, row):
    """spec/cli.md 5.4: eight lines, the source first."""
    reference = {"kind": row.kind, "name": "app"}
    cli.create(SOURCE, row.kind, "app", ready())
    cli.create(KUSTOMIZE, "Kustomization", "apps", ready(), sourceRef=reference)
    meanwhile(lambda: handle(cli, row.kind, "app", ready(artifact=artifact(row.revision))))
    applied = ready(lastAppliedRevision=row.revision)
    meanwhile(lambda: handle(cli, "Kustomization", "apps", applied, KUSTOMIZE))
    said = cli("reconcile", "kustomization", "apps", "--with-source")
    assert said.status == 0
    assert said.err == (
        asked(row.kind, "app", cli.namespace, f"fetched revision {row.revision}")
        + asked("Kustomization", "apps", cli.namespace, f"applied revision {row.revision}")
    )


def test_a_kustomization_with_a_source_of_another_namespace(cli, meanwhile, control_plane):
    """spec/cli.md 5.4: in the namespace that the reference names."""
    other = control_plane.create_namespace()
    reference = {"kind": "OCIRepository", "name": "app", "namespace": other}
    cli.create(KUSTOMIZE, "Kustomization", "apps", ready(), sourceRef=reference)
    said = cli("reconcile", "ks", "apps", "--with-source")
    assert said.status == 1
    assert said.err == '✗ ocirepositories.source.toolkit.fluxcd.io "app" not found\n'
    control_plane.api.delete("v1", "Namespace", other)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.word in {"git", "helm", "bucket"}], ids=lambda row: row.word
)
def test_a_chart_with_its_source(cli, meanwhile, row):
    """spec/cli.md 5.1 and 5.4"""
    cli.create(SOURCE, row.kind, "from", ready())
    cli.create(SOURCE, "HelmChart", "app", ready(), sourceRef={"kind": row.kind, "name": "from"})
    meanwhile(lambda: handle(cli, row.kind, "from", ready(artifact=artifact(row.revision))))
    meanwhile(lambda: handle(cli, "HelmChart", "app", ready(artifact=artifact("6.3.5"))))
    said = cli("reconcile", "source", "chart", "app", "--with-source")
    assert said.status == 0
    assert said.err == (
        asked(row.kind, "from", cli.namespace, f"fetched revision {row.revision}")
        + asked("HelmChart", "app", cli.namespace, "fetched revision 6.3.5")
    )


def test_a_chart_of_a_static_repository(cli, meanwhile):
    """spec/cli.md 5.3, step 2: nothing is asked of the repository, and the chart goes on."""
    cli.create(SOURCE, "HelmRepository", "from", **OCI_CHARTS)
    cli.create(SOURCE, "HelmChart", "app", ready(), sourceRef={"kind": "HelmRepository", "name": "from"})
    meanwhile(lambda: handle(cli, "HelmChart", "app", ready(artifact=artifact("6.3.5"))))
    said = cli("reconcile", "source", "chart", "app", "--with-source")
    assert said.status == 0
    assert said.err == (
        "✔ reconciliation not supported by the object\n"
        + asked("HelmChart", "app", cli.namespace, "fetched revision 6.3.5")
    )


@pytest.mark.parametrize(("word", "kind"), [("git", "GitRepository"), ("oci", "OCIRepository")])
def test_only_what_has_a_source_can_be_reconciled_with_it(cli, word, kind):
    """spec/cli.md 5.1: no such flag for plain sources."""
    cli.create(SOURCE, kind, "app", ready())
    assert cli("reconcile", "source", word, "app", "--with-source").status == 1


@pytest.mark.parametrize("kind", ["OCIRepository", "HelmChart"])
def test_a_release_with_a_chart_reference(cli, meanwhile, kind):
    """spec/cli.md 5.4: a chart that is referred to comes after its own source."""
    cli.create(SOURCE, kind, "app", ready())
    cli.create(HELM, "HelmRelease", "app", ready(), chart=None, chartRef={"kind": kind, "name": "app"})
    expected = [kind, "HelmRelease"]
    if kind == "HelmChart":
        cli.create(SOURCE, "HelmRepository", "h", ready())
        meanwhile(lambda: handle(cli, "HelmRepository", "h"))
        expected.insert(0, "HelmRepository")
    meanwhile(lambda: handle(cli, kind, "app"))
    meanwhile(lambda: handle(cli, "HelmRelease", "app", None, HELM))
    said = cli("reconcile", "helmrelease", "app", "--with-source")
    assert said.status == 0
    assert [line.split()[2] for line in said.err.splitlines() if line.startswith("►")] == expected


@each_kind
def test_watching_sources_prints_a_row_for_each_change(cli, meanwhile, row):
    """spec/cli.md 4, `--watch`"""
    cli.create(SOURCE, row.kind, "app", ready(message="one"))
    meanwhile(lambda: cli.write_status(SOURCE, row.kind, "app", ready(message="two", artifact=artifact(row.revision))))
    said = cli("get", "sources", row.word, "--watch", "--timeout=2s")
    assert said.status == 0
    lines = [[cell.strip() for cell in line.split("\t")] for line in said.out.splitlines()]
    assert lines[0][0] == "NAME"
    assert lines[-1][:5] == ["app", row.shown, "False", "True", "two"]
