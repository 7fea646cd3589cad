"""Who we are to an API server, and why we trust it: kubeconfig files, in-cluster accounts, credential plugins.

Knows files and formats; never sends a request to the API server. `Credentials.access` may be asked again at any time
and reads everything anew, so rotated tokens, certificates and CAs are picked up; the same TLS material keeps its
`SSLContext`, so that connections stay usable.

What a kubeconfig may do depends on whose it is (`Trust`): one that came with the daemon may name files and programs,
one that a tenant wrote may not, or it could have our own token file sent to a server of its choice.

kubernetes_asyncio runs credential plugins (`exec`, `auth-provider`) and nothing else: importing any part of it costs
38 MiB and a quarter of a second, which static credentials and in-cluster accounts need not pay.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib
import ipaddress
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

from gitopsd.errors import GitopsdError
from gitopsd.krm import documents
from gitopsd.krm.objects import Obj
from gitopsd.tasks import offload

# A token file is read again this often (seconds); kubelet replaces it long before the token expires.
_TOKEN_FILE_AGE = 60.0
# How long before its end (seconds) a plugin's credential is no longer used.
_EXPIRY_MARGIN = 30.0
_PLUGIN_TIMEOUT = 60.0
_PLUGIN_KEYS = ("exec", "auth-provider")
_FILE_BOUND = 1 << 20


class CredentialsError(GitopsdError):
    """A kubeconfig, an account or a plugin that cannot be used. Names the field, never its content."""


@dataclass(frozen=True)
class Trust:
    """What a kubeconfig may make us do."""

    files: bool = True
    plugins: bool = True
    insecure_tls: bool = True


OPERATOR = Trust()
TENANT = Trust(files=False, plugins=False, insecure_tls=False)


@dataclass(frozen=True)
class Access:
    """All that a connection to one API server needs."""

    server: str  # scheme://host[:port][/prefix], without a slash at the end
    tls: ssl.SSLContext | None = None
    tls_server_name: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    proxy: str | None = field(default=None, repr=False)
    namespace: str = ""
    stale_at: float | None = None  # monotonic: ask again from here on

    @property
    def host(self) -> str:
        """`host:port`, for messages and metrics."""
        return urlsplit(self.server).netloc


class Credentials(Protocol):
    """Where an `Access` comes from."""

    async def access(self) -> Access:
        """Read everything anew. Raises CredentialsError."""


class _Tls(NamedTuple):
    """The TLS material of one access, in PEM."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    insecure: bool = False


class _Contexts:
    """Keeps the SSLContext as long as its material stays the same."""

    def __init__(self) -> None:
        self._tls: _Tls | None = None
        self._context: ssl.SSLContext | None = None

    def of(self, tls: _Tls) -> ssl.SSLContext:
        if self._context is None or tls != self._tls:
            self._context = _build_context(tls)
            self._tls = tls
        return self._context


class InCluster:
    """The service account that kubelet mounts into every pod."""

    def __init__(
        self,
        host: str,
        port: str,
        folder: Path,
        *,
        proxies: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._folder = folder
        self._proxies = dict(proxies or {})
        self._clock = clock
        self._contexts = _Contexts()

    async def access(self) -> Access:
        """Read token, CA and namespace from the mounted folder."""
        return await offload(self._read)

    def _read(self) -> Access:
        token = _read_file(self._folder / "token", "the service account token").decode("utf-8", "replace")
        ca = _read_file(self._folder / "ca.crt", "the service account CA")
        namespace = self._folder / "namespace"
        return Access(
            server=self._server,
            tls=self._contexts.of(_Tls(ca=ca)),
            headers=(_bearer(token),),
            proxy=_proxy_for(self._server, "", self._proxies),
            namespace=_read_file(namespace, "").decode().strip() if namespace.exists() else "",
            stale_at=self._clock() + _TOKEN_FILE_AGE,
        )


class Kubeconfig:
    """One context of a kubeconfig: files on disk, merged as kubectl merges them, or a document from a Secret.

    `proxies` maps schemes to proxy URLs (and `no` to exceptions), as the environment gives them; the kubeconfig's own
    `proxy-url` wins.
    """

    def __init__(
        self,
        source: Sequence[Path] | bytes,
        *,
        context: str = "",
        trust: Trust = OPERATOR,
        proxies: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._context = context
        self._trust = trust
        self._proxies = dict(proxies or {})
        self._clock = clock
        self._contexts = _Contexts()

    async def access(self) -> Access:
        """Read the files again, run the plugin again."""
        chosen = await offload(self._choose)
        user = await self._user(chosen)
        return await offload(self._build, chosen, user)

    def _choose(self) -> _Chosen:
        if isinstance(self._source, bytes):
            return _choose([(_parse(self._source), None)], self._context)
        configs = [(_parse(_read_file(path, "the kubeconfig")), path.parent) for path in self._source if path.exists()]
        if not configs:
            raise CredentialsError("the kubeconfig does not exist")
        return _choose(configs, self._context)

    async def _user(self, chosen: _Chosen) -> _User:
        if any(chosen.user.get(key) for key in _PLUGIN_KEYS):
            if not self._trust.plugins:
                raise CredentialsError("credential plugins (exec, auth-provider) are not allowed in this kubeconfig")
            return await offload(_ask_plugin, chosen, self._clock)
        return await offload(_static_user, chosen, self._trust, self._clock)

    def _build(self, chosen: _Chosen, user: _User) -> Access:
        cluster = chosen.cluster
        server = _server_url(cluster.get("server"))
        insecure = cluster.get("insecure-skip-tls-verify") is True
        if insecure and not self._trust.insecure_tls:
            raise CredentialsError("insecure-skip-tls-verify is not allowed in this kubeconfig")
        tls: ssl.SSLContext | None = None
        if server.startswith("https:"):
            ca = None if insecure else _material(cluster, "certificate-authority", chosen.cluster_folder, self._trust)
            tls = self._contexts.of(_Tls(ca, user.certificate, user.key, insecure))
        return Access(
            server=server,
            tls=tls,
            tls_server_name=str(cluster.get("tls-server-name") or "") or None,
            headers=(*user.headers, *_impersonation(chosen.user)),
            proxy=_proxy_for(server, str(cluster.get("proxy-url") or ""), self._proxies),
            namespace=chosen.namespace,
            stale_at=user.stale_at,
        )


class _Chosen(NamedTuple):
    """What one context names, each with the folder its relative paths start from."""

    cluster: Obj
    cluster_folder: Path | None
    user: Obj
    user_folder: Path | None
    namespace: str


class _User(NamedTuple):
    """A user's proof of identity."""

    headers: tuple[tuple[str, str], ...] = ()
    certificate: bytes | None = None
    key: bytes | None = None
    stale_at: float | None = None


def impersonation_headers(user: str, groups: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """The headers that make the server act with the rights of `user`."""
    pairs = (("Impersonate-User", user), *(("Impersonate-Group", group) for group in groups))
    for _, value in pairs:
        _require_header(value, "the impersonated user")
    return pairs


def _parse(data: bytes) -> Obj:
    try:
        found = documents.load_all(data, source="kubeconfig")
    except documents.DocumentError as error:
        raise CredentialsError("the kubeconfig is not readable YAML") from error
    if len(found) != 1 or not isinstance(found[0], dict):
        raise CredentialsError("the kubeconfig is not one YAML document")
    return found[0]


def _choose(configs: Sequence[tuple[Obj, Path | None]], context: str) -> _Chosen:
    """Merge as kubectl does: the first file that defines a name defines it."""
    name = context or next(
        (str(config["current-context"]) for config, _ in configs if config.get("current-context")), ""
    )
    if not name:
        raise CredentialsError("the kubeconfig has no current-context")
    chosen, _ = _named(configs, "contexts", "context", name)
    cluster, cluster_folder = _named(configs, "clusters", "cluster", str(chosen.get("cluster") or ""))
    user: Obj = {}
    user_folder: Path | None = None
    if chosen.get("user"):
        user, user_folder = _named(configs, "users", "user", str(chosen["user"]))
    return _Chosen(cluster, cluster_folder, user, user_folder, str(chosen.get("namespace") or ""))


def _named(configs: Sequence[tuple[Obj, Path | None]], section: str, entry: str, name: str) -> tuple[Obj, Path | None]:
    for config, folder in configs:
        rows = config.get(section)
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and row.get("name") == name:
                found = row.get(entry)
                return (found if isinstance(found, dict) else {}), folder
    raise CredentialsError(f"the kubeconfig has no {entry} {name!r}")


def _server_url(server: Any) -> str:
    if not isinstance(server, str) or not server:
        raise CredentialsError("the kubeconfig's cluster has no server")
    full = server.rstrip("/") if "://" in server else f"https://{server.rstrip('/')}"
    try:
        url = urlsplit(full)
        usable = url.scheme in {"http", "https"} and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable or url.username or url.query or url.fragment:
        raise CredentialsError("the server of the kubeconfig's cluster is not a plain http(s) URL")
    return full


def _proxy_for(server: str, own: str, proxies: Mapping[str, str]) -> str | None:
    """The proxy of a server: the kubeconfig's own, else the environment's unless it excepts the host."""
    url = urlsplit(server)
    proxy = own
    if not proxy and not _is_excepted(url.hostname or "", proxies.get("no", "")):
        proxy = proxies.get(url.scheme, "")
    if proxy and urlsplit(proxy).scheme not in {"http", "https"}:
        raise CredentialsError("the proxy of the API server is neither http:// nor https://")
    return proxy or None


def _is_excepted(host: str, exceptions: str) -> bool:
    """Whether NO_PROXY names the host: `*`, a name or its parent domain, an address or its network."""
    for entry in filter(None, (part.strip().lower() for part in exceptions.split(","))):
        name = entry.lstrip(".")
        if entry == "*" or host == name or host.endswith(f".{name}"):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return host == "localhost" or host.startswith("127.")


def _static_user(chosen: _Chosen, trust: Trust, clock: Callable[[], float]) -> _User:
    user, folder = chosen.user, chosen.user_folder
    headers: tuple[tuple[str, str], ...] = ()
    stale_at = None
    if user.get("tokenFile"):
        token = _from_file(str(user["tokenFile"]), "tokenFile", folder, trust)
        headers = (_bearer(token.decode("utf-8", "replace")),)
        stale_at = clock() + _TOKEN_FILE_AGE
    elif user.get("token"):
        headers = (_bearer(str(user["token"])),)
    elif user.get("username") is not None and user.get("password") is not None:
        pair = f"{user['username']}:{user['password']}".encode()
        headers = (("Authorization", f"Basic {base64.b64encode(pair).decode()}"),)
    certificate = _material(user, "client-certificate", folder, trust)
    key = _material(user, "client-key", folder, trust)
    if (certificate is None) != (key is None):
        raise CredentialsError("a client certificate and its key need each other")
    return _User(headers, certificate, key, stale_at)


def _impersonation(user: Obj) -> tuple[tuple[str, str], ...]:
    """What kubectl's `--as` options left in the kubeconfig."""
    if not user.get("as"):
        return ()
    groups = user.get("as-groups")
    pairs = impersonation_headers(str(user["as"]), [str(group) for group in groups or ()])
    if user.get("as-uid"):
        pairs += (("Impersonate-Uid", _require_header(str(user["as-uid"]), "as-uid")),)
    extra = user.get("as-user-extra")
    for key, values in extra.items() if isinstance(extra, dict) else ():
        # Keys may hold a slash, which no header name can.
        name = f"Impersonate-Extra-{quote(str(key), safe='')}"
        pairs += tuple((name, _require_header(str(value), "as-user-extra")) for value in values or ())
    return pairs


def _ask_plugin(chosen: _Chosen, clock: Callable[[], float]) -> _User:
    """Run the user's credential plugin through kubernetes_asyncio, which blocks here and there: in a thread."""
    loaders = importlib.import_module("kubernetes_asyncio.config.kube_config")
    logging.getLogger(loaders.__name__).disabled = True  # it repeats what plugins write, which may be anything
    work = (
        _run_program(loaders, chosen.user["exec"]) if chosen.user.get("exec") else _ask_provider(loaders, chosen.user)
    )
    try:
        status = asyncio.run(asyncio.wait_for(work, _PLUGIN_TIMEOUT))
        return _user_of_plugin(status, clock)
    except TimeoutError as error:
        raise CredentialsError(f"the credential plugin did not answer within {_PLUGIN_TIMEOUT:g}s") from error
    except loaders.ConfigException as error:
        raise CredentialsError(f"the credential plugin failed: {str(error).partition('. ')[0]}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CredentialsError(f"the credential plugin failed: {type(error).__name__}") from error


async def _run_program(loaders: Any, program: Obj) -> Obj:
    """The status of an ExecCredential. Not by way of the loader, which would write the key it is given to a disk."""
    status: Obj = await loaders.ExecProvider(loaders.ConfigNode("exec", program)).run()
    return status


async def _ask_provider(loaders: Any, user: Obj) -> Obj:
    """The token of a built-in provider, in the shape of an ExecCredential's status."""
    document = {
        "current-context": "chosen",
        "contexts": [{"name": "chosen", "context": {"cluster": "chosen", "user": "chosen"}}],
        "clusters": [{"name": "chosen", "cluster": {"name": "chosen"}}],
        "users": [{"name": "chosen", "user": {"auth-provider": user["auth-provider"]}}],
    }
    configuration = loaders.Configuration()
    await loaders.KubeConfigLoader(document).load_and_set(configuration)
    return {"token": str(configuration.api_key.get("BearerToken", "")).removeprefix("Bearer ")}


def _user_of_plugin(status: Obj, clock: Callable[[], float]) -> _User:
    stale_at = None
    if status.get("expirationTimestamp"):
        left = (datetime.fromisoformat(str(status["expirationTimestamp"])) - datetime.now(UTC)).total_seconds()
        stale_at = clock() + max(left - _EXPIRY_MARGIN, 1.0)
    certificate, key = (status.get(name) for name in ("clientCertificateData", "clientKeyData"))
    if not status.get("token") and not (certificate and key):
        raise CredentialsError("the credential plugin gave neither a token nor a certificate with its key")
    return _User(
        headers=(_bearer(str(status["token"])),) if status.get("token") else (),
        certificate=str(certificate).encode() if certificate else None,
        key=str(key).encode() if key else None,
        stale_at=stale_at,
    )


def _material(entry: Obj, name: str, folder: Path | None, trust: Trust) -> bytes | None:
    """The PEM of `name`: inline data wins over a file, as in kubectl."""
    data = entry.get(f"{name}-data")
    if data:
        try:
            return base64.b64decode("".join(str(data).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise CredentialsError(f"{name}-data of the kubeconfig is not base64") from error
    if entry.get(name):
        return _from_file(str(entry[name]), name, folder, trust)
    return None


def _from_file(path: str, name: str, folder: Path | None, trust: Trust) -> bytes:
    if not trust.files:
        raise CredentialsError(f"{name} names a file, which is not allowed in this kubeconfig")
    return _read_file((folder or Path()) / path, name)


def _read_file(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BOUND + 1)
    except OSError as error:
        raise CredentialsError(f"{what} cannot be read: {error.strerror}") from error
    if not data or len(data) > _FILE_BOUND:
        raise CredentialsError(f"{what} is {'too large' if data else 'empty'}")
    return data


def _bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {_require_header(token.strip(), 'the token')}")


def _require_header(value: Any, what: str) -> str:
    text = str(value)
    if not text or not text.isprintable() or not text.isascii():
        raise CredentialsError(f"{what} is empty or holds characters that no HTTP header can carry")
    return text


def _build_context(tls: _Tls) -> ssl.SSLContext:
    try:
        # Without a CA of its own the system's are trusted, as kubectl does.
        context = ssl.create_default_context(cadata=tls.ca.decode("utf-8", "replace") if tls.ca else None)
        if tls.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate and tls.key:
            with _as_file(tls.certificate + b"\n" + tls.key) as path:
                context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsError("the CA or the client certificate is not usable PEM") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path for OpenSSL, which only reads keys from files: in memory on Linux, so that no key meets a disk."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("client-certificate")
        try:
            os.write(fd, data)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name
