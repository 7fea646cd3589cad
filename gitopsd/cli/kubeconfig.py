"""Which cluster and as whom: where the kubeconfig is, and what flags replace in it.

Without such flags the files go to `kube.credentials` as they are. With them (`--server`, `--token`, `--as`, …) one
document with one context is made: files merged as `kubectl` merges them, single fields replaced. It stays in memory.
Nothing of a user entry ever gets into an error message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitopsd.cli.flags import CommandError, GlobalFlags
from gitopsd.settings import in_cli

if TYPE_CHECKING:
    from gitopsd.kube.client import KubeSettings
    from gitopsd.kube.credentials import Credentials

Config = dict[str, Any]

_LISTS = {"clusters": "cluster", "users": "user", "contexts": "context"}
_FILES = {
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
}
_CHOSEN = "command-line"

# A person waits: long enough for a busy API server, short enough for one that is not there.
_PATIENCE = 2.0


def settings_of(flags: GlobalFlags) -> tuple[KubeSettings, Credentials | None]:
    """What the client needs to know; credentials only where flags replace those of the kubeconfig."""
    from gitopsd.kube.client import KubeSettings
    from gitopsd.kube.credentials import Kubeconfig
    from gitopsd.kube.transport import Effort

    paths = _paths(flags)
    proxies = {scheme: proxy for scheme in ("http", "https", "no") if (proxy := _proxy(scheme))}
    settings = KubeSettings(
        kubeconfig=Path(":".join(str(path) for path in paths)) if paths else None,
        context=flags.context,
        service_host=in_cli("KUBERNETES_SERVICE_HOST"),
        service_port=in_cli("KUBERNETES_SERVICE_PORT", "443"),
        proxies=proxies,
        effort=Effort(patience=_PATIENCE, qps=flags.kube_api_qps, burst=flags.kube_api_burst),
        # The server names the field manager of a write after the first word, where the write itself does not.
        user_agent="flux/gitopsd",
    )
    if not needs_override(flags):
        return settings, None
    document = overridden(merged(_read(paths)), flags, Path.cwd())
    return settings, Kubeconfig(json.dumps(document).encode(), proxies=proxies)


def _paths(flags: GlobalFlags) -> list[Path]:
    if flags.kubeconfig:
        path = Path(flags.kubeconfig).expanduser()
        if not path.is_file():
            raise CommandError(f"the kubeconfig {flags.kubeconfig} does not exist")
        return [path]
    listed = in_cli("KUBECONFIG")
    if listed:
        return [Path(part).expanduser() for part in listed.split(":") if part]
    usual = Path.home() / ".kube" / "config"
    return [usual] if usual.is_file() else []


def _proxy(scheme: str) -> str:
    name = f"{scheme}_proxy"
    return in_cli(name) or in_cli(name.upper())


def _read(paths: Sequence[Path]) -> list[tuple[Path, Any]]:
    from gitopsd.krm.documents import load_all

    return [
        (path, document)
        for path in paths
        if path.is_file()
        for document in load_all(path.read_bytes(), source="kubeconfig")
    ]


def merged(files: Sequence[tuple[Path, Any]]) -> Config:
    """One kubeconfig of several: earlier files win, relative file names start from their file's folder."""
    config: Config = {"apiVersion": "v1", "kind": "Config", "current-context": ""}
    for section in _LISTS:
        config[section] = []
    for path, document in files:
        if not isinstance(document, Mapping):
            raise CommandError(f"the kubeconfig {path.name} is not a mapping")
        if not config["current-context"]:
            config["current-context"] = str(document.get("current-context") or "")
        for section in _LISTS:
            _merge_section(config[section], document.get(section), section, path.parent)
    return config


def _merge_section(into: list[Config], entries: Any, section: str, folder: Path) -> None:
    inner = _LISTS[section]
    known = {entry["name"] for entry in into}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, Mapping) or "name" not in entry or entry["name"] in known:
            continue
        body = dict(entry.get(inner) or {})
        for field in _FILES.get(section, ()):
            if isinstance(body.get(field), str) and body[field]:
                body[field] = str(folder / body[field])
        into.append({"name": entry["name"], inner: body})
        known.add(entry["name"])


def needs_override(flags: GlobalFlags) -> bool:
    """Whether a flag replaces fields of the kubeconfig."""
    return any(
        (
            flags.cluster,
            flags.user,
            flags.token,
            flags.server,
            flags.tls_server_name,
            flags.insecure_skip_tls_verify,
            flags.certificate_authority,
            flags.client_certificate,
            flags.client_key,
            flags.as_user,
            flags.as_groups,
            flags.as_uid,
            flags.as_user_extra,
        )
    )


def overridden(config: Config, flags: GlobalFlags, working_folder: Path) -> Config:
    """`config` cut down to one context, in which the flags have replaced what they name."""
    name = flags.context or config["current-context"]
    context = _entry(config, "contexts", name)
    if context is None and flags.context:
        raise CommandError(f'context "{name}" does not exist')
    context = context or {}
    cluster = _chosen(config, "clusters", flags.cluster, context)
    user = _chosen(config, "users", flags.user, context)
    _override_cluster(cluster, flags, working_folder)
    _override_user(user, flags, working_folder)
    _impersonate(user, flags)
    if not cluster.get("server"):
        raise CommandError("no cluster is configured: name one with --server, --context or a kubeconfig")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": _CHOSEN,
        "contexts": [{"name": _CHOSEN, "context": {**context, "cluster": _CHOSEN, "user": _CHOSEN}}],
        "clusters": [{"name": _CHOSEN, "cluster": cluster}],
        "users": [{"name": _CHOSEN, "user": user}],
    }


def _entry(config: Config, section: str, name: str) -> Config | None:
    for entry in config[section]:
        if entry["name"] == name:
            body: Config = entry[_LISTS[section]]
            return body
    return None


def _chosen(config: Config, section: str, asked: str, context: Config) -> Config:
    inner = _LISTS[section]
    found = _entry(config, section, asked or str(context.get(inner) or ""))
    if found is None and asked:
        raise CommandError(f'{inner} "{asked}" does not exist')
    return dict(found or {})


def _override_cluster(cluster: Config, flags: GlobalFlags, working_folder: Path) -> None:
    if flags.server:
        cluster["server"] = flags.server
    if flags.tls_server_name:
        cluster["tls-server-name"] = flags.tls_server_name
    if flags.certificate_authority:
        cluster.pop("certificate-authority-data", None)
        cluster["certificate-authority"] = str(working_folder / flags.certificate_authority)
    if flags.insecure_skip_tls_verify:
        for field in ("certificate-authority", "certificate-authority-data"):
            cluster.pop(field, None)
        cluster["insecure-skip-tls-verify"] = True


def _override_user(user: Config, flags: GlobalFlags, working_folder: Path) -> None:
    if flags.token:
        for field in ("tokenFile", "exec", "auth-provider", "username", "password"):
            user.pop(field, None)
        user["token"] = flags.token
    for field, value in (("client-certificate", flags.client_certificate), ("client-key", flags.client_key)):
        if value:
            user.pop(f"{field}-data", None)
            user[field] = str(working_folder / value)


def _impersonate(user: Config, flags: GlobalFlags) -> None:
    asked: Config = {"as": flags.as_user, "as-groups": list(flags.as_groups), "as-uid": flags.as_uid}
    if flags.as_user_extra:
        asked["as-user-extra"] = _extra(flags.as_user_extra)
    given = {field: value for field, value in asked.items() if value}
    if given and not (flags.as_user or user.get("as")):
        raise CommandError("requesting uid, groups or user-extra for --as without impersonating a user")
    user.update(given)


def _extra(pairs: Sequence[str]) -> dict[str, list[str]]:
    extra: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise CommandError(f'--as-user-extra must be of the form key=value, but found: "{pair}"')
        extra.setdefault(key, []).append(value)
    return extra
