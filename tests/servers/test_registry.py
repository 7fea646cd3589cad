"""The registry takes what is pushed and gives it back, to those who may."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.servers.charts import chart_archive
from tests.servers.registry import FLUX_CONTENT, HELM_CONTENT, Blob, Registry
from tests.servers.registryfront import RegistryFront
from tests.servers.tokens import TokenServer

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


def test_a_chart_is_pushed_as_the_client_of_helm_does() -> None:
    with Registry() as registry:
        registry.push_chart("charts/demo", "demo", "1.0.0+b1", {"templates/x.yaml": "a: 1\n"})
        manifest = json.loads(registry.get("charts/demo/manifests/1.0.0_b1")[1])
        assert [layer["mediaType"] for layer in manifest["layers"]] == [HELM_CONTENT]
        layer = manifest["layers"][0]["digest"]
        assert registry.get(f"charts/demo/blobs/{layer}")[1] == chart_archive(
            "demo", "1.0.0+b1", {"templates/x.yaml": "a: 1\n"}
        )


def test_tokens_of_its_token_server_let_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with TokenServer({"user": "pass"}) as tokens, Registry(tokens=tokens) as registry:
        registry.push("team/app", "v1", {"a": "b"})
        registry.push("public/app", "v1", {"a": "b"})

        def ask(path: str, token: str) -> int:
            request = urllib.request.Request(f"{registry.url}/v2/{path}", headers={"Authorization": f"Bearer {token}"})
            try:
                with urllib.request.urlopen(request) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        assert ask("team/app/tags/list", tokens.issue("user", "repository:team/app:pull")) == 200
        assert ask("team/app/tags/list", tokens.issue("user", "repository:public/app:pull")) == 401
        assert ask("team/app/tags/list", tokens.issue("", "repository:team/app:pull")) == 401
        assert ask("public/app/tags/list", tokens.issue("", "repository:public/app:pull")) == 200
        with TokenServer(authority=authority) as other:
            assert ask("public/app/tags/list", other.issue("", "repository:public/app:pull")) == 401


def test_a_front_passes_on_and_remembers() -> None:
    with Registry() as registry, RegistryFront(registry) as front:
        digest = registry.push("team/app", "v1", {"a": "b"})
        url = f"{front.url}/v2/team/app/manifests/{digest}"
        asked = urllib.request.Request(url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
        with urllib.request.urlopen(asked) as answer:
            assert answer.headers["Docker-Content-Digest"] == digest
        assert [seen.path for seen in front.requests] == [f"/v2/team/app/manifests/{digest}"]
