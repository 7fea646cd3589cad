"""Helm charts as the client packages them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from typing import Any

import yaml


def chart_metadata(name: str, version: str, meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What stands in Chart.yaml."""
    return {"apiVersion": "v2", "name": name, "version": version, **(meta or {})}


def chart_archive(
    name: str,
    version: str = "1.0.0",
    files: Mapping[str, str | bytes] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> bytes:
    """A packaged chart that depends on nothing but its content: Chart.yaml, `replicas: 1` as values, and `files`."""
    contents: dict[str, str | bytes] = {
        "Chart.yaml": yaml.safe_dump(chart_metadata(name, version, meta), sort_keys=False),
        "values.yaml": "replicas: 1\n",
        **(files or {}),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in contents.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)
