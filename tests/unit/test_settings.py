"""Flags over environment over defaults (spec/runtime.md 5)."""

from __future__ import annotations

import pytest

from gitopsd.settings import FEATURE_GATES, SettingsError, parse


def test_defaults_are_those_of_the_flags_table() -> None:
    settings = parse([], {})
    assert settings.requeue_dependency == 30
    assert (settings.min_retry_delay, settings.max_retry_delay) == (0.75, 900)
    assert settings.watched_namespace is None
    assert settings.runtime_namespace == "flux-system"
    assert settings.feature_gates == FEATURE_GATES


def test_a_flag_wins_over_the_environment() -> None:
    environment = {"STORAGE_PATH": "/from-environment", "RUNTIME_NAMESPACE": "ops"}
    assert str(parse([], environment).storage_path) == "/from-environment"
    settings = parse(["--storage-path", "/given", "--watch-all-namespaces=false"], environment)
    assert str(settings.storage_path) == "/given"
    assert settings.watched_namespace == "ops"


def test_a_bare_boolean_flag_is_true_as_in_go() -> None:
    assert parse(["--no-cross-namespace-refs"], {}).no_cross_namespace_refs is True
    assert parse(["--no-cross-namespace-refs=false"], {}).no_cross_namespace_refs is False


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--concurrent=0"], "--concurrent"),
        (["--requeue-dependency=soon"], "--requeue-dependency"),
        (["--interval-jitter-percentage=100"], "--interval-jitter-percentage"),
        (["--feature-gates=NoSuchGate=true"], "NoSuchGate"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--watch-all-namespaces=maybe"], "--watch-all-namespaces"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parse(arguments, {})


@pytest.mark.parametrize(
    ("address", "advertised", "expected"),
    [
        (":9090", "", "http://localhost:9090"),
        ("0.0.0.0:9090", "", "http://pod-1:9090"),
        (
            ":9090",
            "source-controller.flux-system.svc.cluster.local.",
            "http://source-controller.flux-system.svc.cluster.local.",
        ),
        (":9090", "https://artifacts.example.com/", "https://artifacts.example.com"),
    ],
)
def test_s4_5_the_advertised_prefix(address: str, advertised: str, expected: str) -> None:
    """spec/source.md 4.5"""
    arguments = [f"--storage-addr={address}", f"--storage-adv-addr={advertised}"]
    assert parse(arguments, {"HOSTNAME": "pod-1"}).advertised_prefix == expected


def test_flags_of_features_that_come_later_are_accepted_and_told() -> None:
    settings = parse(["--sops-age-secret=keys", "--enable-leader-election", "--http-retry=9"], {})
    assert settings.unused == ("--enable-leader-election", "--sops-age-secret")


def test_override_manager_is_repeatable() -> None:
    assert parse(["--override-manager=a", "--override-manager=b"], {}).override_manager == ("a", "b")


@pytest.mark.parametrize("which", ["source", "decryption", "kubeconfig"])
def test_s11_2_a_default_identity_without_the_gate_does_not_start(which: str) -> None:
    """spec/source.md 11.2, spec/runtime.md 6.3"""
    flag = f"--default-{which}-service-account=default"
    text = "cannot set default service accounts when the feature gate ObjectLevelWorkloadIdentity is not enabled"
    with pytest.raises(SettingsError, match=text):
        parse([flag], {})
    parse([flag, "--feature-gates=ObjectLevelWorkloadIdentity=true"], {})


def test_whom_to_impersonate_needs_no_gate() -> None:
    assert parse(["--default-service-account=default"], {}).default_service_account == "default"


def test_s12_1_the_token_cache_has_the_bounds_of_flux() -> None:
    settings = parse([], {})
    assert (settings.token_cache_max_size, settings.token_cache_max_duration) == (100, 3600)
    assert parse(["--token-cache-max-size=0"], {}).token_cache_max_size == 0
    with pytest.raises(SettingsError, match="--token-cache-max-size"):
        parse(["--token-cache-max-size=-1"], {})


def test_s11_2_what_clouds_put_into_the_environment_is_kept_and_not_shown() -> None:
    given = {
        "AWS_ROLE_ARN": "arn",
        "AWS_SECRET_ACCESS_KEY": "CNRY-settings-aws",
        "AZURE_CLIENT_ID": "id",
        "GOOGLE_APPLICATION_CREDENTIALS": "/file",
        "GCE_METADATA_HOST": "host",
        "IDENTITY_ENDPOINT": "url",
    }
    settings = parse([], given | {"HOME": "/root", "SOPS_AGE_KEY": "x"})
    assert settings.cloud_environment == given
    assert "CNRY" not in repr(settings)
