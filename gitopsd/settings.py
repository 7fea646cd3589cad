"""Every setting of the daemon: one table of flags, read once from the command line and the environment.

Names and defaults are Flux's (`spec/runtime.md` 5), so that arguments of a Deployment carry over; the few of our own
say so. The only module that looks at the environment. A `Settings` value never changes after it was read.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from gitopsd.errors import GitopsdError


class SettingsError(GitopsdError):
    """A flag or an environment variable that cannot be used; the message names it."""


# What workload identity puts into a pod, and what redirects a cloud's own program to another endpoint.
_CLOUD_VARIABLES = (
    *("AWS_", "AZURE_", "GCE_", "GOOGLE_", "ECS_", "IDENTITY_", "MSI_"),
    "CLOUDSDK_API_ENDPOINT_OVERRIDES_",
)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        if text == "0":
            return 0.0
        raise ValueError(f"{text!r} is not a duration such as 30s or 1m30s")
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def _boolean(text: str) -> bool:
    match text.lower():
        case "true" | "1" | "t":
            return True
        case "false" | "0" | "f":
            return False
    raise ValueError(f"{text!r} is neither true nor false")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} is less than 1")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(f"{text} is less than 0")
    return number


def _percentage(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 99:
        raise ValueError(f"{text} is not between 0 and 99")
    return number


def _optional_path(text: str) -> Path | None:
    return Path(text) if text else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return read


# Defaults of spec/runtime.md 5.4. A gate that is missing here is fatal, as upstream.
FEATURE_GATES: Mapping[str, bool] = {
    "AdditiveCELDependencyCheck": False,
    "AllowDNSLookups": False,
    "CacheSecretsAndConfigMaps": False,
    "CancelHealthCheckOnNewRevision": True,
    "DefaultToRetryOnFailure": False,
    "DirectSourceFetch": False,
    "DisableChartDigestTracking": False,
    "DisableConfigWatchers": False,
    "DisableFailFastBehavior": False,
    "DisableStatusPollerCache": True,
    "ExternalArtifact": False,
    "GroupChangeLog": False,
    "MigrateAPIVersion": False,
    "OOMWatch": False,
    "ObjectLevelWorkloadIdentity": False,
    "StrictPostBuildSubstitutions": True,
    "UseHelm3Defaults": False,
}


_IDENTITY_GATE = "ObjectLevelWorkloadIdentity"
# `--default-service-account` is none of these: it names whom to impersonate in the cluster.
_DEFAULT_IDENTITIES = (
    "default-source-service-account",
    "default-decryption-service-account",
    "default-kubeconfig-service-account",
)


def _gates(text: str) -> Mapping[str, bool]:
    gates = dict(FEATURE_GATES)
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name not in gates:
            raise ValueError(f"feature-gate {name!r} not supported")
        gates[name] = _boolean(value or "true")
    return gates


@dataclass(frozen=True)
class Flag:
    """One row of the table: the flag, how to read it, its default as text, and what it does."""

    name: str
    read: Callable[[str], Any]
    default: str
    help: str
    environment: str = ""
    later: bool = False  # accepted so that existing arguments work; has no effect yet

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")


_FLAGS: tuple[Flag, ...] = (
    Flag("kubeconfig", _optional_path, "", "kubeconfig file; without it the in-cluster account", "KUBECONFIG"),
    Flag("context", str, "", "context of the kubeconfig"),
    Flag("watch-all-namespaces", _boolean, "true", "watch every namespace; false: only RUNTIME_NAMESPACE"),
    Flag("watch-label-selector", str, "", "reconcile only objects with these labels (sharding)"),
    Flag(
        "watch-configs-label-selector",
        str,
        "reconcile.fluxcd.io/watch=Enabled",
        "ConfigMaps and Secrets whose change triggers those who refer to them",
    ),
    Flag("concurrent", _positive, "4", "Kustomizations worked on at a time; waiting for health takes no place"),
    Flag("concurrent-sources", _positive, "4", "sources of each kind worked on at a time (own flag)"),
    Flag("concurrent-ssa", _positive, "4", "server-side applies in flight for one Kustomization"),
    Flag("requeue-dependency", _seconds, "30s", "safety net behind the events of dependencies and sources"),
    Flag("min-retry-delay", _seconds, "750ms", "first delay after a failure"),
    Flag("max-retry-delay", _seconds, "15m", "longest delay after failures"),
    Flag("interval-jitter-percentage", _percentage, "5", "spread of intervals, plus and minus"),
    Flag("storage-path", Path, "/data", "folder of the artifacts", "STORAGE_PATH"),
    Flag("storage-addr", str, ":9090", "address of the artifact server", "STORAGE_ADDRESS"),
    Flag("storage-adv-addr", str, "", "host (or URL prefix) that artifact URLs name", "STORAGE_ADV_ADDR"),
    Flag("artifact-memory", _positive, "268435456", "bytes of fetched files kept in memory (own flag)"),
    Flag("artifact-retention-ttl", _seconds, "1m", "how long a superseded artifact is kept"),
    Flag(
        "artifact-retention-records", _positive, "2", "artifacts of one source that are kept, the current one counted"
    ),
    Flag(
        "artifact-digest-algo", _one_of("sha256", "sha384", "sha512", "sha1", "blake3"), "sha256", "digest of artifacts"
    ),
    Flag("metrics-addr", str, ":8080", "address of /metrics", "METRICS_ADDR"),
    Flag("health-addr", str, ":9440", "address of /healthz and /readyz"),
    Flag("events-addr", str, "", "where events are posted as JSON", "EVENTS_ADDR"),
    Flag("log-level", _one_of("trace", "debug", "info", "error"), "info", "lowest level that is written"),
    Flag("log-encoding", _one_of("json", "console"), "json", "form of a log line"),
    Flag("no-cross-namespace-refs", _boolean, "false", "refuse sources of another namespace"),
    Flag("no-remote-bases", _boolean, "false", "refuse kustomize bases outside the artifact, before any connection"),
    Flag("default-service-account", str, "", "account to impersonate where an object names none"),
    Flag(
        "default-source-service-account",
        str,
        "",
        "account whose identity at a cloud is used by sources that name none (own flag)",
    ),
    Flag("override-manager", lambda text: (text,), "", "field manager whose fields are taken back (repeatable)"),
    Flag("custom-apply-stage-kinds", str, "", "kinds applied before the rest: group/Kind,…"),
    Flag("kube-api-qps", float, "50", "requests a second where the API server has no priority and fairness"),
    Flag("kube-api-burst", _positive, "300", "burst above --kube-api-qps"),
    Flag("feature-gates", _gates, "", "Name=true,Name=false"),
    Flag("graceful-shutdown-timeout", _seconds, "20s", "how long running work may take to end after SIGTERM"),
    Flag("engine-processes", _positive, "2", "engine processes (own flag)"),
    Flag("engine-memory", _positive, "536870912", "bytes one engine process may use (own flag)"),
    Flag("build-timeout", _seconds, "1m", "longest time of one build (own flag)"),
    Flag("git-max-pack-size", _positive, "536870912", "largest pack a Git server may send (own flag)"),
    Flag("git-deny-private-redirects", _boolean, "false", "refuse redirects into private networks (own flag)"),
    Flag("insecure-allow-http", _boolean, "true", "send credentials over plain HTTP where a URL says so (own flag)"),
    Flag("enable-leader-election", _boolean, "false", "hold a lease while working", later=True),
    Flag("leader-election-release-on-cancel", _boolean, "true", "give the lease back at the end", later=True),
    Flag("leader-election-lease-duration", _seconds, "35s", "length of the lease", later=True),
    Flag("leader-election-renew-deadline", _seconds, "30s", "how long renewing may fail", later=True),
    Flag("leader-election-retry-period", _seconds, "5s", "pause between attempts", later=True),
    Flag("token-cache-max-size", _count, "100", "tokens of clouds that are kept; 0: none"),
    Flag("token-cache-max-duration", _seconds, "1h", "how long such a token is kept at most"),
    Flag("http-retry", int, "9", "tries to fetch an artifact from another controller's server"),
    Flag("http-timeout", _seconds, "30s", "longest time of one such try"),
    Flag("sops-age-secret", str, "", "Secret with age keys for all", later=True),
    Flag("sops-vault-configmap", str, "", "ConfigMap with Vault instances", later=True),
    Flag("default-decryption-service-account", str, "", "account for decryption", later=True),
    Flag("default-kubeconfig-service-account", str, "", "account for remote clusters", later=True),
    Flag("insecure-kubeconfig-exec", _boolean, "false", "allow exec plugins of tenants' kubeconfigs", later=True),
    Flag("insecure-kubeconfig-tls", _boolean, "false", "allow unverified TLS of tenants' kubeconfigs", later=True),
    Flag("snapshot-digest-algo", str, "sha256", "digest of release snapshots", later=True),
    Flag("helm-index-max-size", _positive, "52428800", "largest chart index, in bytes"),
    Flag("helm-chart-max-size", _positive, "10485760", "largest chart archive, in bytes"),
    Flag("helm-chart-file-max-size", _positive, "5242880", "largest file of a chart, in bytes"),
    Flag("helm-cache-max-size", _count, "0", "chart indexes kept in memory; 0: as many as their memory allows"),
    Flag("helm-cache-ttl", _seconds, "15m", "how long an index is kept"),
    Flag("helm-cache-purge-interval", _seconds, "1m", "accepted", later=True),
    Flag("ssh-kex-algos", _names, "", "key exchange algorithms, in order; empty: the usual safe ones"),
    Flag("ssh-hostkey-algos", _names, "", "host key algorithms, in order; empty: the usual safe ones"),
    Flag("oom-watch-memory-threshold", int, "95", "accepted", later=True),
    Flag("oom-watch-interval", _seconds, "500ms", "accepted", later=True),
    Flag("oom-watch-max-memory-path", str, "", "accepted", later=True),
    Flag("oom-watch-current-memory-path", str, "", "accepted", later=True),
)


@dataclass(frozen=True)
class Settings:
    """What `gitopsd run` was told. Durations are seconds, sizes bytes."""

    kubeconfig: Path | None
    context: str
    watch_all_namespaces: bool
    watch_label_selector: str
    watch_configs_label_selector: str
    concurrent: int
    concurrent_sources: int
    concurrent_ssa: int
    requeue_dependency: float
    min_retry_delay: float
    max_retry_delay: float
    interval_jitter_percentage: int
    storage_path: Path
    storage_addr: str
    storage_adv_addr: str
    artifact_memory: int
    artifact_retention_ttl: float
    artifact_retention_records: int
    artifact_digest_algo: str
    metrics_addr: str
    health_addr: str
    events_addr: str
    log_level: str
    log_encoding: str
    no_cross_namespace_refs: bool
    no_remote_bases: bool
    default_service_account: str
    default_source_service_account: str
    override_manager: tuple[str, ...]
    custom_apply_stage_kinds: str
    kube_api_qps: float
    kube_api_burst: int
    feature_gates: Mapping[str, bool]
    graceful_shutdown_timeout: float
    engine_processes: int
    engine_memory: int
    build_timeout: float
    git_max_pack_size: int
    git_deny_private_redirects: bool
    insecure_allow_http: bool
    token_cache_max_size: int
    token_cache_max_duration: float
    http_retry: int
    http_timeout: float
    helm_index_max_size: int
    helm_chart_max_size: int
    helm_chart_file_max_size: int
    helm_cache_max_size: int
    helm_cache_ttl: float
    ssh_kex_algos: tuple[str, ...]
    ssh_hostkey_algos: tuple[str, ...]
    runtime_namespace: str
    hostname: str
    engine_path: Path | None
    kube_service: tuple[str, str]  # host and port of the API server as a pod sees them
    proxies: Mapping[str, str]  # scheme → URL, and `no` → exceptions
    # What clouds' own programs would read: who we are there. Holds secrets.
    cloud_environment: Mapping[str, str] = field(repr=False)
    unused: tuple[str, ...]  # flags that were given and have no effect yet

    @property
    def watched_namespace(self) -> str | None:
        """The only namespace that is watched, or None for all."""
        return None if self.watch_all_namespaces else self.runtime_namespace

    @property
    def advertised_prefix(self) -> str:
        """The URL prefix of artifacts, without a slash at its end (`spec/source.md` 4.5)."""
        host = self.storage_adv_addr
        if not host:
            name, _, port = self.storage_addr.rpartition(":")
            name = {"": "localhost", "0.0.0.0": self.hostname}.get(name, name)  # noqa: S104 - it is only compared
            host = f"{name}:{port}"
        return host.rstrip("/") if host.startswith(("http://", "https://")) else f"http://{host}"


def parse(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Settings:
    """Read flags over environment over defaults. Raises `SettingsError` naming what is wrong."""
    environment = os.environ if environment is None else environment  # noqa: TID251 - this is the one module that may
    given = vars(_parser().parse_args(list(arguments)))
    values: dict[str, Any] = {}
    unused: list[str] = []
    _refuse_identities_without_gate(given, environment)
    for flag in _FLAGS:
        text = given[flag.attribute]
        value = _value(flag, text, environment)
        if not flag.later:
            values[flag.attribute] = value
        elif text is not None and value != flag.read(flag.default):
            unused.append(f"--{flag.name}")
    engine = environment.get("GITOPSD_ENGINE", "")
    return Settings(
        **values,
        runtime_namespace=environment.get("RUNTIME_NAMESPACE") or "flux-system",
        hostname=environment.get("HOSTNAME") or os.uname().nodename,
        engine_path=Path(engine) if engine else None,
        kube_service=(
            environment.get("KUBERNETES_SERVICE_HOST", ""),
            environment.get("KUBERNETES_SERVICE_PORT", "") or "443",
        ),
        proxies=_proxies(environment),
        cloud_environment={name: text for name, text in environment.items() if name.startswith(_CLOUD_VARIABLES)},
        unused=tuple(unused),
    )


def _refuse_identities_without_gate(given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """`spec/runtime.md` 6.3: a default that would silently have no effect is fatal."""
    flags = {flag.name: flag for flag in _FLAGS}
    gates = _value(flags["feature-gates"], given["feature_gates"], environment)
    if gates[_IDENTITY_GATE]:
        return
    if any(_value(flags[name], given[flags[name].attribute], environment) for name in _DEFAULT_IDENTITIES):
        raise SettingsError(
            f"cannot set default service accounts when the feature gate {_IDENTITY_GATE} is not enabled"
        )


def _value(flag: Flag, text: str | list[str] | None, environment: Mapping[str, str]) -> Any:
    if isinstance(text, list):
        return tuple(text)
    if text is None:
        text = environment.get(flag.environment, "") if flag.environment else ""
        text = text or flag.default
        if not text and flag.name == "override-manager":
            return ()
    try:
        return flag.read(text)
    except ValueError as error:
        raise SettingsError(f"--{flag.name}: {error}") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for scheme in ("http", "https", "no"):
        name = f"{scheme}_proxy"
        value = environment.get(name.upper()) or environment.get(name)
        if value:
            found[scheme] = value
    return found


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gitopsd run", description="Run the daemon.", allow_abbrev=False)
    for flag in _FLAGS:
        if flag.read is _boolean:
            parser.add_argument(f"--{flag.name}", nargs="?", const="true", metavar="true|false", help=_help(flag))
        elif flag.name == "override-manager":
            parser.add_argument(f"--{flag.name}", action="append", metavar="NAME", help=_help(flag))
        else:
            parser.add_argument(f"--{flag.name}", metavar="VALUE", help=_help(flag))
    return parser


def _help(flag: Flag) -> str:
    text = flag.help if not flag.later or flag.help.startswith("accepted") else f"{flag.help} (no effect yet)"
    if flag.environment:
        text += f" [env {flag.environment}]"
    return f"{text} (default {flag.default})".replace("%", "%%") if flag.default else text.replace("%", "%%")


def in_cli(name: str, default: str = "") -> str:
    """One variable of the environment, for the command line tool."""
    return os.environ.get(name, default)  # noqa: TID251 - this is the one module that may
