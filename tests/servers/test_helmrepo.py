"""The Helm repository for tests."""

from __future__ import annotations

import gzip
import hashlib
import urllib.error
import urllib.request

import pytest
import yaml

from tests.servers.helmrepo import HelmRepo, serve_charts
from tests.servers.http import HttpServer


def test_packaged_charts_are_in_the_index_and_can_be_fetched() -> None:
    with HelmRepo() as server:
        archive = server.package("demo", "1.0.0", description="A demo")
        server.package("demo", "1.1.0", urls=["https://elsewhere/demo.tgz"])
        index = yaml.safe_load(server.index)
        newest, oldest = index["entries"]["demo"]
        assert (newest["version"], newest["urls"]) == ("1.1.0", ["https://elsewhere/demo.tgz"])
        assert oldest["description"] == "A demo"
        with urllib.request.urlopen(f"{server.repository}/{oldest['urls'][0]}", timeout=5) as answer:
            assert answer.read() == archive
        assert oldest["digest"] == hashlib.sha256(archive).hexdigest()
        assert gzip.decompress(archive)
        assert server.asked_for_index() == 0


def test_a_private_repository_wants_credentials() -> None:
    with HelmRepo(private=True) as server, pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.repository}/index.yaml", timeout=5)
    with caught.value as error:
        assert error.code == 401


def test_an_index_of_a_scenario_names_its_charts_next_to_the_root() -> None:
    with HttpServer() as server:
        text = serve_charts(server, "charts/index.yaml", [{"name": "a", "version": "1.0.0"}])
        assert server.files["charts/index.yaml"] == text.encode()
        assert yaml.safe_load(text)["entries"]["a"][0]["urls"] == [f"{server.url}/a-1.0.0.tgz"]
        assert "a-1.0.0.tgz" in server.files
