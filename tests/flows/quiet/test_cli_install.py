"""`gitopsd check` and `version` against a real API server (`spec/cli.md` 3 and 11)."""

from __future__ import annotations

import json
import re

import pytest

from tests.flows.commandline import cli_fixture  # noqa: F401

PART_OF = "app.kubernetes.io/part-of"
VERSION = "app.kubernetes.io/version"
BOOTSTRAPPED = "kustomize.toolkit.fluxcd.io/namespace"
GIT = "gitrepositories.source.toolkit.fluxcd.io"
CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")


@pytest.fixture
def deployment(cli):
    """Make a Deployment that is part of the installation; with no replicas its controller makes it ready at once."""

    def make(name="gitopsd", *, replicas=0, images=("example.com:5000/team/gitopsd:v1.2.3",)):
        containers = [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]
        labels = {"app": name}
        cli.api.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": cli.namespace, "labels": {PART_OF: "flux"}},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
                },
            }
        )

    return make


@pytest.fixture
def crd_labels(cli):
    """Change labels of the CRD that says what is installed, for one test."""
    before = cli.api.get(*CRD, GIT)["metadata"].get("labels") or {}
    changed = set()

    def change(**labels):
        renamed = {
            {"part_of": PART_OF, "version": VERSION, "bootstrapped": BOOTSTRAPPED}[k]: v for k, v in labels.items()
        }
        changed.update(renamed)
        cli.api.merge(*CRD, GIT, {"metadata": {"labels": renamed}})

    yield change
    cli.api.merge(*CRD, GIT, {"metadata": {"labels": {label: before.get(label) for label in changed}}})


def test_check_of_a_healthy_installation(cli, deployment, crd_labels):
    """spec/cli.md 3 and 19.1."""
    deployment()
    crd_labels(part_of="flux", version="v1.2.3", bootstrapped=None)
    said = cli("check", "--timeout", "20s")
    lines = said.err.splitlines()
    assert (said.status, said.out) == (0, "")
    assert lines[0] == "► checking prerequisites"
    assert re.fullmatch(r"✔ Kubernetes \d+\.\d+\.\d+ >=1\.33\.0-0", lines[1])
    assert lines[2:9] == [
        "► checking version in cluster",
        "✔ distribution: flux-v1.2.3",
        "✔ bootstrapped: false",
        "► checking controllers",
        "✔ gitopsd: deployment ready",
        "► example.com:5000/team/gitopsd:v1.2.3",
        "► checking crds",
    ]
    assert f"✔ {GIT}/v1" in lines
    assert len(lines) == 9 + 8 + 1
    assert lines[-1] == "✔ all checks passed"


def test_prerequisites_alone(cli):
    """spec/cli.md 3, --pre."""
    said = cli("check", "--pre")
    assert said.status == 0
    assert said.err.splitlines()[2:] == ["✔ prerequisites checks passed"]


def test_a_bootstrapped_cluster_says_so(cli, deployment, crd_labels):
    """spec/cli.md 3, 6a and 6b."""
    deployment()
    crd_labels(part_of="flux", version=None, bootstrapped="flux-system")
    lines = cli("check", "--timeout", "20s").err.splitlines()
    assert "✔ distribution: flux-" in lines
    assert "✔ bootstrapped: true" in lines


def test_without_controllers_the_check_fails_and_goes_on(cli):
    """spec/cli.md 3, 8."""
    said = cli("check")
    assert said.status == 1
    assert (
        f"✗ no controllers found in the '{cli.namespace}' namespace "
        "with the label selector 'app.kubernetes.io/part-of=flux'\n"
    ) in said.err
    assert f"✔ {GIT}/v1\n" in said.err
    assert said.err.endswith("✗ check failed\n")


def test_a_controller_that_is_not_ready_in_time_fails_the_check(cli, deployment):
    """spec/cli.md 3, 8a: images are told all the same."""
    deployment("stuck", replicas=1, images=("example.com/x:1", "example.com/y:2"))
    deployment("fine")
    said = cli("check", "--timeout", "2s", "--components", "a,b", "--poll-interval", "1s")
    assert said.status == 1
    assert (
        "✔ fine: deployment ready\n"
        "► example.com:5000/team/gitopsd:v1.2.3\n"
        "✗ stuck: deployment not ready\n"
        "► example.com/x:1\n"
        "► example.com/y:2\n"
        "► checking crds\n"
    ) in said.err


def test_an_unreachable_server_fails_the_prerequisites(cli):
    """spec/cli.md 3, 3b."""
    said = cli("check", "--pre", "--server", "https://127.0.0.1:1")
    assert said.status == 1
    first, second, third = said.err.splitlines()
    assert first == "► checking prerequisites"
    assert second.startswith("✗ Kubernetes API call failed: the API server at 127.0.0.1:1 ")
    assert third == "✗ check failed"


def test_versions_of_everything_that_runs(cli, deployment, crd_labels):
    """spec/cli.md 11: sorted keys, every container's tag."""
    deployment(images=("example.com:5000/team/gitopsd:v1.2.3", "sidecar:v0.1@sha256:" + "0" * 64))
    crd_labels(part_of="flux", version="v1.2.3")
    said = cli("version")
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["distribution", "flux", "gitopsd", "sidecar"]
    assert lines[0] == "distribution: flux-v1.2.3"
    assert lines[2] == "gitopsd: v1.2.3"
    assert lines[3] == "sidecar: v0.1@sha256:" + "0" * 64
    found = json.loads(cli("version", "-o=json").out)
    assert found["gitopsd"] == "v1.2.3"


def test_versions_need_a_deployment(cli):
    """spec/cli.md 11."""
    said = cli("version")
    assert (said.status, said.out, said.err) == (1, "", f"✗ no deployments found in {cli.namespace} namespace\n")


def test_an_image_without_a_tag_fails_the_whole_verb(cli, deployment):
    """spec/cli.md 11 and 18.10."""
    deployment(images=("example.com:5000/gitopsd",))
    said = cli("version")
    assert (said.status, said.out) == (1, "")
    assert said.err == "✗ missing image tag in image example.com:5000/gitopsd\n"
