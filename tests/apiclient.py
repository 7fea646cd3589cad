"""A small synchronous client for the API server, for arranging tests and looking at results.

Independent of `gitopsd.kube` on purpose: what is tested must not be what looks.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

Obj = dict[str, Any]


class ApiStatusError(Exception):
    """The server refused; `body` is its Status object, or its text."""

    def __init__(self, status: int, body: Any) -> None:
        message = body.get("message", "") if isinstance(body, dict) else str(body)
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message
        self.body = body


class NotYetError(AssertionError):
    """A condition that a test waited for did not come true in time."""


class ApiClient:
    """One user of the API server. Threads have connections of their own."""

    def __init__(self, server: str, context: ssl.SSLContext, token: str = "") -> None:
        self.server = server
        self._context = context
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._local = threading.local()
        self._connections: set[http.client.HTTPSConnection] = set()  # of every thread
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask the server; returns decoded JSON, or text. Raises `ApiStatusError`, or `OSError` if it is away."""
        if params:
            path = f"{path}?{urlencode(params)}"
        sent = {**self._headers, "Accept": "application/json", **(headers or {})}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = content_type
        status, kind, answer = self._exchange(method, path, data, sent)
        decoded = json.loads(answer) if kind.startswith("application/json") else answer.decode()
        if status >= 400:
            raise ApiStatusError(status, decoded)
        return decoded

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, str, bytes]:
        fresh = getattr(self._local, "connection", None) is None
        connection = self._connection()
        try:
            connection.request(method, path, data, dict(headers))
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type") or "", response.read()
        except (OSError, http.client.HTTPException) as error:
            self._drop(connection)
            if not fresh:  # a kept connection may have died with an earlier server
                return self._exchange(method, path, data, headers)
            if isinstance(error, OSError):
                raise
            raise ConnectionError(str(error)) from error

    def _connection(self) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            address = urlsplit(self.server)
            connection = http.client.HTTPSConnection(
                address.hostname or "", address.port, timeout=60, context=self._context
            )
            self._local.connection = connection
        self._connections.add(connection)
        return connection

    def _drop(self, connection: http.client.HTTPSConnection) -> None:
        connection.close()
        self._connections.discard(connection)
        self._local.connection = None

    def close(self) -> None:
        """Close the connections; another request opens new ones."""
        for connection in list(self._connections):
            self._drop(connection)

    def path(self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
        """The URL path of a kind (asked from the server once), or of one object of it."""
        plural, namespaced = self._resource(api_version, kind)
        base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        within = f"/namespaces/{quote(namespace)}" if namespaced and namespace else ""
        return f"{base}{within}/{plural}" + (f"/{quote(name)}" if name else "")

    def is_namespaced(self, api_version: str, kind: str) -> bool:
        """Whether objects of the kind live in a namespace."""
        return self._resource(api_version, kind)[1]

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        if (api_version, kind) not in self._resources:
            base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
            for row in self.request("GET", base)["resources"]:
                if "/" not in row["name"]:
                    self._resources[api_version, row["kind"]] = row["name"], row["namespaced"]
        try:
            return self._resources[api_version, kind]
        except KeyError:
            raise ApiStatusError(404, f"the server has no {kind} in {api_version}") from None

    def object_path(self, obj: Obj, namespace: str | None = None) -> str:
        """The URL path of `obj`, which lives in `namespace` if it does not say."""
        metadata = obj["metadata"]
        within = metadata.get("namespace", namespace)
        return self.path(obj["apiVersion"], obj["kind"], within, metadata["name"])

    def apply(self, obj: Obj, namespace: str | None = None, *, manager: str = "tests", force: bool = True) -> Obj:
        """Server-side apply."""
        params = {"fieldManager": manager} | ({"force": "true"} if force else {})
        kind = "application/apply-patch+yaml"
        result: Obj = self.request("PATCH", self.object_path(obj, namespace), obj, content_type=kind, params=params)
        return result

    def create(self, obj: Obj, namespace: str | None = None, *, manager: str = "tests") -> Obj:
        """Create the object."""
        within = obj["metadata"].get("namespace", namespace)
        path = self.path(obj["apiVersion"], obj["kind"], within)
        result: Obj = self.request("POST", path, obj, params={"fieldManager": manager})
        return result

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Obj | None:
        """The object, or None."""
        try:
            result: Obj = self.request("GET", self.path(api_version, kind, namespace, name))
        except ApiStatusError as error:
            if error.status == 404:
                return None
            raise
        return result

    def list(self, api_version: str, kind: str, namespace: str | None = None, **params: str) -> list[Obj]:
        """Every object of a kind, in one namespace or in all, each with its apiVersion and kind."""
        answer = self.request("GET", self.path(api_version, kind, namespace), params=params)
        return [{"apiVersion": api_version, "kind": kind, **item} for item in answer["items"]]

    def merge(
        self, api_version: str, kind: str, name: str, patch: Any, namespace: str | None = None, *,
        manager: str = "tests", subresource: str = "",
    ) -> Obj:  # fmt: skip
        """JSON merge patch."""
        path = self.path(api_version, kind, namespace, name) + (f"/{subresource}" if subresource else "")
        result: Obj = self.request(
            "PATCH", path, patch, content_type="application/merge-patch+json", params={"fieldManager": manager}
        )
        return result

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> None:
        """Delete the object in the background; one that is not there is fine."""
        try:
            path = self.path(api_version, kind, namespace, name)
            self.request("DELETE", path, {"propagationPolicy": "Background"})
        except ApiStatusError as error:
            if error.status != 404:
                raise

    def until(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str | None,
        accept: Callable[[Obj | None], bool],
        *,
        timeout: float = 25.0,
    ) -> Obj | None:
        """Look until `accept` is true of the object (None: gone). Raises `NotYetError` with what was seen last."""
        deadline = time.monotonic() + timeout
        while True:
            obj = self.get(api_version, kind, name, namespace)
            if accept(obj):
                return obj
            if time.monotonic() > deadline:
                status = (obj or {}).get("status")
                raise NotYetError(f"{kind}/{name} within {timeout:g}s; last seen: {json.dumps(status, indent=1)}")
            time.sleep(0.05)
