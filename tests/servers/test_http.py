"""The file server and the webhook."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from tests.servers.conftest import Git
from tests.servers.git import GitServer
from tests.servers.http import HttpServer
from tests.servers.webhook import WebhookServer


def _status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_files_are_served_changed_and_logged() -> None:
    with HttpServer() as server:
        server.serve({"charts/index.yaml": "a: 1\n"})
        with urllib.request.urlopen(f"{server.url}/charts/index.yaml") as response:
            assert response.read() == b"a: 1\n"
            etag = response.headers["ETag"]
        assert _status(f"{server.url}/charts/index.yaml", **{"If-None-Match": etag}) == 304
        server.serve({"charts/index.yaml": b"a: 2\n"})
        assert _status(f"{server.url}/charts/index.yaml", **{"If-None-Match": etag}) == 200
        assert _status(f"{server.url}/none") == 404
        assert [seen.path for seen in server.requests] == ["/charts/index.yaml"] * 3 + ["/none"]


def test_private_paths_want_credentials_and_pass_on_to_git(git_server: GitServer, git: Git) -> None:
    git_server.repository("app").commit({"a": "1"})
    with HttpServer(git=git_server) as server:
        server.serve({"index.yaml": "x"})
        base = server.url.removeprefix("http://")
        assert _status(f"{server.url}/private/index.yaml") == 401
        assert _status(f"{server.url}/private/index.yaml", Authorization="Basic dXNlcjpwYXNz") == 200
        assert _status(f"{server.url}/denied/index.yaml", Authorization="Basic dXNlcjpwYXNz") == 401
        assert git("ls-remote", f"http://user:pass@{base}/private/app.git").returncode == 0
        assert git("ls-remote", f"http://user:nope@{base}/private/app.git").returncode != 0


def test_posts_are_kept_and_waited_for() -> None:
    with WebhookServer() as server:
        for number in range(3):
            body = json.dumps({"message": f"number {number}"}).encode()
            urllib.request.urlopen(urllib.request.Request(server.url, data=body)).close()
        assert server.wait_for_post(lambda post: post["message"].endswith("2"))["message"] == "number 2"
        assert len(server.posts) == 3
        with pytest.raises(AssertionError, match="not seen within"):
            server.wait_for_post(lambda post: False, timeout=0.05)
