"""`gitopsd get` against a real API server, to the byte (`spec/cli.md` 4)."""

from __future__ import annotations

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
)


def test_get_sources_git_prints_the_table_scripts_know(cli):
    """spec/cli.md 4 and 2.5."""
    cli.create(SOURCE, "GitRepository", "app", ready(message=f"stored {SHA}", artifact=artifact(f"main@sha1:{SHA}")))
    cli.create(SOURCE, "GitRepository", "new", suspend=True)
    said = cli("get", "sources", "git")
    assert said.status == 0
    assert said.err == ""
    assert said.out == (
        "NAME\tREVISION          \tSUSPENDED\tREADY\tMESSAGE                  \n"
        "app \tmain@sha1:01234567\tFalse    \tTrue \tstored 01234567         \t\n"
        "new \t                  \tTrue     \tFalse\twaiting to be reconciled\t\n"
    )


def test_one_object_by_name_and_without_heading(cli):
    """spec/cli.md 4: an argument, and --no-header."""
    cli.create(KUSTOMIZE, "Kustomization", "one", ready(lastAppliedRevision=f"main@sha1:{SHA}"))
    cli.create(KUSTOMIZE, "Kustomization", "another-one", ready())
    said = cli("get", "ks", "one", "--no-header", "--show-source")
    assert said.out == f"one\tGitRepository/{cli.namespace}/git\tmain@sha1:01234567\tFalse\tTrue\tall is well\t\n"


@pytest.mark.parametrize("word", ["kustomizations", "kustomization", "ks"])
def test_kinds_answer_to_all_their_words(cli, word):
    """spec/cli.md 2.4."""
    cli.create(KUSTOMIZE, "Kustomization", "one", ready())
    assert cli("get", word).out.splitlines()[1].startswith("one \t")


def test_helm_releases_of_all_namespaces(cli):
    """spec/cli.md 4: NAMESPACE first."""
    history = [
        {
            "name": "x", "namespace": cli.namespace, "version": 1, "status": "deployed", "chartName": "c",
            "chartVersion": "1.2.3", "configDigest": "sha256:0", "digest": "sha256:0",
            "firstDeployed": "2026-08-07T12:00:00Z", "lastDeployed": "2026-08-07T12:00:00Z",
        }
    ]  # fmt: skip
    cli.create(HELM, "HelmRelease", "x", ready(history=history))
    said = cli("get", "helmreleases", "-A", "--no-header", in_namespace=False)
    rows = [[cell.strip() for cell in line.split("\t")] for line in said.out.splitlines()]
    assert [row[1:] for row in rows if row[0] == cli.namespace] == [["x", "1.2.3", "False", "True", "all is well", ""]]


def test_nothing_found_is_an_error(cli):
    """spec/cli.md 2.7: `get` kind, none."""
    said = cli("get", "kustomizations")
    assert said.status == 1
    assert (said.out, said.err) == ("", f'✗ no Kustomization objects found in "{cli.namespace}" namespace\n')


def test_a_name_that_is_not_there_is_an_error(cli):
    """spec/cli.md 2.7: `get` kind name, none."""
    cli.create(KUSTOMIZE, "Kustomization", "one")
    said = cli("get", "kustomizations", "nope")
    assert (said.status, said.err) == (1, f"✗ Kustomization object 'nope' not found in \"{cli.namespace}\" namespace\n")
    said = cli("get", "ks", "nope", "-A")
    assert (said.status, said.err) == (1, "✗ Kustomization object 'nope' not found in any namespace\n")


def test_a_kind_that_is_not_served_is_an_error(cli):
    """spec/cli.md 2.7: CRD absent, single kind."""
    said = cli("get", "alerts")
    assert (said.status, said.out) == (1, "")
    assert said.err == '✗ no matches for kind "Alert" in version "notification.toolkit.fluxcd.io/v1beta3"\n'


def test_get_all_passes_over_kinds_that_are_not_served_or_empty(cli):
    """spec/cli.md 4: one table per kind, in order, a blank line after each; exit 0."""
    cli.create(KUSTOMIZE, "Kustomization", "k", ready())
    cli.create(SOURCE, "GitRepository", "g", ready())
    cli.create(SOURCE, "OCIRepository", "o", ready())
    said = cli("get", "all")
    assert (said.status, said.err) == (0, "")
    rows = [line.split("\t")[0].strip() for line in said.out.splitlines()]
    assert rows == ["NAME", "ocirepository/o", "", "NAME", "gitrepository/g", "", "NAME", "kustomization/k", ""]
    rows = [line.split("\t")[0].strip() for line in cli("get", "sources", "all").out.splitlines()]
    assert rows == ["NAME", "ocirepository/o", "", "NAME", "gitrepository/g", ""]
    assert cli("get", "images", "all").out == ""


def test_get_all_of_nothing_prints_nothing(cli):
    """spec/cli.md 2.2."""
    said = cli("get", "all")
    assert (said.status, said.out, said.err) == (0, "", "")


def test_get_all_tells_what_it_may_not_list_and_ends_well(cli):
    """spec/cli.md 2.2: errors are printed per kind, exit 0."""
    said = cli("get", "sources", "all", "--as", "nobody")
    assert (said.status, said.out) == (0, "")
    assert len(said.err.splitlines()) == 6
    assert 'cannot list resource "buckets"' in said.err


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("ready=true", ["good"]),
        ("Ready=False", ["bad"]),
        ("ready!=true", ["bad", "new"]),
        ("Stalled=True", []),
    ],
)
def test_a_status_selector_keeps_what_matches(cli, selector, names):
    """spec/cli.md 4: emptied by the selector, the heading stays and it is no error."""
    cli.create(SOURCE, "GitRepository", "good", ready())
    cli.create(SOURCE, "GitRepository", "bad", ready("False"))
    cli.create(SOURCE, "GitRepository", "new")
    said = cli("get", "sources", "git", "--status-selector", selector)
    assert said.status == 0
    assert names == [line.split("\t")[0].strip() for line in said.out.splitlines()[1:]]


def test_a_malformed_status_selector_is_refused(cli):
    """spec/cli.md 4."""
    said = cli("get", "sources", "git", "--status-selector", "ready")
    assert said.status == 1
    assert said.err == "✗ expected status selector in type=status or type!=status format, but found: ready\n"


def test_label_selectors(cli):
    """spec/cli.md 4, -l."""
    cli.create(SOURCE, "GitRepository", "a")
    cli.create(SOURCE, "GitRepository", "b")
    cli.api.merge(SOURCE, "GitRepository", "b", {"metadata": {"labels": {"team": "x"}}}, cli.namespace)
    assert [row[0] for row in cli("get", "sources", "git", "-l", "team=x", "--no-header").out.splitlines()] == ["b"]
    said = cli("get", "sources", "git", "-l", "team==!x")
    assert said.status == 1
    assert said.err.startswith("✗ unable to parse label selector: ")
    assert said.err.count("\n") == 1


def test_more_objects_than_a_page_holds(cli):
    """spec/hostile-inputs.md S05: listings are paged."""
    for number in range(510):
        cli.create(SOURCE, "ExternalArtifact", f"a{number:03}")
    assert len(cli("get", "sources", "external", "--no-header").out.splitlines()) == 510


def test_watch_prints_what_is_there_then_each_change(cli, meanwhile):
    """spec/cli.md 4, --watch: one row for an event, heading once, the end of the time is no failure."""
    cli.create(SOURCE, "GitRepository", "first", ready())

    def change():
        import time

        time.sleep(1.0)
        cli.write_status(SOURCE, "GitRepository", "first", ready("False", "broken"))
        cli.create(SOURCE, "GitRepository", "second")
        cli.api.delete(SOURCE, "GitRepository", "second", cli.namespace)

    meanwhile(change)
    said = cli("get", "sources", "git", "--watch", "--timeout", "4s")
    assert (said.status, said.err) == (0, "")
    rows = [[cell.strip() for cell in line.split("\t")][:5] for line in said.out.splitlines()]
    assert rows == [
        ["NAME", "REVISION", "SUSPENDED", "READY", "MESSAGE"],
        ["first", "", "False", "True", "all is well"],
        ["first", "", "False", "False", "broken"],
        ["second", "", "False", "False", "waiting to be reconciled"],
        ["second", "", "False", "False", "waiting to be reconciled"],
    ]


def test_everything_cannot_be_watched(cli):
    """spec/cli.md 4."""
    said = cli("get", "all", "--watch")
    assert (said.status, said.err) == (1, "✗ expected a single resource type, but found all\n")


def test_an_api_server_that_is_away_is_one_line(cli):
    """spec/hostile-inputs.md S05."""
    said = cli("get", "ks", "--server", "https://127.0.0.1:1")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("✗ the API server at 127.0.0.1:1 ")
    assert said.err.count("\n") == 1


def test_a_forbidden_listing_is_the_servers_own_text(cli):
    """spec/cli.md 2.7."""
    said = cli("get", "ks", "--as", "nobody", "--as-group", "nogroup")
    assert said.status == 1
    assert said.err.startswith(
        '✗ kustomizations.kustomize.toolkit.fluxcd.io is forbidden: User "nobody" cannot list resource '
    )


def test_the_namespace_of_the_context_is_used_only_when_asked_for(cli, monkeypatch):
    """spec/cli.md 2.3."""
    monkeypatch.delenv("FLUX_SYSTEM_NAMESPACE", raising=False)
    said = cli("get", "ks", in_namespace=False)
    assert said.err == '✗ no Kustomization objects found in "flux-system" namespace\n'
    said = cli("get", "ks", "--ns-follows-kube-context", in_namespace=False)
    assert said.err == '✗ no Kustomization objects found in "default" namespace\n'
