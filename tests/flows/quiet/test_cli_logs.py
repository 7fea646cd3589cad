"""`gitopsd logs` against a real API server and a kubelet that has only logs (`spec/cli.md` 7)."""

from __future__ import annotations

import json
import secrets

import pytest

from tests.flows.commandline import cli_fixture, meanwhile_fixture, until  # noqa: F401
from tests.flows.kubelet import Kubelet

PART_OF_FLUX = {"app.kubernetes.io/part-of": "flux"}


def line(msg, **more):
    entry = {"level": "info", "ts": "2026-08-07T13:50:15.123Z", "msg": msg, "controllerKind": "Kustomization"}
    return json.dumps({**entry, "name": "apps", "namespace": "flux-system", **more}) + "\n"


@pytest.fixture
def kubelet(control_plane):
    with Kubelet(control_plane, f"node-{secrets.token_hex(3)}") as kubelet:
        yield kubelet


@pytest.fixture
def controller(cli, kubelet):
    """Make a Deployment and its pod; calling the fixture with more containers makes a pod with sidecars."""

    def make(name, *containers):
        labels = {"app": name}
        containers = [{"name": each, "image": "example.com/x:1"} for each in containers or ("main",)]
        template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": cli.namespace, "labels": PART_OF_FLUX},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": cli.namespace, "labels": labels},
            "spec": {"nodeName": kubelet.name, "containers": containers},
        }
        cli.api.create(deployment)
        cli.api.create(pod)
        cli.api.merge("v1", "Pod", name, {"status": {"phase": "Running"}}, cli.namespace, subresource="status")

    return make


def logs(cli, *arguments):
    return cli("logs", "--flux-namespace", cli.namespace, *arguments, in_namespace=False)


def test_lines_of_all_pods_are_printed_one_pod_after_the_other(cli, kubelet, controller):
    """spec/cli.md 7: without follow, sequential; only what is a log line."""
    controller("a-controller")
    controller("b-controller")
    kubelet.write("a-controller", line("one") + "noise\n" + line("two", error="oh no", level="error"))
    kubelet.write("b-controller", line("three") + json.dumps({"msg": "starting", "level": "info", "ts": "t"}) + "\n")
    said = logs(cli, "-A")
    assert (said.status, said.err) == (0, "")
    assert said.out == (
        "2026-08-07T13:50:15.123Z info Kustomization/apps.flux-system - one \n"
        "2026-08-07T13:50:15.123Z error Kustomization/apps.flux-system - two oh no\n"
        "2026-08-07T13:50:15.123Z info Kustomization/apps.flux-system - three \n"
        "t info  - starting \n"
    )


def test_only_lines_about_the_namespace_are_shown(cli, kubelet, controller):
    """spec/cli.md 7 and 18.3."""
    controller("a")
    kubelet.write("a", line("here") + line("there", namespace="other") + line("nowhere", namespace=None))
    assert [text.split(" - ")[1] for text in logs(cli).out.splitlines()] == ["here "]
    said = cli("logs", "--flux-namespace", cli.namespace, "-n", "other", in_namespace=False)
    assert [text.split(" - ")[1] for text in said.out.splitlines()] == ["there "]


def test_following_goes_on_until_the_time_is_up(cli, kubelet, controller, meanwhile):
    """spec/cli.md 7, --follow: several pods at once, exit 0 at --timeout."""
    controller("a")
    controller("b")
    kubelet.write("a", line("old"))

    def write():
        until(lambda: len(kubelet.queries) == 2)
        kubelet.write("b", line("new in b"))
        kubelet.write("a", line("new in a"))

    meanwhile(write)
    said = logs(cli, "--follow", "--timeout", "4s", "--since", "1m")
    assert (said.status, said.err) == (0, "")
    assert {text.split(" - ")[1] for text in said.out.splitlines()} == {"old ", "new in b ", "new in a "}
    assert all(query["follow"] == "true" and query["sinceSeconds"] == "60" for query in kubelet.queries)


def test_following_ends_when_the_containers_end(cli, kubelet, controller):
    """There is nothing more to wait for."""
    controller("a")
    kubelet.write("a", line("last words"))
    kubelet.close_logs()
    said = logs(cli, "-f")
    assert (said.status, said.out.count("last words")) == (0, 1)


def test_among_several_containers_the_manager_is_read(cli, kubelet, controller):
    """spec/cli.md 7."""
    controller("a", "sidecar", "manager")
    logs(cli, "--tail", "5")
    assert [(query["container"], query["tailLines"]) for query in kubelet.queries] == [("manager", "5")]


def test_S06_a_broken_line_drops_the_rest_of_that_pod_only(cli, kubelet, controller):
    """spec/cli.md 7, wrong type or bad JSON."""
    controller("a")
    controller("b")
    kubelet.write("a", line("shown") + line("broken", ts=12.5) + line("dropped"))
    kubelet.write("b", line("other pod"))
    said = logs(cli)
    assert said.status == 0
    assert [text.split(" - ")[1] for text in said.out.splitlines()] == ["shown ", "other pod "]
    assert said.err == '✗ parse error: "ts" is not a string\n'


def test_S06_an_endless_line_ends_the_stream_quietly(cli, kubelet, controller):
    """spec/cli.md 7: longer than 64 KiB."""
    controller("a")
    kubelet.write("a", line("shown") + "{" + "x" * (10 << 20) + "\n" + line("after"))
    said = logs(cli)
    assert (said.status, said.err) == (0, "")
    assert [text.split(" - ")[1] for text in said.out.splitlines()] == ["shown "]


def test_S06_a_log_cannot_steer_a_terminal(cli, kubelet, controller):
    """spec/hostile-inputs.md S06."""
    controller("a")
    kubelet.write("a", line("\x1b]0;owned\x07"))
    assert "\\x1b]0;owned\\x07" in logs(cli).out


def test_a_pod_that_cannot_be_read_is_told_and_the_others_are_read(cli, kubelet, controller):
    """spec/cli.md 7, last paragraph."""
    controller("a", "one", "two")
    controller("b")
    kubelet.write("b", line("readable"))
    said = logs(cli)
    assert said.status == 1
    assert "readable" in said.out
    first, last = said.err.splitlines()
    assert first.startswith("failed getting logs: ")
    assert "manager" in first
    assert last == "✗ failed to collect logs from all Flux pods"


def test_without_pods_there_are_no_logs(cli):
    """spec/cli.md 7."""
    said = logs(cli)
    assert (said.status, said.err) == (1, f'✗ no Flux pods found in namespace "{cli.namespace}"\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x",), "no argument required"),
        (("--level", "warning"), "unsupported log level 'warning', must be one of: debug, info, error"),
        (("--since-time", "soon"), "soon is not a valid (RFC3339) time"),
        (("--since", "soon"), 'invalid argument "soon" for "--since" flag: invalid duration "soon"'),
    ],
)
def test_mistakes_on_the_command_line(cli, arguments, message):
    """spec/cli.md 7."""
    said = logs(cli, *arguments)
    assert (said.status, said.err) == (1, f"✗ {message}\n")
