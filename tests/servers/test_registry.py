"""The registry takes what is pushed and gives it back, to those who may."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import urllib.error
import urllib.request

import pytest

from tests.servers.registry import FLUX_CONTENT, Blob, Registry

pytestmark = pytest.mark.control_plane  # it is built with the control plane


def test_an_artifact_is_pushed_and_found_again() -> None:
    with Registry() as registry:
        first = registry.push("team/app", "latest", {"a.yaml": "a: 1\n"}, annotations={"k": "v"})
        again = registry.push("team/app", "v2", {"a.yaml": "a: 1\n"}, annotations={"k": "v"})
        assert first == again
        status, body = registry.get("team/app/manifests/latest")
        assert status == 200
        manifest = json.loads(body)
        assert manifest["annotations"] == {"k": "v"}
        layer = manifest["layers"][0]
        assert layer["mediaType"] == FLUX_CONTENT
        _, data = registry.get(f"team/app/blobs/{layer['digest']}")
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
            assert archive.getnames() == ["a.yaml"]
        tags = json.loads(registry.get("team/app/tags/list")[1])["tags"]
        assert sorted(tags) == ["latest", "v2"]
        other = registry.push("team/app", "latest", layers=[Blob("text/plain", b"x")])
        assert other != first


def test_accounts_are_asked_for_and_tls_is_ours() -> None:
    with Registry(accounts={"user": "pass"}, tls=True) as registry:
        registry.push("app", "v1", {"a": "b"})
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            urllib.request.urlopen(f"{registry.url}/v2/app/tags/list", context=registry.authority.client_context())
        caught.value.close()
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(f"{registry.url}/v2/")
