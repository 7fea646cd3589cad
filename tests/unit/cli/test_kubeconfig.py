"""Kubeconfig files merged and overridden as `kubectl` does it (`spec/cli.md` 2.3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gitopsd.cli import kubeconfig
from gitopsd.cli.flags import CommandError, GlobalFlags

FLAGS = GlobalFlags(
    namespace=None,
    ns_follows_kube_context=False,
    timeout=300.0,
    verbose=False,
    kubeconfig="",
    context="",
    cluster="",
    user="",
    token="",
    server="",
    tls_server_name="",
    insecure_skip_tls_verify=False,
    certificate_authority="",
    client_certificate="",
    client_key="",
    as_user="",
    as_groups=(),
    as_uid="",
    as_user_extra=(),
    cache_dir="",
    disable_compression=False,
    kube_api_qps=50.0,
    kube_api_burst=300,
)


def config(name="one", *, current=True, **fields):
    return {
        "current-context": name if current else "",
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"{name}-ns"}}],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}", "certificate-authority": "ca.crt"}}],
        "users": [{"name": name, "user": {"token": "hidden", **fields}}],
    }


def test_earlier_files_win_entry_by_entry():
    """As kubectl reads a list of files."""
    second = config("one")
    second["clusters"][0]["cluster"]["server"] = "https://late"
    merged = kubeconfig.merged([(Path("/a/x"), config("one")), (Path("/b/y"), second), (Path("/b/z"), config("two"))])
    assert merged["current-context"] == "one"
    assert [entry["name"] for entry in merged["clusters"]] == ["one", "two"]
    assert merged["clusters"][0]["cluster"]["server"] == "https://one"


def test_relative_file_names_start_from_their_own_file():
    """Each file's paths belong to its folder."""
    files = [(Path("/a/x"), config("one")), (Path("/b/y"), config("two", **{"client-key": "/abs/key"}))]
    merged = kubeconfig.merged(files)
    assert [entry["cluster"]["certificate-authority"] for entry in merged["clusters"]] == ["/a/ca.crt", "/b/ca.crt"]
    assert merged["users"][1]["user"]["client-key"] == "/abs/key"


@pytest.mark.parametrize("document", [[], "text", None, 5])
def test_a_file_that_is_no_kubeconfig_is_refused(document):
    """The file is named, its content is not."""
    with pytest.raises(CommandError, match=r"^the kubeconfig x is not a mapping$"):
        kubeconfig.merged([(Path("/a/x"), document)])


@pytest.mark.parametrize("section", [None, "text", [None], [{"cluster": {}}], [[]]])
def test_broken_entries_are_passed_over(section):
    """What cannot be named cannot be meant."""
    merged = kubeconfig.merged([(Path("/a/x"), {"clusters": section})])
    assert merged["clusters"] == []


def apply(document=None, **flags):
    merged = kubeconfig.merged([(Path("/a/x"), document if document is not None else config())])
    made = kubeconfig.overridden(merged, replace(FLAGS, **flags), Path("/work"))
    assert made["current-context"] == made["contexts"][0]["name"]
    return made["clusters"][0]["cluster"], made["users"][0]["user"], made["contexts"][0]["context"]


def test_a_server_replaces_the_contexts_and_keeps_its_trust():
    """--server."""
    cluster, user, context = apply(server="https://other")
    assert cluster == {"server": "https://other", "certificate-authority": "/a/ca.crt"}
    assert user == {"token": "hidden"}
    assert context["namespace"] == "one-ns"


def test_a_token_replaces_every_other_proof_but_certificates():
    """--token."""
    document = config(exec={"command": "x"}, tokenFile="t", password="p", **{"client-key-data": "k"})
    _, user, _ = apply(document, token="mine")
    assert user == {"token": "mine", "client-key-data": "k"}


def test_files_on_the_command_line_start_from_the_working_folder():
    """--certificate-authority, --client-certificate, --client-key."""
    document = config(**{"client-certificate-data": "old"})
    cluster, user, _ = apply(
        document, certificate_authority="my.ca", client_certificate="my.crt", client_key="/abs/my.key"
    )
    assert cluster["certificate-authority"] == "/work/my.ca"
    assert user == {"token": "hidden", "client-certificate": "/work/my.crt", "client-key": "/abs/my.key"}


def test_an_unverified_server_has_no_authority():
    """--insecure-skip-tls-verify would be refused beside a CA."""
    cluster, _, _ = apply(insecure_skip_tls_verify=True)
    assert cluster == {"server": "https://one", "insecure-skip-tls-verify": True}


def test_a_server_alone_is_enough():
    """Without any kubeconfig."""
    cluster, user, _ = apply({}, server="https://lonely", token="t", tls_server_name="name")
    assert cluster == {"server": "https://lonely", "tls-server-name": "name"}
    assert user == {"token": "t"}


def test_cluster_and_user_may_be_chosen_apart():
    """--cluster and --user."""
    document = config("one")
    document["clusters"].append({"name": "c", "cluster": {"server": "https://c"}})
    document["users"].append({"name": "u", "user": {"token": "of-u"}})
    cluster, user, _ = apply(document, cluster="c", user="u")
    assert (cluster, user) == ({"server": "https://c"}, {"token": "of-u"})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"context": "nope"}, 'context "nope" does not exist'),
        ({"cluster": "nope"}, 'cluster "nope" does not exist'),
        ({"user": "nope"}, 'user "nope" does not exist'),
        ({"as_groups": ("g",)}, "requesting uid, groups or user-extra for --as without impersonating a user"),
        (
            {"as_user": "u", "as_user_extra": ("nope",)},
            '--as-user-extra must be of the form key=value, but found: "nope"',
        ),
    ],
)
def test_what_does_not_exist_is_named(flags, message):
    """One line that says what is wrong."""
    with pytest.raises(CommandError) as raised:
        apply(**flags)
    assert message == str(raised.value)


def test_without_any_server_the_error_says_how_to_name_one():
    """No cluster is guessed."""
    with pytest.raises(CommandError, match="no cluster is configured"):
        apply({}, token="t")


def test_impersonation_is_written_as_kubectl_writes_it():
    """--as, --as-group, --as-uid, --as-user-extra."""
    _, user, _ = apply(as_user="me", as_groups=("a", "b"), as_uid="7", as_user_extra=("k=v", "k=w"))
    assert user == {
        "token": "hidden",
        "as": "me",
        "as-groups": ["a", "b"],
        "as-uid": "7",
        "as-user-extra": {"k": ["v", "w"]},
    }


def test_flags_that_change_nothing_need_no_document():
    """The files themselves are used then, with everything they may hold."""
    assert not kubeconfig.needs_override(replace(FLAGS, context="x", kubeconfig="y", namespace="z"))
    assert kubeconfig.needs_override(replace(FLAGS, as_user="me"))
