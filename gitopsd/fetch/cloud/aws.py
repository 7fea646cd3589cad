"""AWS: keys from wherever this pod gets its identity, and what they open: ECR, CodeCommit and S3.

Theory of operation. Keys come from the first of: the environment, a web identity (IRSA), a container's endpoint (ECS,
EKS Pod Identity), the machine's role (IMDSv2 only). An object's own identity is always a web identity: the role that
its ServiceAccount's annotation names, proven by that account's token. The region is part of the address that is to be
opened, so that a pod without `AWS_REGION` can still use its machine's role.

Knows these endpoints and their forms; refuses to know caches and objects. Invariants: a token of ours goes to AWS, or
to where the environment says, never to an address that an object chose; metadata never goes through a proxy.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from gitopsd.fetch.cloud.answers import read_token_file, seconds_until, token_in
from gitopsd.fetch.cloud.endpoint import (
    LOCAL_PATIENCE,
    Reply,
    Request,
    Surroundings,
    ask,
    ask_machine,
    form,
    read_xml,
    towards,
)
from gitopsd.fetch.cloud.identity import AwsKeys, GitCloudAuth, Identity, Issued, NoCredentialsError
from gitopsd.fetch.cloud.sigv4 import Scope, codecommit_password, sign
from gitopsd.fetch.errors import RemoteError, printable

AUDIENCE = "sts.amazonaws.com"
ROLE_ANNOTATION = "eks.amazonaws.com/role-arn"
PUBLIC_REGISTRY = "public.ecr.aws"
# The public registry gives out tokens in this region only.
_PUBLIC_REGION = "us-east-1"
_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "us-iso-": "c2s.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
}
_REGISTRY = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\."
    r"(?:amazonaws\.com(?:\.cn)?|on\.aws|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
_CODECOMMIT = re.compile(r"git-codecommit(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_REPOSITORY = re.compile(r"/v1/repos/[^/]+")
_STS = re.compile(r"https://(?:[a-z0-9-]+\.)*sts(?:-fips)?(?:\.[a-z0-9-]+)?(?:\.vpce)?\.amazonaws\.com(?:\.cn)?/?")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{1,30}:role/[!-~]{1,200}")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_LONGEST_SESSION = 64
_METADATA = "http://169.254.169.254"
_CONTAINER = "http://169.254.170.2"
# Where the endpoint of a container may be besides https: the machine itself, and the addresses of ECS and EKS.
_CONTAINER_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
_METADATA_SECONDS = "21600"
_STATIC_LIFETIME = 3600.0
# CodeCommit accepts a signature for a quarter of an hour.
_SIGNATURE_LIFETIME = 900.0


@dataclass(frozen=True)
class Place:
    """Which STS is asked: that of a region, or the one at `endpoint`, which an object may name."""

    region: str
    endpoint: str = ""


def registry_region(host: str) -> str:
    """The region of a registry. Raises RemoteError for a host that is no registry of AWS."""
    if host == PUBLIC_REGISTRY:
        return _PUBLIC_REGION
    found = _REGISTRY.fullmatch(host)
    if found is None:
        raise RemoteError(f"invalid AWS registry: '{printable(host, 256)}'")
    return found[1]


def codecommit_region(url: str) -> str:
    """The region of a CodeCommit repository. Raises RemoteError for a URL that is none."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise RemoteError("invalid AWS CodeCommit URL") from None
    if parts.scheme != "https":
        raise RemoteError("AWS CodeCommit needs an https URL")
    found = _CODECOMMIT.fullmatch(host)
    if found is None or _REPOSITORY.fullmatch(parts.path) is None:
        raise RemoteError(f"invalid AWS CodeCommit URL: '{printable(host + parts.path, 256)}'")
    return found[1]


class Aws:
    """The provider `aws`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    # -- who we are

    async def keys(self, identity: Identity, place: Place) -> Issued[AwsKeys]:
        """Keys for the object's identity, or else the daemon's. Raises RemoteError."""
        self._check(place)
        if identity.service_account:
            return await self._keys_of_account(identity, place)
        variable = self._around.variable
        if variable("AWS_ACCESS_KEY_ID") and variable("AWS_SECRET_ACCESS_KEY"):
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            return Issued(AwsKeys(*map(variable, names)), _STATIC_LIFETIME)
        if variable("AWS_ROLE_ARN") and variable("AWS_WEB_IDENTITY_TOKEN_FILE"):
            token = await read_token_file(variable("AWS_WEB_IDENTITY_TOKEN_FILE"), "AWS web identity")
            session = variable("AWS_ROLE_SESSION_NAME") or f"gitopsd-{int(self._around.now())}"
            return await self._assume(identity, place, variable("AWS_ROLE_ARN"), session, token)
        if variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            return await self._keys_of_container()
        return await self._keys_of_machine()

    def _check(self, place: Place) -> None:
        if place.endpoint and _STS.fullmatch(place.endpoint) is None:
            raise RemoteError(f"invalid STS endpoint: '{printable(place.endpoint, 256)}' is none of AWS")
        if place.region and _REGION.fullmatch(place.region) is None:
            raise RemoteError(f"invalid AWS region: '{printable(place.region, 128)}'")

    async def _keys_of_account(self, identity: Identity, place: Place) -> Issued[AwsKeys]:
        if not place.region:
            raise RemoteError("the identity of a ServiceAccount needs an AWS region: set one in the object's spec")
        role = identity.annotations.get(ROLE_ANNOTATION, "")
        if _ROLE.fullmatch(role) is None:
            raise RemoteError(
                f"ServiceAccount '{identity.namespace}/{identity.service_account}': annotation '{ROLE_ANNOTATION}' "
                f"holds no role: '{printable(role, 256)}'"
            )
        if identity.token is None:
            raise RemoteError("there is no token for the ServiceAccount")
        session = f"{identity.service_account}.{identity.namespace}.{place.region}.fluxcd.io"
        return await self._assume(identity, place, role, session[:_LONGEST_SESSION], await identity.token(AUDIENCE))

    async def _assume(self, identity: Identity, place: Place, role: str, session: str, token: str) -> Issued[AwsKeys]:
        what = "AWS STS"
        values = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": role,
            "RoleSessionName": session,
            "WebIdentityToken": token,
        }
        request = form(
            what, self._sts(place), values, headers={"Accept": "text/xml"}, access=towards(identity), secrets=(token,)
        )
        reply = await ask(self._around.web, request)
        tree = read_xml(reply.body)
        found = None if tree is None else tree.find(".//{*}Credentials")
        if found is None:
            raise RemoteError(f"{what}: the answer has no credentials")
        fields = {child.tag.rpartition("}")[2]: child.text or "" for child in found}
        return self._issued({**fields, "Token": fields.get("SessionToken")}, what)

    def _sts(self, place: Place) -> str:
        configured = place.endpoint or self._endpoint("STS")
        if configured:
            return configured.rstrip("/") + "/"
        region = place.region or self._region()
        return f"https://sts.{region}.{_suffix(region)}/"

    def _region(self) -> str:
        region = self._around.variable("AWS_REGION") or self._around.variable("AWS_DEFAULT_REGION")
        if not region:
            raise RemoteError("no AWS region: neither the object nor AWS_REGION in the daemon's environment names one")
        return region

    def _endpoint(self, service: str) -> str:
        return self._around.variable(f"AWS_ENDPOINT_URL_{service}") or self._around.variable("AWS_ENDPOINT_URL")

    async def _keys_of_container(self) -> Issued[AwsKeys]:
        variable, what = self._around.variable, "AWS container credentials"
        url = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if relative := variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
            url = _CONTAINER + relative
        elif not _is_container_endpoint(url):
            raise RemoteError(f"{what}: AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor of this machine")
        token = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if file := variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            token = await read_token_file(file, what)
        headers = {"Authorization": token} if token else {}
        reply = await ask(
            self._around.local, Request(what, url, "GET", headers, secrets=(token,), patience=LOCAL_PATIENCE)
        )
        return self._issued(reply.fields(), what)

    async def _keys_of_machine(self) -> Issued[AwsKeys]:
        """IMDSv2; the version before it, which any redirected request can ask, is not used."""
        if self._around.variable("AWS_EC2_METADATA_DISABLED").lower() == "true":
            raise NoCredentialsError("the daemon has no AWS identity: nothing in its environment, metadata disabled")
        base = (self._around.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA).rstrip("/")
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": _METADATA_SECONDS}
        session = (await self._metadata("PUT", f"{base}/latest/api/token", lifetime)).text()
        headers, secrets = {"X-aws-ec2-metadata-token": session}, (session,)
        roles = f"{base}/latest/meta-data/iam/security-credentials/"
        role = (await self._metadata("GET", roles, headers, secrets)).text()
        reply = await self._metadata("GET", roles + quote(role, safe=""), headers, secrets)
        return self._issued(reply.fields(), reply.what)

    async def _metadata(
        self, method: str, url: str, headers: Mapping[str, str], secrets: tuple[str, ...] = ()
    ) -> Reply:
        request = Request("AWS metadata service", url, method, headers, secrets=secrets, patience=LOCAL_PATIENCE)
        return await ask_machine(self._around.local, request, "AWS")

    def _issued(self, fields: Mapping[str, Any], what: str) -> Issued[AwsKeys]:
        keys = AwsKeys(
            token_in(fields, "AccessKeyId", what),
            token_in(fields, "SecretAccessKey", what),
            token_in(fields, "Token", what) if fields.get("Token") else "",
        )
        return Issued(keys, seconds_until(fields.get("Expiration"), self._around.now()))

    # -- what it opens

    async def registry(self, host: str, keys: AwsKeys, identity: Identity) -> Issued[tuple[str, str]]:
        """User name and password for ECR. Raises RemoteError."""
        what = "AWS ECR"
        region = registry_region(host)
        if host == PUBLIC_REGISTRY:
            service, target = "ecr-public", "SpencerFrontendService.GetAuthorizationToken"
        else:
            service, target = "ecr", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
        url = self._endpoint(service.upper().replace("-", "_")) or f"https://api.{service}.{region}.{_suffix(region)}"
        url = url.rstrip("/") + "/"
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        headers = sign(keys, Scope(region, service, self._around.now()), "POST", url, headers, b"{}")
        secrets = tuple(filter(None, (keys.secret_key, keys.session_token)))
        reply = await ask(
            self._around.web, Request(what, url, "POST", headers, b"{}", towards(identity), secrets=secrets)
        )
        found = reply.fields().get("authorizationData")
        found = found[0] if isinstance(found, list) and found else found
        if not isinstance(found, dict):
            raise RemoteError(f"{what}: the answer has no authorization data")
        ends = seconds_until(found.get("expiresAt"), self._around.now())
        return Issued(_pair(token_in(found, "authorizationToken", what), what), ends)

    def codecommit(self, url: str, keys: AwsKeys) -> Issued[GitCloudAuth]:
        """User name and password for a CodeCommit repository: nobody has to be asked. Raises RemoteError."""
        region = codecommit_region(url)
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        password = codecommit_password(keys, region, host, parts.path, self._around.now())
        username = f"{keys.access_key}%{keys.session_token}" if keys.session_token else keys.access_key
        return Issued(GitCloudAuth(username, password), _SIGNATURE_LIFETIME)


def _pair(token: str, what: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(token, validate=True).decode("ascii").partition(":")
    except (ValueError, binascii.Error):
        raise RemoteError(f"{what}: the authorization token cannot be read") from None
    if not (username and colon and password) or not (username + password).isprintable():
        raise RemoteError(f"{what}: the authorization token is no user name and password")
    return username, password


def _suffix(region: str) -> str:
    return next((suffix for prefix, suffix in _SUFFIXES.items() if region.startswith(prefix)), "amazonaws.com")


def _is_container_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _CONTAINER_HOSTS)
