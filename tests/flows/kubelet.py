"""A kubelet that only has logs: the API server asks it as it asks any other.

It listens on loopback with TLS; a Node in the API server says where. Lines can be added while somebody follows.
"""

from __future__ import annotations

import ssl
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.controlplane import ControlPlane


class Kubelet:
    """Serves the logs of the pods of one Node, keyed by pod name."""

    def __init__(self, control_plane: ControlPlane, name: str) -> None:
        self.name = name
        self.queries: list[dict[str, str]] = []
        self._control_plane = control_plane
        self._logs: dict[str, bytes] = defaultdict(bytes)
        self._changed = threading.Condition()
        self._is_open = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*control_plane.authority.server(name, ("127.0.0.1",)))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}}
        self._control_plane.api.create(node)
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
        }
        self._control_plane.api.merge("v1", "Node", self.name, {"status": status}, subresource="status")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._control_plane.api.delete("v1", "Node", self.name)

    def write(self, pod: str, text: str | bytes) -> None:
        """Let a pod's only container log something."""
        with self._changed:
            self._logs[pod] += text.encode() if isinstance(text, str) else text
            self._changed.notify_all()

    def close_logs(self) -> None:
        """End what is followed, as when containers end."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                _, _, _, pod, container = url.path.split("/")
                kubelet.queries.append({**query, "pod": pod, "container": container})
                self.send_response(200)
                self.end_headers()
                sent = 0
                while True:
                    with kubelet._changed:
                        if query.get("follow") and len(kubelet._logs[pod]) == sent and kubelet._is_open:
                            kubelet._changed.wait(timeout=20)
                        data = kubelet._logs[pod][sent:]
                    try:
                        self.wfile.write(data)
                    except OSError:
                        return  # whoever read has gone
                    sent += len(data)
                    if not data and (not query.get("follow") or not kubelet._is_open):
                        return

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
