"""GitHub Apps: from an app's key to a token that reads the repositories of one of its installations.

Knows the keys of spec/source.md 11.1 and GitHub's API; refuses to know Git and caches. Invariant: the app's statement
about itself goes to the API's address only, and lives two minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from gitopsd.fetch.cloud import jwt
from gitopsd.fetch.cloud.answers import seconds_until, token_in
from gitopsd.fetch.cloud.endpoint import Reply, Request, Surroundings, ask
from gitopsd.fetch.cloud.identity import Identity, Issued
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Access
from gitopsd.tasks import offload

APP_ID, CLIENT_ID, PRIVATE_KEY = "githubAppID", "githubAppClientID", "githubAppPrivateKey"
OWNER, INSTALLATION, BASE_URL = "githubAppInstallationOwner", "githubAppInstallationID", "githubAppBaseURL"
GIT_USER = "x-access-token"

_API = "https://api.github.com"
# Clocks differ: the statement is dated half a minute back.
_DATED_BACK = 30
_LIFETIME = 120


def has_app_data(data: Mapping[str, bytes]) -> bool:
    """Whether a Secret describes a GitHub App: who it is, and its key (spec/source.md 5.7)."""
    return bool((APP_ID in data or CLIENT_ID in data) and PRIVATE_KEY in data)


@dataclass(frozen=True)
class App:
    """A GitHub App and the installation that is wanted: by its number, or by whose it is."""

    issuer: str
    key: bytes = field(repr=False)
    installation: str = ""
    owner: str = ""
    api: str = _API


def read_app(data: Mapping[str, bytes]) -> App:
    """Read a Secret's data. Raises ValueError, safe to show."""
    values = {name: _text(data, name) for name in (APP_ID, CLIENT_ID, OWNER, INSTALLATION, BASE_URL)}
    if not values[APP_ID] and not values[CLIENT_ID]:
        raise ValueError(f"key '{APP_ID}' is missing")
    if not data.get(PRIVATE_KEY):
        raise ValueError(f"key '{PRIVATE_KEY}' is missing")
    if bool(values[OWNER]) == bool(values[INSTALLATION]):
        raise ValueError(f"there must be exactly one of '{OWNER}' and '{INSTALLATION}'")
    for name in (APP_ID, INSTALLATION):
        if values[name] and not (values[name].isascii() and values[name].isdigit()):
            raise ValueError(f"'{name}' is no number")
    # As later releases of Flux have it, the client ID goes first where both are given.
    issuer = values[CLIENT_ID] or values[APP_ID]
    return App(issuer, data[PRIVATE_KEY], values[INSTALLATION], values[OWNER], _api(values[BASE_URL]))


def _text(data: Mapping[str, bytes], name: str) -> str:
    return data.get(name, b"").decode("utf-8", "replace").strip()


def _api(base: str) -> str:
    if not base:
        return _API
    try:
        parts = urlsplit(base)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment or not base.isprintable() or " " in base:
        raise ValueError(f"'{BASE_URL}' is no http or https URL")
    return base.rstrip("/")


class GitHubApps:
    """The provider `github`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def token(self, app: App, identity: Identity) -> Issued[str]:
        """An installation token. Raises RemoteError, and ValueError for a key or certificates that cannot be used."""
        moment = int(self._around.now()) - _DATED_BACK
        claims = {"iat": moment, "exp": moment + _LIFETIME, "iss": app.issuer}
        statement = await offload(lambda: jwt.signed(jwt.rsa_key(app.key), claims))
        access = Access(f"Bearer {statement}", identity.tls, identity.proxy)
        installation = app.installation or await self._installation(app, access)
        what = "GitHub App token"
        path = f"app/installations/{installation}/access_tokens"
        fields = (await self._ask(app, what, "POST", path, access)).fields()
        return Issued(token_in(fields, "token", what), seconds_until(fields.get("expires_at"), self._around.now()))

    async def _installation(self, app: App, access: Access) -> str:
        """The installation of an organisation, or else of a user."""
        for kind in ("orgs", "users"):
            path = f"{kind}/{quote(app.owner, safe='')}/installation"
            reply = await self._ask(app, "GitHub App installation", "GET", path, access)
            if reply.status == 404:
                continue
            found = reply.fields().get("id")
            if not isinstance(found, int) or isinstance(found, bool):
                raise RemoteError(f"{reply.what}: the answer has no 'id'")
            return str(found)
        raise RemoteError(
            f"GitHub App installation: neither an organisation nor a user '{printable(app.owner, 128)}' has one"
        )

    async def _ask(self, app: App, what: str, method: str, path: str, access: Access) -> Reply:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        expected = frozenset({404}) if method == "GET" else frozenset[int]()
        request = Request(what, f"{app.api}/{path}", method, headers, access=access, expected=expected)
        return await ask(self._around.web, request)
