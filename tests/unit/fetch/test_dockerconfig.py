"""Which credentials of a docker configuration are for a repository."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gitopsd.fetch.dockerconfig import JSON_TYPE, LEGACY_TYPE, credentials
from gitopsd.fetch.registryaddress import Repository, parse_repository

REPOSITORY = Repository("ghcr.io", "org/team/app")
NONE = ("", "", "")


def config(**auths: Any) -> tuple[str, dict[str, bytes]]:
    return JSON_TYPE, {".dockerconfigjson": json.dumps({"auths": auths}).encode()}


def entry(user: str) -> dict[str, str]:
    return {"username": user, "password": "secret"}


def user_of(*secrets: tuple[str, dict[str, bytes]], repository: Repository = REPOSITORY) -> str:
    return credentials(list(secrets), repository)[0]


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("ghcr.io", True),
        ("https://ghcr.io", True),
        ("http://ghcr.io/", True),
        ("https://ghcr.io/v1/", True),
        ("https://ghcr.io/v2/", True),
        ("ghcr.io/org", True),
        ("ghcr.io/v2/org/team", True),
        ("ghcr.io/org/team/app", True),
        ("*.io", True),
        ("gh*r.io", True),
        ("*.*", True),
        ("ghcr.io/other", False),
        ("ghcr.io/org/team/app/more", False),
        ("ghcr.io:443", False),
        ("*", False),
        ("*.ghcr.io", False),
        ("quay.io", False),
        ("", False),
    ],
)
def test_s11_1_an_entry_is_for_a_host_and_the_beginning_of_a_path(key: str, matches: bool) -> None:
    assert user_of(config(**{key: entry("me")})) == ("me" if matches else "")


def test_s11_1_the_longest_match_wins_over_all_secrets() -> None:
    first = config(**{"ghcr.io": entry("host"), "ghcr.io/org/team": entry("team"), "ghcr.io/org": entry("org")})
    second = config(**{"ghcr.io/org/team/app": entry("app"), "*.io": entry("any")})
    assert user_of(first) == "team"
    assert user_of(first, second) == "app"
    assert user_of(second, first, repository=Repository("ghcr.io", "org/other")) == "org"
    assert user_of(second, first, repository=Repository("ghcr.io", "x/y")) == "host"
    assert user_of(second, first, repository=Repository("quay.io", "x/y")) == "any"


def test_s11_1_of_equal_entries_the_first_secret_wins() -> None:
    assert user_of(config(**{"ghcr.io": entry("one")}), config(**{"https://ghcr.io": entry("two")})) == "one"


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_hub_is_found_by_its_names(key: str) -> None:
    assert user_of(config(**{key: entry("me")}), repository=parse_repository("oci://nginx")) == "me"


def test_ports_have_to_be_equal() -> None:
    secret = config(**{"127.0.0.1:5000": entry("me"), "[::1]:5000": entry("six")})
    assert user_of(secret, repository=Repository("127.0.0.1:5000", "app")) == "me"
    assert user_of(secret, repository=Repository("127.0.0.1:5001", "app")) == ""
    assert user_of(secret, repository=Repository("[::1]:5000", "app")) == "six"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"username": "u", "password": "p"}, ("u", "p", "")),
        ({"auth": base64.b64encode(b"u:p:q").decode()}, ("u", "p:q", "")),
        ({"auth": base64.b64encode(b"user:pass").decode().rstrip("=")}, ("user", "pass", "")),
        ({"username": "x", "password": "y", "auth": base64.b64encode(b"u:p").decode()}, ("u", "p", "")),
        ({"identitytoken": "i", "auth": base64.b64encode(b"0000:").decode()}, ("<token>", "i", "")),
        ({"registrytoken": "r", "username": "u"}, ("", "", "r")),
        ({"email": "a@b"}, NONE),
        ({}, NONE),
        (None, NONE),
    ],
)
def test_s11_1_forms_of_an_entry(value: Any, found: tuple[str, str, str]) -> None:
    assert credentials([config(**{"ghcr.io": value})], REPOSITORY) == found


def test_s11_1_the_older_form_has_no_auths() -> None:
    data = {".dockercfg": json.dumps({"ghcr.io": entry("old")}).encode()}
    assert credentials([(LEGACY_TYPE, data)], REPOSITORY) == ("old", "secret", "")


@pytest.mark.parametrize("kind", ["Opaque", "kubernetes.io/basic-auth", "", LEGACY_TYPE])
def test_s11_1_other_types_are_ignored(kind: str) -> None:
    data = config(**{"ghcr.io": entry("me")})[1] | {"username": b"u", "password": b"p"}
    assert credentials([(kind, data)], REPOSITORY) == NONE


def test_secrets_without_anything_are_ignored() -> None:
    assert credentials([], REPOSITORY) == NONE
    assert credentials([(JSON_TYPE, {}), (JSON_TYPE, {".dockerconfigjson": b""})], REPOSITORY) == NONE
    assert credentials([(JSON_TYPE, {".dockerconfigjson": b'{"credsStore": "x"}'})], REPOSITORY) == NONE


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (JSON_TYPE, b"not json secret", "holds no readable configuration"),
        (JSON_TYPE, b'{"auths": {"ghcr.io": {"password": 17}}}', "holds no readable configuration"),
        (JSON_TYPE, b"[" * 100_000, "holds no readable configuration"),
        (LEGACY_TYPE, b'{"ghcr.io": "secret"}', "holds no readable configuration"),
        (JSON_TYPE, b'{"auths": {"ghcr.io": {"auth": "secret!!"}}}', "'auth' that is not base64"),
        (JSON_TYPE, b'{"auths": {"ghcr.io": {"auth": "c2VjcmV0"}}}', "'auth' without a colon"),
        (JSON_TYPE, b'{"auths": {"ghcr.io:port": {}}}', "entry 'ghcr.io:port' of the docker-registry Secret"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_told_without_its_content(kind: str, data: bytes, text: str) -> None:
    key = ".dockerconfigjson" if kind == JSON_TYPE else ".dockercfg"
    with pytest.raises(ValueError) as caught:
        credentials([(kind, {key: data})], REPOSITORY)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_hostile_pattern_takes_no_time() -> None:
    key = "*a" * 200 + "b.io"
    assert user_of(config(**{key: entry("me")}), repository=Repository("a" * 200 + ".io", "org/app")) == ""
