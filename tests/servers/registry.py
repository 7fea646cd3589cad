"""A real OCI registry on loopback (distribution, built with the control plane), and pushing to it.

Without accounts it takes everybody; with `accounts` it asks for basic authentication, with `tokens` for the tokens of
that server. What is pushed has the form that `flux push artifact` and `helm push` give it. Content lives in memory and
ends with the process.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import secrets
import ssl
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import bcrypt
import yaml

from tests.certificates import Authority
from tests.processes import Processes, free_port, quiet_environment
from tests.servers.charts import chart_archive, chart_metadata
from tests.servers.tokens import TokenServer
from tools.controlplane import build

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FLUX_CONFIG = "application/vnd.cncf.flux.config.v1+json"
FLUX_CONTENT = "application/vnd.cncf.flux.content.v1.tar+gzip"
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Blob:
    """Content with its media type."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


def tar_gz(files: Mapping[str, str | bytes]) -> bytes:
    """A tar.gz of `files` that depends on nothing but them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in sorted(files.items()):
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


class Registry:
    """One registry process. `start` returns when it answers."""

    def __init__(
        self,
        *,
        accounts: Mapping[str, str] | None = None,
        tls: bool = False,
        authority: Authority | None = None,
        tokens: TokenServer | None = None,
    ) -> None:
        self._program = build.binaries(frozenset({"registry"}))["registry"]
        self._processes = Processes("gitopsd-registry")
        self.authority = authority or Authority(self._processes.folder / "certificates")
        self._accounts = dict(accounts or {})
        self._tls = tls
        self._tokens = tokens
        self._port = free_port()
        self.host = f"127.0.0.1:{self._port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    def start(self, *, timeout: float = 15.0) -> Self:
        """Start the registry and wait until it answers."""
        configuration = self._processes.folder / "registry.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration()))
        environment = quiet_environment(OTEL_TRACES_EXPORTER="none")
        process = self._processes.start("registry", [self._program, "serve", configuration], env=environment)
        deadline = time.monotonic() + timeout
        while True:
            try:
                if self._request("GET", "/v2/")[0] in {200, 401}:
                    return self
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                log = self._processes.tail("registry")
                self.close()
                raise AssertionError(f"the registry does not answer:\n{log}")
            time.sleep(0.02)

    def close(self) -> None:
        """Stop and remove every trace; doing it twice is harmless."""
        self._processes.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def push(
        self,
        repository: str,
        tag: str,
        files: Mapping[str, str | bytes] | None = None,
        *,
        layers: Sequence[Blob] = (),
        config: Blob | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        """Push `files` as one Flux layer, or `layers`, under a tag; returns the digest of the manifest."""
        pushed = list(layers) or [Blob(FLUX_CONTENT, tar_gz(files or {}))]
        config = config or Blob(FLUX_CONFIG, b"{}")
        for blob in (config, *pushed):
            self.put_blob(repository, blob)
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config.descriptor,
            "layers": [blob.descriptor for blob in pushed],
        }
        if annotations:
            manifest["annotations"] = dict(annotations)
        return self.put_manifest(repository, tag, Blob(_MANIFEST, json.dumps(manifest).encode()))

    def push_chart(
        self,
        repository: str,
        name: str,
        version: str = "1.0.0",
        files: Mapping[str, str | bytes] | None = None,
        meta: Mapping[str, Any] | None = None,
        *,
        tag: str = "",
    ) -> str:
        """Push a chart under its version, in which a `+` becomes `_`; returns the digest of the manifest."""
        config = Blob(HELM_CONFIG, json.dumps(chart_metadata(name, version, meta)).encode())
        layer = Blob(HELM_CONTENT, chart_archive(name, version, files, meta))
        annotations = {"org.opencontainers.image.title": name, "org.opencontainers.image.version": version}
        tag = tag or version.replace("+", "_")
        return self.push(repository, tag, layers=[layer], config=config, annotations=annotations)

    def push_index(self, repository: str, tag: str, entries: Sequence[Mapping[str, Any]]) -> str:
        """Push an index of manifests that are there already; returns its digest."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [dict(entry) for entry in entries]}
        return self.put_manifest(repository, tag, Blob(INDEX, json.dumps(index).encode()))

    def put_blob(self, repository: str, blob: Blob) -> None:
        """Upload a blob in one go."""
        status, headers, _ = self._request("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202, status
        location = urlsplit(headers["Location"])
        path = f"{location.path}?{location.query}&digest={blob.digest}"
        status, _, body = self._request("PUT", path, blob.data, {"Content-Type": "application/octet-stream"})
        assert status == 201, body

    def put_manifest(self, repository: str, reference: str, manifest: Blob) -> str:
        """Upload a manifest (or an index) under a tag or digest; returns its digest."""
        headers = {"Content-Type": manifest.media_type}
        status, _, body = self._request("PUT", f"/v2/{repository}/manifests/{reference}", manifest.data, headers)
        assert status == 201, body
        return manifest.digest

    def get(self, path: str, accept: str = _MANIFEST) -> tuple[int, bytes]:
        """Status and body of a GET below `/v2/`."""
        status, _, body = self._request("GET", f"/v2/{path}", headers={"Accept": accept})
        return status, body

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        sent = dict(headers or {})
        for user, password in list(self._accounts.items())[:1]:
            sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if self._tokens is not None:
            repository = "/".join(path.split("/")[2:]).partition("/blobs/")[0].partition("/manifests/")[0]
            sent["Authorization"] = f"Bearer {self._tokens.issue('pusher', f'repository:{repository}:pull,push')}"
        connection = self._connection()
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        context: ssl.SSLContext = self.authority.client_context()
        return http.client.HTTPSConnection("127.0.0.1", self._port, timeout=10, context=context)

    def _configuration(self) -> dict[str, Any]:
        listen: dict[str, Any] = {"addr": self.host, "secret": secrets.token_hex(16)}
        if self._tls:
            certificate, key = self.authority.server("registry")
            listen["tls"] = {"certificate": str(certificate), "key": str(key)}
        configuration: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"inmemory": {}, "delete": {"enabled": True}},
            "http": listen,
        }
        if self._accounts:
            lines = [
                f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}"
                for user, password in self._accounts.items()
            ]
            passwords = self._processes.folder / "htpasswd"
            passwords.write_text("\n".join(lines) + "\n")
            configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
        if self._tokens is not None:
            configuration["auth"] = {
                "token": {
                    "realm": f"{self._tokens.https_url if self._tls else self._tokens.url}/token",
                    "service": self._tokens.service,
                    "issuer": self._tokens.issuer,
                    "rootcertbundle": str(self._tokens.authority.file),
                }
            }
        return configuration
