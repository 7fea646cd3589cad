"""`gitopsd reconcile`, `suspend` and `resume` against a real API server (`spec/cli.md` 5 and 6).

The daemon is played by hand: what the tool waits for is written when it is waited for.
"""

from __future__ import annotations

import re
import time

import pytest

from tests.flows.commandline import (
    HELM,
    KUSTOMIZE,
    SHA,
    SOURCE,
    artifact,
    cli_fixture,  # noqa: F401
    condition,
    meanwhile_fixture,  # noqa: F401
    ready,
    until,
)

REQUESTED = "reconcile.fluxcd.io/requestedAt"
RFC3339_NANO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def annotations(cli, api_version, kind, name):
    return cli.api.get(api_version, kind, name, cli.namespace)["metadata"].get("annotations", {})


def handle(cli, api_version, kind, name, status=None):
    """Do what the daemon does: see the request, then write the status of its work."""
    token = until(lambda: annotations(cli, api_version, kind, name).get(REQUESTED))
    cli.write_status(api_version, kind, name, {**(status or ready()), "lastHandledReconcileAt": token})


def test_reconcile_asks_waits_and_tells_the_revision(cli, meanwhile):
    """spec/cli.md 5.3 and 5.5: four lines on stderr, the full hash."""
    revision = f"main@sha1:{SHA}"
    cli.create(SOURCE, "GitRepository", "app", ready())
    meanwhile(lambda: handle(cli, SOURCE, "GitRepository", "app", ready(artifact=artifact(revision))))
    said = cli("reconcile", "source", "git", "app")
    assert (said.status, said.out) == (0, "")
    assert said.err == (
        f"► annotating GitRepository app in {cli.namespace} namespace\n"
        "✔ GitRepository annotated\n"
        "◎ waiting for GitRepository reconciliation\n"
        f"✔ fetched revision {revision}\n"
    )
    assert RFC3339_NANO.fullmatch(annotations(cli, SOURCE, "GitRepository", "app")[REQUESTED])


def test_the_annotation_is_owned_by_flux(cli, meanwhile):
    """spec/cli.md 2.3: the field manager that managedFields shows."""
    cli.create(KUSTOMIZE, "Kustomization", "app", ready())
    meanwhile(lambda: handle(cli, KUSTOMIZE, "Kustomization", "app"))
    assert cli("reconcile", "ks", "app").status == 0
    fields = cli.api.get(KUSTOMIZE, "Kustomization", "app", cli.namespace)["metadata"]["managedFields"]
    assert "flux" in {entry["manager"] for entry in fields if entry["operation"] == "Update"}


def test_with_source_the_source_comes_first(cli, meanwhile):
    """spec/cli.md 5.4: eight lines."""
    cli.create(SOURCE, "GitRepository", "git", ready())
    cli.create(KUSTOMIZE, "Kustomization", "app", ready())

    def daemon():
        handle(cli, SOURCE, "GitRepository", "git", ready(artifact=artifact("main@sha1:a")))
        assert REQUESTED not in annotations(cli, KUSTOMIZE, "Kustomization", "other")

    cli.create(KUSTOMIZE, "Kustomization", "other")
    meanwhile(daemon)
    meanwhile(lambda: handle(cli, KUSTOMIZE, "Kustomization", "app", ready(lastAppliedRevision="main@sha1:a")))
    said = cli("reconcile", "kustomization", "app", "--with-source")
    assert said.status == 0
    assert said.err == (
        f"► annotating GitRepository git in {cli.namespace} namespace\n"
        "✔ GitRepository annotated\n"
        "◎ waiting for GitRepository reconciliation\n"
        "✔ fetched revision main@sha1:a\n"
        f"► annotating Kustomization app in {cli.namespace} namespace\n"
        "✔ Kustomization annotated\n"
        "◎ waiting for Kustomization reconciliation\n"
        "✔ applied revision main@sha1:a\n"
    )


def test_a_releases_chart_and_its_repository_come_first(cli, meanwhile):
    """spec/cli.md 5.4: the chart `<ns>-<name>`, and always the chart's own source."""
    chart = f"{cli.namespace}-app"
    cli.create(SOURCE, "HelmRepository", "h", ready())
    cli.create(SOURCE, "HelmChart", chart, ready())
    cli.create(HELM, "HelmRelease", "app", ready())
    for version, kind, name in (
        (SOURCE, "HelmRepository", "h"),
        (SOURCE, "HelmChart", chart),
        (HELM, "HelmRelease", "app"),
    ):
        meanwhile(lambda v=version, k=kind, n=name: handle(cli, v, k, n))
    said = cli("reconcile", "hr", "app", "--with-source", "--force", "--reset")
    assert said.status == 0
    started = [line for line in said.err.splitlines() if line.startswith("►")]
    assert started == [
        f"► annotating HelmRepository h in {cli.namespace} namespace",
        f"► annotating HelmChart {chart} in {cli.namespace} namespace",
        f"► annotating HelmRelease app in {cli.namespace} namespace",
    ]
    found = annotations(cli, HELM, "HelmRelease", "app")
    assert found["reconcile.fluxcd.io/forceAt"] == found[REQUESTED] == found["reconcile.fluxcd.io/resetAt"]
    assert set(annotations(cli, SOURCE, "HelmChart", chart)) == {REQUESTED}


def test_a_source_of_another_kind_cannot_be_reconciled(cli):
    """spec/cli.md 5.4, anything else."""
    reference = {"kind": "ExternalArtifact", "name": "x"}
    cli.create(KUSTOMIZE, "Kustomization", "app", ready(), sourceRef=reference)
    said = cli("reconcile", "ks", "app", "--with-source")
    assert (said.status, said.err) == (1, "✗ cannot reconcile source of kind ExternalArtifact\n")


def test_a_failing_source_stops_the_command(cli):
    """spec/cli.md 5.4."""
    cli.create(KUSTOMIZE, "Kustomization", "app", ready())
    said = cli("reconcile", "ks", "app", "--with-source")
    assert said.status == 1
    assert said.err == '✗ gitrepositories.source.toolkit.fluxcd.io "git" not found\n'
    assert REQUESTED not in annotations(cli, KUSTOMIZE, "Kustomization", "app")


def test_what_does_not_exist_is_the_servers_own_text(cli):
    """spec/cli.md 2.7."""
    said = cli("reconcile", "ks", "nope")
    assert (said.status, said.err) == (1, '✗ kustomizations.kustomize.toolkit.fluxcd.io "nope" not found\n')


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("ks",), "Kustomization name is required"),
        (("source", "git"), "GitRepository name is required"),
        (("ks", "a/../b"), 'invalid resource name "a/../b"'),
        (("ks", ""), 'invalid resource name ""'),
    ],
)
def test_a_name_is_required(cli, args, message):
    """spec/cli.md 2.7: missing name, reconcile."""
    said = cli("reconcile", *args)
    assert (said.status, said.err) == (1, f"✗ {message}\n")


def test_a_suspended_object_is_left_alone(cli):
    """spec/cli.md 5.3, step 3."""
    cli.create(KUSTOMIZE, "Kustomization", "app", ready(), suspend=True)
    said = cli("reconcile", "ks", "app", "--with-source")
    assert (said.status, said.err) == (1, "✗ resource is suspended\n")
    assert REQUESTED not in annotations(cli, KUSTOMIZE, "Kustomization", "app")


def test_oci_helm_repositories_have_nothing_to_reconcile(cli):
    """spec/cli.md 5.3, step 2."""
    cli.create(SOURCE, "HelmRepository", "o", type="oci", url="oci://example.com/x")
    said = cli("reconcile", "source", "helm", "o")
    assert (said.status, said.err) == (0, "✔ reconciliation not supported by the object\n")


def test_a_stalled_object_ends_the_wait_at_once(cli, meanwhile):
    """spec/cli.md 5.3: Stalled is Failed, with its message."""
    cli.create(KUSTOMIZE, "Kustomization", "app")
    status = ready("False", "never mind")
    status["conditions"].append(condition("Stalled", "True", "no such path"))
    meanwhile(lambda: handle(cli, KUSTOMIZE, "Kustomization", "app", status))
    said = cli("reconcile", "ks", "app", "--timeout", "30s")
    assert said.status == 1
    assert said.err.splitlines()[-1] == "✗ no such path"


def test_a_failing_object_is_waited_for_until_the_time_is_up(cli, meanwhile):
    """spec/cli.md 5.3: Ready=False is still in progress; its message comes before the end."""
    cli.create(KUSTOMIZE, "Kustomization", "app")
    meanwhile(lambda: handle(cli, KUSTOMIZE, "Kustomization", "app", ready("False", "cannot build")))
    said = cli("reconcile", "ks", "app", "--timeout", "3s")
    assert said.status == 1
    assert said.err.splitlines()[-2:] == [
        "⚠️ Kustomization app is not ready: cannot build",
        "✗ context deadline exceeded",
    ]


def test_a_status_of_an_older_generation_is_not_the_end(cli, meanwhile):
    """spec/cli.md 5.3, kstatus: observedGeneration must be the generation."""
    cli.create(KUSTOMIZE, "Kustomization", "app")
    meanwhile(lambda: handle(cli, KUSTOMIZE, "Kustomization", "app", ready(generation=7)))
    assert cli("reconcile", "ks", "app", "--timeout", "2s").err.endswith("✗ context deadline exceeded\n")


def test_an_old_token_is_not_the_end(cli):
    """spec/cli.md 5.3, step 7: lastHandledReconcileAt must differ from what it was."""
    cli.create(KUSTOMIZE, "Kustomization", "app", ready(lastHandledReconcileAt="before"))
    assert cli("reconcile", "ks", "app", "--timeout", "2s").err.endswith("✗ context deadline exceeded\n")


def test_a_handled_object_without_a_ready_condition_is_undecided(cli, meanwhile):
    """spec/cli.md 5.3, step 8."""
    cli.create(KUSTOMIZE, "Kustomization", "app")
    meanwhile(lambda: handle(cli, KUSTOMIZE, "Kustomization", "app", {"observedGeneration": 1}))
    said = cli("reconcile", "ks", "app", "--timeout", "20s")
    assert (said.status, said.err.splitlines()[-1]) == (1, "✗ status can't be determined")


def test_an_object_that_is_deleted_meanwhile_ends_the_wait(cli, meanwhile):
    """spec/cli.md 2.7: the error of a GET."""
    cli.create(KUSTOMIZE, "Kustomization", "app")

    def delete():
        until(lambda: annotations(cli, KUSTOMIZE, "Kustomization", "app").get(REQUESTED))
        time.sleep(0.5)
        cli.api.delete(KUSTOMIZE, "Kustomization", "app", cli.namespace)

    meanwhile(delete)
    said = cli("reconcile", "ks", "app", "--timeout", "20s")
    assert (said.status, said.err.splitlines()[-1]) == (
        1,
        '✗ kustomizations.kustomize.toolkit.fluxcd.io "app" not found',
    )


def spec(cli, name):
    return cli.api.get(KUSTOMIZE, "Kustomization", name, cli.namespace)["spec"]


def test_suspend_and_resume_change_one_field(cli, meanwhile):
    """spec/cli.md 6: true, then no field at all; the revision at the end."""
    cli.create(KUSTOMIZE, "Kustomization", "app", ready())
    said = cli("suspend", "kustomization", "app")
    assert (said.status, said.out) == (0, "")
    assert said.err == (f"► suspending kustomization app in {cli.namespace} namespace\n✔ kustomization suspended\n")
    assert spec(cli, "app")["suspend"] is True

    def daemon():
        until(lambda: "suspend" not in spec(cli, "app"))
        cli.write_status(KUSTOMIZE, "Kustomization", "app", ready(generation=3, lastAppliedRevision="r"))

    meanwhile(daemon)
    said = cli("resume", "kustomization", "app")
    assert said.status == 0
    assert said.err == (
        f"► resuming kustomization app in {cli.namespace} namespace\n"
        "✔ kustomization resumed\n"
        "◎ waiting for Kustomization reconciliation\n"
        "✔ Kustomization app reconciliation completed\n"
        "✔ applied revision r\n"
    )
    assert "suspend" not in spec(cli, "app")


def test_suspending_several_tells_each_and_passes_over_what_is_not_there(cli):
    """spec/cli.md 6.1 and 2.2: duplicates once, exit 0."""
    for name in ("a", "b"):
        cli.create(KUSTOMIZE, "Kustomization", name)
    said = cli("suspend", "ks", "a", "nope", "b", "a")
    assert said.status == 0
    assert said.err == (
        f"► suspending kustomization a in {cli.namespace} namespace\n✔ kustomization suspended\n"
        f"✗ Kustomization nope not found in {cli.namespace} namespace\n"
        f"► suspending kustomization b in {cli.namespace} namespace\n✔ kustomization suspended\n"
    )


def test_a_refused_patch_is_told_and_is_no_failure(cli):
    """spec/cli.md 6.1: patch refused, exit 0."""
    cli.create(KUSTOMIZE, "Kustomization", "a")
    said = cli("suspend", "ks", "a", "--as", "nobody")
    assert said.status == 0
    assert said.err.startswith(f"✗ failed suspending Kustomization a in {cli.namespace} namespace: ")
    assert "forbidden" in said.err


@pytest.mark.parametrize(
    ("args", "human"),
    [
        (("suspend", "ks"), "kustomization"),
        (("resume", "hr"), "helmrelease"),
        (("suspend", "source", "git"), "source git"),
        (("resume", "source", "chart"), "source chart"),
        (("suspend", "alert-provider"), "alert provider"),
        (("resume", "image", "update"), "image update automation"),
    ],
)
def test_suspend_and_resume_need_a_name_or_all(cli, args, human):
    """spec/cli.md 2.7."""
    said = cli(*args)
    assert (said.status, said.err) == (1, f"✗ {human} name is required\n")


def test_all_of_an_empty_namespace(cli):
    """spec/cli.md 6: an error for suspend, none for resume."""
    said = cli("suspend", "ks", "--all")
    assert (said.status, said.err) == (1, "✗ no objects found\n")
    said = cli("resume", "ks", "--all")
    assert (said.status, said.err) == (0, f"✗ no Kustomization objects found in {cli.namespace} namespace\n")


def test_resuming_all_does_not_wait_unless_asked_to(cli):
    """spec/cli.md 6.2, waits when."""
    for name in ("a", "b"):
        cli.create(KUSTOMIZE, "Kustomization", name, suspend=True)
    said = cli("resume", "ks", "--all")
    assert said.status == 0
    assert "waiting" not in said.err
    assert "suspend" not in spec(cli, "b")


def test_resuming_one_does_not_wait_when_told_not_to(cli):
    """spec/cli.md 6.2, waits when."""
    cli.create(KUSTOMIZE, "Kustomization", "a", suspend=True)
    said = cli("resume", "ks", "a", "--wait=false")
    assert said.status == 0
    assert "waiting" not in said.err


def test_resume_tells_each_result_by_name_and_counts_the_failures(cli):
    """spec/cli.md 6.2, per object result and any failed."""
    stalled = ready("False", "broken")
    stalled["conditions"].append(condition("Stalled", "True", "broken for good"))
    cli.create(SOURCE, "GitRepository", "b", stalled)
    cli.create(SOURCE, "GitRepository", "a", ready(artifact=artifact("r")))
    cli.create(SOURCE, "GitRepository", "c", ready("False", "try again"))
    said = cli("resume", "source", "git", "c", "b", "a", "--wait", "--timeout", "3s")
    assert said.status == 1
    assert said.err.count("◎ waiting for GitRepository reconciliation\n") == 3
    assert said.err.splitlines()[-6:] == [
        "⚠️ GitRepository c is not ready: try again",
        "✔ GitRepository a reconciliation completed",
        "✔ fetched revision r",
        "✗ GitRepository b reconciliation failed: broken for good",
        "✗ GitRepository c reconciliation failed: context deadline exceeded",
        "✗ reconciliation failed for 2 GitRepository(s)",
    ]


def test_resuming_what_is_not_there_quotes_the_first_argument(cli):
    """spec/cli.md 6.2, name unknown."""
    cli.create(KUSTOMIZE, "Kustomization", "a", ready())
    said = cli("resume", "ks", "a", "nope")
    assert said.status == 0
    assert said.err.splitlines()[-1] == f"✗ Kustomization object 'a' not found in {cli.namespace} namespace"


def test_resume_is_not_done_before_the_new_generation_was_seen(cli):
    """spec/cli.md 6.2, ready test: Ready of an older generation does not count."""
    cli.create(KUSTOMIZE, "Kustomization", "a", ready(), suspend=True)
    said = cli("resume", "ks", "a", "--timeout", "2s")
    assert said.status == 1
    assert "✗ Kustomization a reconciliation failed: context deadline exceeded\n" in said.err
