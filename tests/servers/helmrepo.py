"""A Helm repository: charts are packaged as they are added, and the index is that of Helm's own client."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tests.certificates import Authority
from tests.servers.charts import chart_archive, chart_metadata
from tests.servers.http import HttpServer

CREATED = "2024-01-02T03:04:05.678901234Z"


def index_entry(
    archive: bytes, urls: Sequence[str], name: str, version: str, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """What an index says about a packaged chart."""
    digest = hashlib.sha256(archive).hexdigest()
    return {**chart_metadata(name, version, meta), "created": CREATED, "digest": digest, "urls": list(urls)}


def index_text(entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The index as a file: block style, sorted keys, versions in the order given."""
    index = {"apiVersion": "v1", "entries": {name: list(own) for name, own in entries.items()}, "generated": CREATED}
    return yaml.safe_dump(index, sort_keys=True, width=1000)


def serve_charts(server: HttpServer, path: str, charts: Sequence[Mapping[str, Any]]) -> str:
    """Serve charts (`{name, version, files, meta}`) next to the root, and their index at `path`; returns its text."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for chart in charts:
        name, version = chart["name"], str(chart["version"])
        meta = chart.get("meta") or {}
        archive = chart_archive(name, version, chart.get("files"), meta)
        file = f"{name}-{version}.tgz"
        server.serve({file: archive})
        entries.setdefault(name, []).append(index_entry(archive, [f"{server.url}/{file}"], name, version, meta))
    text = index_text(entries)
    server.serve({path: text})
    return text


class HelmRepo(HttpServer):
    """A repository below `/charts`. What `private` is true of wants user `user` and password `pass`."""

    def __init__(self, *, private: bool = False, authority: Authority | None = None) -> None:
        super().__init__(authority=authority)
        self.entries: dict[str, list[dict[str, Any]]] = {}
        if private:
            self.protect("/charts/", basic=("user", "pass"))
        self.publish()

    @property
    def repository(self) -> str:
        """The repository's address over HTTP."""
        return f"{self.url}/charts"

    @property
    def index(self) -> bytes:
        """The index as it is served."""
        return self.files["charts/index.yaml"]

    def package(
        self,
        name: str = "demo",
        version: str = "1.0.0",
        *,
        files: Mapping[str, str | bytes] | None = None,
        urls: Sequence[str] | None = None,
        **meta: Any,
    ) -> bytes:
        """Add a chart and publish the index; `urls` replaces the address beside the index. Returns the archive."""
        archive = chart_archive(name, version, files, meta)
        file = f"{name}-{version}.tgz"
        self.serve({f"charts/{file}": archive})
        entry = index_entry(archive, [file] if urls is None else urls, name, version, meta)
        self.entries.setdefault(name, []).insert(0, entry)
        self.publish()
        return archive

    def publish(self, text: str | None = None) -> None:
        """Serve the index of what was packaged, or any other text instead."""
        self.serve({"charts/index.yaml": index_text(self.entries) if text is None else text})

    def asked_for_index(self) -> int:
        """How often."""
        return sum(1 for seen in self.requests if seen.path == "/charts/index.yaml")
