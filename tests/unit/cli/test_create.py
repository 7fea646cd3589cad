"""What of an object is exported (`spec/cli.md` 14.1)."""

from __future__ import annotations

from gitopsd.cli.create import exported, exported_secret


def test_what_only_a_cluster_gives_is_left_out():
    """spec/cli.md 14.1: name, namespace, labels, annotations and spec."""
    obj = {
        "metadata": {
            "name": "x",
            "namespace": "ns",
            "uid": "u",
            "generation": 3,
            "creationTimestamp": "t",
            "managedFields": [],
            "labels": {"a": "b"},
            "annotations": {},
            "finalizers": ["f"],
        },
        "spec": {"suspend": True},
        "status": {"conditions": []},
    }
    assert exported(obj, "g/v1", "K") == {
        "apiVersion": "g/v1",
        "kind": "K",
        "metadata": {"name": "x", "namespace": "ns", "labels": {"a": "b"}},
        "spec": {"suspend": True},
    }


def test_a_secret_keeps_its_data_and_type():
    """spec/cli.md 14.1, --with-credentials."""
    secret = {"metadata": {"name": "x", "uid": "u"}, "data": {"k": "djE="}, "type": "kubernetes.io/tls"}
    assert exported_secret(secret) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "x"},
        "data": {"k": "djE="},
        "type": "kubernetes.io/tls",
    }
