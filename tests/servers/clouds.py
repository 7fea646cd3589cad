"""Stand-ins for the clouds' token endpoints: they check what they are shown as strictly as the real ones.

One server plays one cloud with all its hosts: a `CloudWeb` (an HttpClient) leads the real host names there, so that a
test also proves which addresses are asked when nothing is configured. Whatever may go wrong with an answer is a rule
of `LoopbackServer.behave`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gitopsd.fetch.http import Answer as HttpAnswer
from gitopsd.fetch.http import HttpClient
from tests.servers.loopback import Answer, LoopbackServer

HOUR = 3600


class CloudWeb(HttpClient):
    """Leads requests for the clouds' hosts to stand-ins; any other host but loopback is a failure of the test."""

    def __init__(self, hosts: Mapping[str, str]) -> None:
        super().__init__()
        self.hosts = dict(hosts)
        self.asked: list[str] = []

    def direct(self) -> HttpClient:
        """The same: what the machine itself answers is played by stand-ins too."""
        return self

    @asynccontextmanager
    async def request(self, method: str, url: str, **options: Any) -> AsyncIterator[HttpAnswer]:  # type: ignore[override]
        """Send a request to whoever stands in for its host."""
        parts = urlsplit(url)
        self.asked.append(f"{method} {parts.scheme}://{parts.netloc}{parts.path}")
        if parts.hostname != "127.0.0.1":
            assert parts.hostname in self.hosts, f"nobody stands in for {parts.hostname}"
            url = url.replace(f"{parts.scheme}://{parts.netloc}", self.hosts[parts.hostname], 1)
            options["headers"] = {**(options.get("headers") or {}), "X-Meant-For": parts.netloc}
        async with super().request(method, url, **options) as answer:
            yield answer


def json_answer(found: Any, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(found).encode())


def fields(seen_body: bytes) -> dict[str, str]:
    """The values of a web form."""
    return {name: values[0] for name, values in parse_qs(seen_body.decode()).items()}


def unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT."""
    head, body, _ = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    return json.loads(head), json.loads(body)


def verified(token: str, key: rsa.RSAPublicKey) -> dict[str, Any]:
    """The claims of a JWT that `key` signed. Raises InvalidSignature."""
    text, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    head, claims = unverified(token)
    pad = (
        padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        if head["alg"] == "PS256"
        else padding.PKCS1v15()
    )
    key.verify(raw, text.encode(), pad, hashes.SHA256())
    return claims


def jwt_like(claims: Mapping[str, Any]) -> str:
    """A token of the form of a JWT that nobody signed."""
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".eA"


def key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """A key as GitHub and Google hand it out."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


class StandIn(LoopbackServer):
    """What all stand-ins have: numbered tokens with a lifetime that tests may choose."""

    def __init__(self, name: str) -> None:
        self.lifetime: float = HOUR
        self.issued = 0
        super().__init__(name=name)

    def next_token(self, kind: str) -> str:
        self.issued += 1
        return f"CNRY-{kind}-{self.issued}-0123456789abcdef0123456789abcdef"

    def ends(self) -> float:
        return time.time() + self.lifetime

    def rfc3339(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.ends()))

    def web(self) -> CloudWeb:
        return CloudWeb(dict.fromkeys(self.hosts, self.url))

    hosts: tuple[str, ...] = ()


class AwsStandIn(StandIn):
    """STS, IMDSv2, the endpoint of containers and both ECRs. Keys it gave out are the ones that may sign."""

    hosts = (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "sts.eu-west-1.amazonaws.com",
        "sts.us-east-1.amazonaws.com",
        "sts.cn-north-1.amazonaws.com.cn",
        "api.ecr.eu-west-1.amazonaws.com",
        "api.ecr.us-east-1.amazonaws.com",
        "api.ecr-public.us-east-1.amazonaws.com",
    )

    def __init__(self) -> None:
        self.secrets: dict[str, tuple[str, str]] = {}
        self.web_tokens = {"CNRY-irsa-token-0123456789abcdef"}
        super().__init__("aws")

    def keys(self) -> dict[str, str]:
        token = self.next_token("aws-session")
        access = f"ASIA{self.issued:04d}"
        self.secrets[access] = (f"CNRY-aws-secret-{self.issued}", token)
        return {"AccessKeyId": access, "SecretAccessKey": self.secrets[access][0], "Token": token}

    async def answer(self, request: web.Request, path: str) -> Answer:
        if path.startswith("/latest/"):
            return self._metadata(request, path)
        if path.startswith("/container"):
            if request.headers.get("Authorization") not in {None, "CNRY-pod-identity-token"}:
                return Answer(403)
            return json_answer({**self.keys(), "Expiration": self.rfc3339(), "AccountId": "1"})
        if "X-Amz-Target" in request.headers:
            return await self._ecr(request)
        return self._sts(fields(await request.read()))

    def _metadata(self, request: web.Request, path: str) -> Answer:
        if path == "/latest/api/token":
            if request.method != "PUT" or "X-aws-ec2-metadata-token-ttl-seconds" not in request.headers:
                return Answer(400)
            return Answer(200, {}, b"CNRY-imds-session")
        if request.headers.get("X-aws-ec2-metadata-token") != "CNRY-imds-session":
            return Answer(401)
        role = path.removeprefix("/latest/meta-data/iam/security-credentials/")
        if not role:
            return Answer(200, {}, b"node-role")
        return json_answer({"Code": "Success", "Type": "AWS-HMAC", "Expiration": self.rfc3339(), **self.keys()})

    def _sts(self, given: Mapping[str, str]) -> Answer:
        if given.get("Action") != "AssumeRoleWithWebIdentity" or given.get("Version") != "2011-06-15":
            return _xml_error(400, "InvalidAction", "no such action")
        if given.get("WebIdentityToken") not in self.web_tokens:
            return _xml_error(403, "InvalidIdentityToken", f"not ours: {given.get('WebIdentityToken')}")
        keys = self.keys()
        texts = (
            f"<AccessKeyId>{keys['AccessKeyId']}</AccessKeyId>"
            f"<SecretAccessKey>{keys['SecretAccessKey']}</SecretAccessKey>"
            f"<SessionToken>{keys['Token']}</SessionToken><Expiration>{self.rfc3339()}</Expiration>"
        )
        body = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<AssumeRoleWithWebIdentityResult><Credentials>{texts}</Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        )
        return Answer(200, {"Content-Type": "text/xml"}, body.encode())

    async def _ecr(self, request: web.Request) -> Answer:
        service = "ecr" if request.headers["X-Amz-Target"].startswith("AmazonEC2ContainerRegistry") else "ecr-public"
        problem = self._check_signature(request, await request.read(), service)
        if problem:
            return json_answer({"__type": "UnrecognizedClientException", "message": problem}, 400)
        token = base64.b64encode(f"AWS:{self.next_token('ecr')}".encode()).decode()
        data = {"authorizationToken": token, "expiresAt": self.ends()}
        return json_answer({"authorizationData": [data] if service == "ecr" else data})

    def _check_signature(self, request: web.Request, body: bytes, service: str) -> str:
        """What is wrong with a request's signature; computed from what arrived, on its own."""
        _, _, text = request.headers["Authorization"].partition(" ")
        parts = dict(part.strip().split("=", 1) for part in text.split(","))
        access, *scope = parts["Credential"].split("/")
        secret, session = self.secrets.get(access, ("", ""))
        if request.headers.get("X-Amz-Security-Token", "") != session:
            return "the security token is not the key's"
        if scope[2] != service or scope[3] != "aws4_request":
            return "wrong scope"
        meant_for = {"host": request.headers.get("X-Meant-For", request.headers["Host"])}
        lines = [f"{name}:{meant_for.get(name) or request.headers[name]}" for name in parts["SignedHeaders"].split(";")]
        canonical = [request.method, "/", "", *lines, "", parts["SignedHeaders"], hashlib.sha256(body).hexdigest()]
        digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        key = f"AWS4{secret}".encode()
        date = request.headers["X-Amz-Date"]
        for part in (*scope, "\n".join(("AWS4-HMAC-SHA256", date, "/".join(scope), digest))):
            key = hmac.digest(key, part.encode(), "sha256")
        return "" if key.hex() == parts["Signature"] else "the signature does not match"


def _xml_error(status: int, code: str, message: str) -> Answer:
    body = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    )
    return Answer(status, {"Content-Type": "text/xml"}, body.encode())


class AzureStandIn(StandIn):
    """Entra ID, both managed identities and the exchange of a container registry."""

    tenant, client = "11111111-aaaa-4444-8888-000000000000", "22222222-bbbb-4444-8888-000000000000"
    hosts = ("login.microsoftonline.com", "169.254.169.254", "team.azurecr.io", "team.azurecr.cn")

    def __init__(self) -> None:
        self.secret = "CNRY-azure-client-secret"
        self.federated = {"CNRY-azure-federated-0123456789abcdef"}
        self.certificate_key: rsa.RSAPublicKey | None = None
        self.given: dict[str, str] = {}
        super().__init__("azure")

    async def answer(self, request: web.Request, path: str) -> Answer:
        if path == "/metadata/identity/oauth2/token":
            return self._managed(request, request.headers.get("Metadata") == "true", "2018-02-01")
        if path == "/msi/token":
            return self._managed(request, request.headers.get("X-IDENTITY-HEADER") == "CNRY-msi", "2019-08-01")
        given = fields(await request.read())
        if path == "/oauth2/exchange":
            return self._exchange(given)
        if path == f"/{self.tenant}/oauth2/v2.0/token":
            return self._token(given)
        return json_answer({"error": "invalid_tenant", "error_description": f"no tenant at {path}"}, 400)

    def _managed(self, request: web.Request, is_allowed: bool, version: str) -> Answer:
        if not is_allowed or request.query.get("api-version") != version:
            return json_answer({"error": "invalid_request", "error_description": "header or version missing"}, 400)
        token = self.next_token(f"managed-{request.query.get('client_id', 'system')}")
        self.given = dict(request.query)
        return json_answer({"access_token": token, "expires_in": str(int(self.lifetime)), "token_type": "Bearer"})

    def _token(self, given: dict[str, str]) -> Answer:
        self.given = given
        if given.get("client_id") != self.client or given.get("grant_type") != "client_credentials":
            return json_answer({"error": "unauthorized_client", "error_description": "AADSTS700016: unknown"}, 400)
        if not self._is_proven(given):
            said = f"AADSTS7000215: not valid: {given.get('client_secret') or given.get('client_assertion')}"
            return json_answer({"error": "invalid_client", "error_description": said}, 401)
        return json_answer({"access_token": self.next_token("aad"), "expires_in": self.lifetime})

    def _is_proven(self, given: Mapping[str, str]) -> bool:
        if "client_secret" in given:
            return given["client_secret"] == self.secret
        if given.get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
            return False
        if given["client_assertion"] in self.federated:
            return True
        try:
            assert self.certificate_key is not None
            claims = verified(given["client_assertion"], self.certificate_key)
        except (InvalidSignature, AssertionError, ValueError):
            return False
        return bool(claims["iss"] == claims["sub"] == self.client and claims["nbf"] <= time.time() < claims["exp"])

    def _exchange(self, given: dict[str, str]) -> Answer:
        if given.get("grant_type") != "access_token" or "CNRY-" not in given.get("access_token", ""):
            return json_answer({"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}, 401)
        self.issued += 1
        return json_answer({"refresh_token": jwt_like({"exp": self.ends(), "jti": f"CNRY-acr-{self.issued}"})})


class GoogleStandIn(StandIn):
    """The metadata server, STS, IAM credentials and the token endpoint for service accounts."""

    hosts = ("169.254.169.254", "sts.googleapis.com", "iamcredentials.googleapis.com", "oauth2.googleapis.com")
    email = "reader@project.iam.gserviceaccount.com"

    def __init__(self) -> None:
        self.subjects = {"CNRY-gke-token-0123456789abcdef"}
        self.key = rsa.generate_private_key(65537, 2048)
        self.given: dict[str, Any] = {}
        super().__init__("google")

    def key_file(self, **more: Any) -> bytes:
        """The JSON of a service account's key."""
        found = {
            "type": "service_account",
            "client_email": self.email,
            "private_key": key_pem(self.key).decode(),
            "private_key_id": "key-1",
            "token_uri": f"{self.url}/token",
        }
        return json.dumps(found | more).encode()

    async def answer(self, request: web.Request, path: str) -> Answer:
        if path.startswith("/computeMetadata/v1/"):
            if request.headers.get("Metadata-Flavor") != "Google":
                return Answer(403, {"Content-Type": "text/html"}, b"<html>Missing Metadata-Flavor</html>")
            return self._metadata(path.removeprefix("/computeMetadata/v1/"))
        if path == "/token":
            return self._account(fields(await request.read()))
        if path == "/v1/token":
            return self._sts(fields(await request.read()))
        if path == f"/v1/projects/-/serviceAccounts/{self.email}:generateAccessToken":
            if not request.headers.get("Authorization", "").startswith("Bearer CNRY-sts-"):
                return json_answer({"error": {"status": "UNAUTHENTICATED", "message": "who?"}}, 401)
            return json_answer({"accessToken": self.next_token("impersonated"), "expireTime": self.rfc3339()})
        return json_answer({"error": {"code": 404, "status": "NOT_FOUND", "message": "no such account"}}, 404)

    def _metadata(self, path: str) -> Answer:
        texts = {
            "project/project-id": "project",
            "instance/attributes/cluster-location": "europe-west1",
            "instance/attributes/cluster-name": "prod",
        }
        if path in texts:
            return Answer(200, {"Metadata-Flavor": "Google"}, texts[path].encode())
        if path != "instance/service-accounts/default/token":
            return Answer(404)
        return json_answer({"access_token": self.next_token("metadata"), "expires_in": self.lifetime})

    def _account(self, given: Mapping[str, str]) -> Answer:
        try:
            claims = verified(given["assertion"], self.key.public_key())
        except (InvalidSignature, KeyError, ValueError):
            return json_answer({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)
        self.given = claims
        if claims["iss"] != self.email or given["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return json_answer({"error": "invalid_grant", "error_description": "account not found"}, 400)
        return json_answer({"access_token": self.next_token("account"), "expires_in": self.lifetime})

    def _sts(self, given: dict[str, str]) -> Answer:
        self.given = given
        if given.get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange":
            return json_answer({"error": "unsupported_grant_type"}, 400)
        if given["subject_token"] not in self.subjects:
            said = f"The ID Token is not ours: {given['subject_token']}"
            return json_answer({"error": "invalid_grant", "error_description": said}, 400)
        return json_answer({"access_token": self.next_token("sts"), "expires_in": self.lifetime})


class GitHubStandIn(StandIn):
    """The API of GitHub Apps: one app, installed for an organisation and for a user."""

    hosts = ("api.github.com",)
    app_id, client_id = "4711", "Iv23liCanary"
    organisation, user = {"acme": 101}, {"jane": 202}

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.claims: dict[str, Any] = {}
        super().__init__("github")

    def secret(self, **more: str | None) -> dict[str, bytes]:
        """A Secret's data; what is None is left out."""
        found: dict[str, str | None] = {
            "githubAppID": self.app_id,
            "githubAppPrivateKey": key_pem(self.key).decode(),
            "githubAppInstallationID": "101",
        }
        return {name: value.encode() for name, value in (found | more).items() if value is not None}

    async def answer(self, request: web.Request, path: str) -> Answer:
        problem = self._check(request.headers.get("Authorization", ""))
        if problem:
            return json_answer({"message": problem}, 401)
        path = path.removeprefix("/api/v3")
        for prefix, owners in (("/orgs/", self.organisation), ("/users/", self.user)):
            owner = path.removeprefix(prefix).removesuffix("/installation")
            if path.startswith(prefix):
                return json_answer(
                    {"id": owners[owner]} if owner in owners else {"message": "Not Found"},
                    200 if owner in owners else 404,
                )
        number = path.removeprefix("/app/installations/").removesuffix("/access_tokens")
        if request.method != "POST" or number not in {"101", "202"}:
            return json_answer({"message": "Not Found"}, 404)
        return json_answer({"token": self.next_token(f"ghs-{number}"), "expires_at": self.rfc3339()}, 201)

    def _check(self, authorization: str) -> str:
        kind, _, token = authorization.partition(" ")
        try:
            claims = verified(token, self.key.public_key())
        except (InvalidSignature, ValueError):
            return f"A JSON web token could not be decoded: {token}"
        self.claims = claims
        if kind != "Bearer" or claims["iss"] not in {self.app_id, self.client_id}:
            return "Integration not found"
        if claims["exp"] - claims["iat"] > 600 or not claims["iat"] < time.time() < claims["exp"]:
            return "'Expiration time' claim is too far in the future"
        return ""
