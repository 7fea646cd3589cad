"""The flags of source-controller, one by one (`spec/source.md` 12.1)."""

from __future__ import annotations

import pytest

from gitopsd.settings import Settings, SettingsError, parse

DEFAULTS = {
    "metrics_addr": ":8080",
    "health_addr": ":9440",
    "events_addr": "",
    "storage_path": "/data",
    "storage_addr": ":9090",
    "storage_adv_addr": "",
    "artifact_retention_ttl": 60.0,
    "artifact_retention_records": 2,
    "artifact_digest_algo": "sha256",
    "requeue_dependency": 30.0,
    "min_retry_delay": 0.75,
    "max_retry_delay": 900.0,
    "helm_index_max_size": 52428800,
    "helm_chart_max_size": 10485760,
    "helm_chart_file_max_size": 5242880,
    "helm_cache_max_size": 0,
    "helm_cache_ttl": 900.0,
    "kube_api_qps": 50.0,
    "kube_api_burst": 300,
    "log_level": "info",
    "log_encoding": "json",
    "watch_all_namespaces": True,
    "watch_label_selector": "",
    "watch_configs_label_selector": "reconcile.fluxcd.io/watch=Enabled",
    "interval_jitter_percentage": 5,
    "token_cache_max_size": 100,
    "token_cache_max_duration": 3600.0,
}
ENVIRONMENT = {
    "METRICS_ADDR": "metrics_addr",
    "EVENTS_ADDR": "events_addr",
    "STORAGE_PATH": "storage_path",
    "STORAGE_ADDRESS": "storage_addr",
    "STORAGE_ADV_ADDR": "storage_adv_addr",
}
ARGUMENTS = (
    "--metrics-addr=:1",
    "--health-addr=:1",
    "--events-addr=http://n/",
    "--storage-path=/x",
    "--storage-addr=:1",
    "--storage-adv-addr=x",
    "--artifact-retention-ttl=5m",
    "--artifact-retention-records=3",
    "--artifact-digest-algo=sha512",
    "--concurrent=3",
    "--requeue-dependency=5s",
    "--min-retry-delay=1s",
    "--max-retry-delay=5m",
    "--helm-index-max-size=1000",
    "--helm-chart-max-size=1000",
    "--helm-chart-file-max-size=1000",
    "--helm-cache-max-size=10",
    "--helm-cache-ttl=1m",
    "--helm-cache-purge-interval=1m",
    "--kube-api-qps=10",
    "--kube-api-burst=20",
    "--log-level=debug",
    "--log-encoding=console",
    "--enable-leader-election",
    "--enable-leader-election=false",
    "--leader-election-release-on-cancel=false",
    "--leader-election-lease-duration=10s",
    "--leader-election-renew-deadline=5s",
    "--leader-election-retry-period=1s",
    "--watch-all-namespaces=false",
    "--watch-label-selector=a=b",
    "--watch-configs-label-selector=a=b",
    "--interval-jitter-percentage=10",
    "--feature-gates=CacheSecretsAndConfigMaps=true",
    "--feature-gates=ObjectLevelWorkloadIdentity=true",
    "--ssh-kex-algos=curve25519-sha256",
    "--ssh-hostkey-algos=ssh-ed25519",
    "--token-cache-max-size=5",
    "--token-cache-max-duration=1m",
)


def shown(value: object) -> object:
    """A setting in the form of the table."""
    return str(value) if not isinstance(value, (bool, int, float, str)) else value


@pytest.mark.parametrize("name", DEFAULTS)
def test_s12_1_defaults_are_those_of_the_table(name: str) -> None:
    assert shown(getattr(parse([], {}), name)) == DEFAULTS[name]


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_s12_1_every_flag_of_a_deployment_is_taken(argument: str) -> None:
    """A Deployment that was made for Flux starts with its arguments as they are."""
    assert isinstance(parse([argument], {"RUNTIME_NAMESPACE": "flux-system"}), Settings)


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_s12_1_the_environment_stands_behind_the_flag(variable: str) -> None:
    name = ENVIRONMENT[variable]
    assert shown(getattr(parse([], {variable: "from-outside"}), name)) == "from-outside"
    flag = f"--{name.replace('_', '-')}=from-inside"
    assert shown(getattr(parse([flag], {variable: "from-outside"}), name)) == "from-inside"


@pytest.mark.parametrize(
    "argument",
    [
        "--interval-jitter-percentage=100",
        "--artifact-digest-algo=md5",
        "--log-level=loud",
        "--log-encoding=xml",
        "--artifact-retention-ttl=soon",
        "--artifact-retention-records=x",
        "--min-retry-delay=-1s",
        "--helm-index-max-size=-1",
        "--feature-gates=Nope=true",
    ],
)
def test_s12_1_what_cannot_be_meant_is_refused_by_name(argument: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse([argument], {})
    assert argument.split("=")[1 if "gates" in argument else 0].lstrip("-") in str(caught.value)


def test_s12_1_an_unknown_gate_is_told_in_the_words_of_flux() -> None:
    with pytest.raises(SettingsError, match="feature-gate 'Nope' not supported"):
        parse(["--feature-gates=Nope=true"], {})
