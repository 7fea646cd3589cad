"""`gitopsd export` and `debug` against a real API server (`spec/cli.md` 12 and 14.1)."""

from __future__ import annotations

import base64

from tests.flows.commandline import HELM, KUSTOMIZE, SOURCE, cli_fixture, ready  # noqa: F401


def test_an_export_holds_what_its_author_wrote(cli):
    """spec/cli.md 14.1: no status, sorted keys, a separator first."""
    cli.create(KUSTOMIZE, "Kustomization", "app", ready())
    said = cli("export", "ks", "app")
    assert (said.status, said.err) == (0, "")
    head, _, spec = said.out.partition("spec:\n")
    assert head == (
        "---\n"
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\n"
        "kind: Kustomization\n"
        "metadata:\n"
        "  name: app\n"
        f"  namespace: {cli.namespace}\n"
    )
    assert all(line.startswith("  ") for line in spec.splitlines())
    assert {"  interval: 1h", "  path: ./", "  prune: true"} <= set(spec.splitlines())


def test_an_export_of_all_can_be_applied(cli):
    """spec/cli.md 19.9: accepted by a server-side dry run."""
    for name in ("a", "b"):
        cli.create(HELM, "HelmRelease", name, ready())
    said = cli("export", "helmrelease", "--all")
    assert said.out.count("---\n") == 2
    printed = cli.control_plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-", stdin=said.out
    )
    assert printed.count("serverside-applied (server dry run)") == 2


def test_credentials_follow_the_source_that_names_them(cli):
    """spec/cli.md 14.1, --with-credentials; all of them, where flux stops after the first."""
    for name in ("a", "b"):
        cli.create(SOURCE, "GitRepository", name, secretRef={"name": "token"})
    data = {"password": base64.b64encode(b"s3cret").decode()}
    cli.api.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": cli.namespace}, "data": data}
    )
    said = cli("export", "source", "git", "--all", "--with-credentials")
    assert said.out.count("kind: Secret\n") == 2
    assert said.out.count(f"  password: {data['password']}\n") == 2
    assert "Secret" not in cli("export", "source", "git", "a").out


def test_what_is_not_there_cannot_be_exported(cli):
    """spec/cli.md 2.7 and 14.1."""
    said = cli("export", "source", "oci", "nope")
    assert (said.status, said.err) == (1, '✗ ocirepositories.source.toolkit.fluxcd.io "nope" not found\n')
    said = cli("export", "source", "oci", "--all")
    assert (said.status, said.err) == (1, f"✗ no objects found in {cli.namespace} namespace\n")
    said = cli("export", "ks")
    assert (said.status, said.err) == (1, "✗ name is required\n")


def test_debug_prints_the_status(cli):
    """spec/cli.md 12."""
    cli.create(KUSTOMIZE, "Kustomization", "app", ready())
    said = cli("debug", "ks", "app", "--show-status")
    assert said.status == 0
    assert said.out.startswith("# Status documentation: https://")
    assert "\nconditions:\n- lastTransitionTime: " in said.out
    assert said.out.endswith("observedGeneration: 1\n")


def test_debug_prints_the_history(cli):
    """spec/cli.md 12."""
    cli.create(HELM, "HelmRelease", "app", ready())
    assert cli("debug", "hr", "app", "--show-history").out.endswith("\n[]\n")


def test_debug_prints_the_variables_in_the_order_that_wins(cli):
    """spec/cli.md 12: substituteFrom then substitute, sorted, newlines removed."""
    cli.api.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "vars", "namespace": cli.namespace},
            "data": {"b": "from map", "c": "two\nlines"},
        }
    )
    cli.api.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "vars", "namespace": cli.namespace},
            "stringData": {"c": "secret", "d": "hidden"},
        }
    )
    sources = [
        {"kind": "ConfigMap", "name": "vars"},
        {"kind": "Secret", "name": "vars"},
        {"kind": "Secret", "name": "nope", "optional": True},
    ]
    cli.create(
        KUSTOMIZE,
        "Kustomization",
        "app",
        postBuild={"substitute": {"a": "1\n2", "d": "own"}, "substituteFrom": sources},
    )
    said = cli("debug", "ks", "app", "--show-vars")
    assert (said.status, said.out) == (0, "a=12\nb=from map\nc=secret\nd=own\n")


def test_debug_needs_exactly_one_question(cli):
    """spec/cli.md 12."""
    said = cli("debug", "ks", "app")
    assert (said.status, said.err) == (
        1,
        "✗ exactly one of --show-status, --show-vars, or --show-history must be set\n",
    )
    said = cli("debug", "hr", "app", "--show-status", "--show-history")
    assert (said.status, said.err) == (
        1,
        "✗ exactly one of --show-status, --show-values, or --show-history must be set\n",
    )


def test_without_substitutions_there_are_no_variables(cli):
    """spec/cli.md 12."""
    cli.create(KUSTOMIZE, "Kustomization", "app")
    said = cli("debug", "ks", "app", "--show-vars")
    assert (said.status, said.err) == (1, "✗ no post build substitutions found\n")
