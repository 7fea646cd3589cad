from __future__ import annotations

import base64

import asyncssh
import pytest

from gitopsd.fetch.auth import GitAuth, git_auth, is_encrypted_key, mask, refuse_plain_http
from gitopsd.fetch.errors import FetchError, printable
from gitopsd.fetch.giturl import parse

HTTPS = "https://example.com/a.git"
SSH = "ssh://example.com/a.git"
KEY = asyncssh.generate_private_key("ssh-ed25519")


def refused(url, data=None, **more):
    with pytest.raises(FetchError) as caught:
        git_auth(url, data, **more)
    return caught.value.reason, caught.value.message


def test_s11_1_basic_auth_comes_from_the_secret_and_then_field_by_field_from_the_url():
    """spec/source.md 11.1"""
    assert git_auth(HTTPS, {"username": b"u", "password": b"p"}) == GitAuth(username="u", password="p")
    assert git_auth("https://x:y@example.com/a", {"username": b"u"}) == GitAuth(username="u", password="y")
    assert git_auth("https://x:y@example.com/a") == GitAuth(username="x", password="y")
    assert git_auth(HTTPS) == GitAuth()
    pair = base64.b64encode(b"u:p").decode()
    assert git_auth(HTTPS, {"username": b"u", "password": b"p"}).authorization == f"Basic {pair}"


def test_s11_1_a_bearer_token_wins_over_basic_auth_of_the_same_secret():
    """spec/source.md 11.1"""
    auth = git_auth(HTTPS, {"username": b"u", "password": b"p", "bearerToken": b"t0ken"})
    assert auth == GitAuth(bearer="t0ken")
    assert auth.authorization == "Bearer t0ken"


def test_tls_material_has_current_and_legacy_names():
    data = {"ca.crt": b"CA", "caFile": b"old", "tls.crt": b"C", "tls.key": b"K"}
    assert git_auth(HTTPS, data) == GitAuth(ca=b"CA", client_cert=b"C", client_key=b"K")
    assert git_auth(HTTPS, {"caFile": b"old"}).ca == b"old"


def test_A13_credentials_that_cannot_be_used_are_named():
    reason, message = refused(HTTPS, {"password": b"p"})
    assert reason == "AuthenticationFailed"
    assert message.endswith("invalid 'https' auth option: 'password' requires 'username' to be set")
    assert refused("http://h/a", {"password": b"p"})[1].endswith(
        "invalid 'http' auth option: 'password' requires 'username' to be set"
    )
    reason, message = refused("https://u:p@example.com/a", {"bearerToken": b"t"})
    assert reason == "GitOperationFailed"
    assert message.endswith("basic auth and bearer token cannot be set at the same time")
    assert refused(HTTPS, {"tls.crt": b"C"})[0] == "AuthenticationFailed"
    assert refused(HTTPS, {"bearerToken": b"a\r\nX: y"})[0] == "AuthenticationFailed"


def test_A13_ssh_needs_an_identity_and_known_hosts():
    for data, key in [(None, "identity"), ({}, "identity"), ({"identity": b"x"}, "known_hosts")]:
        reason, message = refused(SSH, data)
        assert reason == "AuthenticationFailed"
        assert message == f"failed to configure authentication options: invalid 'ssh' auth option: '{key}' is required"


def test_ssh_user_is_that_of_the_url_else_git():
    data = {"identity": b"I", "known_hosts": b"K", "password": b"pw", "username": b"ignored"}
    assert git_auth(SSH, data) == GitAuth(username="git", identity=b"I", known_hosts=b"K", passphrase="pw")
    assert git_auth("ssh://bob@example.com/a", data).username == "bob"


@pytest.mark.parametrize("form", ["openssh", "pkcs8-pem"])
def test_s5_7_an_encrypted_identity_needs_a_password(form):
    """spec/source.md 5.7"""
    locked = KEY.export_private_key(form, passphrase="sesame", rounds=50)
    data = {"identity": locked, "known_hosts": b"K"}
    assert refused(SSH, data, secret="ns/creds") == (
        "AuthenticationFailed",
        "SSH identity key is encrypted but no 'password' field was provided in the secret 'ns/creds'",
    )
    assert git_auth(SSH, {**data, "password": b"sesame"}).passphrase == "sesame"
    assert not is_encrypted_key(KEY.export_private_key(form))
    assert not is_encrypted_key(b"-----BEGIN OPENSSH PRIVATE KEY-----\n???\n-----END OPENSSH PRIVATE KEY-----")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({}, "'address' is missing"),
        ({"address": b"ftp://p"}, "scheme 'ftp'"),
        ({"address": b"http://p:x"}, "cannot be parsed"),
        ({"address": b"http://" + b"a" * 3000}, "longer than 2048"),
        ({"address": b"http://p", "password": b"s3cret"}, "requires 'username'"),
    ],
)
def test_A35_a_proxy_secret_that_cannot_be_used_is_refused(data, part):
    reason, message = refused(HTTPS, None, proxy=data)
    assert reason == "AuthenticationFailed"
    assert message.startswith("failed to configure proxy options: ")
    assert part in message
    assert "s3cret" not in message


def test_A35_a_proxy_may_have_a_user_without_password():
    auth = git_auth(HTTPS, None, proxy={"address": b"socks5://p", "username": b"u"})
    assert auth.proxy is not None
    assert (auth.proxy.url, auth.proxy.username, auth.proxy.password) == ("socks5://p:1080", "u", "")


def test_A12_credentials_over_plain_http_can_be_forbidden():
    url = parse("http://h/a")
    for auth, text in [
        (GitAuth(username="u", password="p"), "basic auth cannot be sent over HTTP"),
        (GitAuth(bearer="t"), "bearer token cannot be sent over HTTP"),
    ]:
        with pytest.raises(FetchError) as caught:
            refuse_plain_http(url, auth)
        assert caught.value.reason == "GitOperationFailed"
        assert caught.value.message == f"failed to checkout and determine revision: {text}"
    with pytest.raises(FetchError, match="URL cannot contain credentials when using HTTP"):
        refuse_plain_http(parse("http://u:p@h/a"), GitAuth())
    refuse_plain_http(url, GitAuth())
    refuse_plain_http(parse("https://h/a"), GitAuth(bearer="t"))


def test_A11_secrets_are_in_no_representation_and_can_be_masked_in_every_form():
    secret = "p@ss/w0rd+x"
    auth = git_auth(
        HTTPS,
        {"username": b"u", "password": secret.encode()},
        proxy={"address": b"http://p", "username": b"u", "password": b"pr0xypass"},
    )
    assert secret not in repr(auth)
    assert "pr0xypass" not in repr(auth)
    text = (
        f"{secret} p%40ss%2Fw0rd%2Bx p%40ss/w0rd%2Bx {auth.authorization} pr0xypass {auth.proxy.url_with_credentials}"
    )
    shown = mask(text, auth.secrets)
    for part in ("ss/w0rd", "ss%2Fw0rd", auth.authorization.split()[1], "pr0xypass"):
        assert part not in shown


@pytest.mark.parametrize("limit", [11, 12, 20, 40, 200, 254, 255, 256, 299, 300, 310, 900])
def test_A29_a_secret_that_a_quote_cuts_off_is_masked_too(limit):
    secret = "".join(chr(ord("a") + (7 * at + at // 26) % 26) for at in range(300))
    shown = mask(printable(f"{secret} is no good", limit), [secret])
    assert secret[:8] not in shown
    assert "***" in shown


def test_what_only_begins_like_a_secret_stays():
    assert mask("password-less, and password-l", ["password-long"]) == "password-less, and password-l"
    assert mask("passwor..., password..., passwords...", ["password-long"]) == "passwor..., ***..., passwords..."
