"""Remote bases, end to end: what a kustomization refers to elsewhere is fetched by the daemon, or refused by it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.apiclient import Obj
from tests.conftest import CRDS
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import Stage, condition, config_map
from tests.servers.git import GitServer, Repository
from tests.servers.http import HttpServer


@pytest.fixture
def files() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[GitServer]:
    """A Git server that nobody but remote bases asks."""
    with GitServer() as server:
        yield server


@pytest.fixture
def base(elsewhere: GitServer) -> Repository:
    """A repository with an overlay that needs a file above it, at tag v1."""
    repository = elsewhere.repository("base")
    overlay = "resources: [../one.yaml]\nnamePrefix: far-\n"
    repository.commit({"deploy/kustomization.yaml": overlay, "one.yaml": config_map("one", key="v1")}, tag="v1")
    return repository


@pytest.fixture
def locked(git_server: GitServer) -> Iterator[Stage]:
    """A stage on a cluster of its own, where the only daemon was started with `--no-remote-bases`."""
    with ControlPlane() as own:
        own.install_crds(CRDS)
        with Daemon(own.kubeconfig, arguments=["--no-remote-bases"]):
            yield Stage(own, git_server, own.create_namespace())


def refer(stage: Stage, *references: str) -> str:
    """Push a kustomization of these references, and a Kustomization for it; returns the revision."""
    listed = "".join(f"- {reference}\n" for reference in references)
    revision = stage.push({"kustomization.yaml": f"resources:\n{listed}"})
    stage.source()
    stage.kustomization()
    return revision


def data_of(stage: Stage, name: str) -> dict[str, str]:
    return dict((stage.get("ConfigMap", name) or {}).get("data") or {})


def failure(stage: Stage) -> tuple[str, Obj]:
    seen = stage.until_reason("Kustomization", "BuildFailed")
    return str(condition(seen)["message"]), seen


def test_files_and_repositories_elsewhere_become_objects(
    stage: Stage, files: HttpServer, base: Repository, elsewhere: GitServer
) -> None:
    """spec/kustomize.md 8.2"""
    files.serve({"base.yaml": config_map("near", key="file")})
    refer(stage, f"{files.url}/base.yaml", f"{elsewhere.url}/base.git//deploy?ref=v1")
    stage.until_ready("Kustomization")
    assert data_of(stage, "near") == {"key": "file"}
    assert data_of(stage, "far-one") == {"key": "v1"}
    assert {seen.credentials for seen in [*files.requests, *elsewhere.requests]} == {""}


def test_what_changed_elsewhere_is_applied_by_the_next_run(
    stage: Stage, files: HttpServer, base: Repository, elsewhere: GitServer
) -> None:
    """An unchanged artifact must not hide that a file or a branch moved; an unmoved branch is not fetched again."""
    files.serve({"base.yaml": config_map("near", key="old")})
    refer(stage, f"{files.url}/base.yaml", f"{elsewhere.url}/base.git//deploy?ref=main")
    stage.until_ready("Kustomization")
    elsewhere.forget()
    stage.handled("Kustomization", stage.request("Kustomization"))
    stage.until_ready("Kustomization")
    bodies = [seen.body for seen in elsewhere.requests]
    assert any(b"command=ls-refs" in body for body in bodies)
    assert not any(b"command=fetch" in body for body in bodies)
    files.serve({"base.yaml": config_map("near", key="new")})
    base.commit({"one.yaml": config_map("one", key="moved")})
    stage.handled("Kustomization", stage.request("Kustomization"))
    stage.until_ready("Kustomization")
    assert data_of(stage, "near") == {"key": "new"}
    assert data_of(stage, "far-one") == {"key": "moved"}


def test_J03_with_no_remote_bases_nothing_is_connected_to(
    locked: Stage, files: HttpServer, elsewhere: GitServer, base: Repository
) -> None:
    files.serve({"base.yaml": config_map("near")})
    refer(locked, f"{files.url}/base.yaml", f"{elsewhere.url}/base.git//deploy?ref=v1")
    message, seen = failure(locked)
    assert message == (
        "kustomize build failed: remote bases are not allowed:"
        f" '{files.url}/base.yaml', '{elsewhere.url}/base.git//deploy'"
    )
    assert seen["status"].get("lastAppliedRevision") is None
    assert files.requests == []
    assert elsewhere.requests == []


@pytest.mark.parametrize("ref", ["--upload-pack=touch", "-x"])
def test_J04_a_ref_that_could_be_an_option_is_refused(
    stage: Stage, elsewhere: GitServer, base: Repository, ref: str
) -> None:
    refer(stage, f"{elsewhere.url}/base.git//deploy?ref={ref}")
    message, _ = failure(stage)
    assert message.endswith("its ref is not a legal name")
    assert elsewhere.requests == []


def test_J04_ssh_and_files_are_refused_by_name(stage: Stage) -> None:
    refer(stage, "ssh://git@127.0.0.1/base.git//deploy")
    message, _ = failure(stage)
    assert "is refused: only http and https are supported" in message


def test_a_server_that_is_down_fails_the_build_keeps_everything_and_the_next_run_recovers(
    stage: Stage, files: HttpServer, base: Repository, elsewhere: GitServer
) -> None:
    files.serve({"base.yaml": config_map("near", key="file")})
    url = elsewhere.url.replace("http://", "http://user:secret@")
    revision = refer(stage, f"{files.url}/base.yaml?token=hidden", f"{url}/base.git//deploy?ref=main")
    stage.until_applied(revision)
    elsewhere.refuse()
    stage.handled("Kustomization", stage.request("Kustomization"))
    message, seen = failure(stage)
    assert f"remote base '{elsewhere.url}/base.git//deploy': unable to list remote" in message
    assert "connection refused" in message
    assert "secret" not in message
    assert "hidden" not in message
    assert seen["status"]["lastAppliedRevision"] == revision
    assert len(seen["status"]["inventory"]["entries"]) == 2
    assert data_of(stage, "near") == {"key": "file"}
    assert data_of(stage, "far-one") == {"key": "v1"}
    elsewhere.accept()
    stage.handled("Kustomization", stage.request("Kustomization"))
    stage.until_applied(revision)
