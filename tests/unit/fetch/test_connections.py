from __future__ import annotations

import pytest

from gitopsd.fetch.connections import is_private_literal


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::169.254.169.254",
        "2002:0a00:0001::1",
        "fe80::1%eth0",
        "::",
    ],
)
def test_A10_addresses_of_private_networks_are_known(host):
    assert is_private_literal(host)


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "140.82.121.4", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "example.com", "localhost"],
)
def test_A10_public_addresses_and_names_are_not_among_them(host):
    assert not is_private_literal(host)
