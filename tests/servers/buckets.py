"""Storages for buckets: real S3 and Google Cloud servers in processes of their own, and three that do as they are told.

`S3Server` is moto, which checks signatures once it is told to, and `GcsServer` is a stand-in that others wrote. The
`Loopback…` storages keep objects in memory, count requests, speak TLS and misbehave when asked (`servers.trouble`);
they check what the protocols have clients prove, too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

import boto3
from aiohttp import web
from botocore.config import Config

from tests.apiclient import NotYetError
from tests.certificates import Authority
from tests.processes import Processes, free_port, quiet_environment
from tests.servers.loopback import Answer, LoopbackServer

ACCESS_KEY, SECRET_KEY = "AKIAGITOPSDTESTS", "CNRY-bucket-secret-key-0123456789abcdef"


class _Process:
    """A server in a process of its own."""

    def __init__(self, name: str, command: list[str]) -> None:
        self._processes = Processes(f"gitopsd-{name}")
        self._name = name
        self._command = [sys.executable, *command]
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, path: str = "/") -> None:
        command = [part.format(port=self.port) for part in self._command]
        self._processes.start(self._name, command, env=quiet_environment(AWS_EC2_METADATA_DISABLED="true"))
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5):
                    return
            except urllib.error.HTTPError:
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise NotYetError(f"{self._name} does not answer\n{self._processes.tail(self._name)}") from None
                time.sleep(0.05)

    def close(self) -> None:
        self._processes.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


class S3Server(_Process):
    """A real S3 server; `client` is the vendor's own client, for putting things there."""

    def __init__(self) -> None:
        super().__init__("s3", ["-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"])
        self.client: Any = None
        self.keys = (ACCESS_KEY, SECRET_KEY)

    def __enter__(self) -> Self:
        self.start("/moto-api/")
        self.client = self._client("s3", *self.keys)
        return self

    def _client(self, service: str, access_key: str, secret_key: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://{self.address}",
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def bucket(self, name: str, objects: Mapping[str, bytes | str] | None = None, region: str = "") -> None:
        """Create a bucket and put objects into it."""
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region else {}
        self.client.create_bucket(Bucket=name, **where)
        self.put(name, objects or {})

    def put(self, bucket: str, objects: Mapping[str, bytes | str]) -> None:
        for key, content in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=_raw(content))

    def delete(self, bucket: str, *keys: str) -> None:
        for key in keys:
            self.client.delete_object(Bucket=bucket, Key=key)

    def check_signatures(self) -> tuple[str, str]:
        """From now on only requests that a user signed are answered; returns the keys of one who may do everything."""
        iam = self._client("iam", *self.keys)
        iam.create_user(UserName="gitopsd")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="gitopsd", PolicyName="all", PolicyDocument=json.dumps(everything))
        key = iam.create_access_key(UserName="gitopsd")["AccessKey"]
        request = urllib.request.Request(
            f"http://{self.address}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass
        self.keys = (key["AccessKeyId"], key["SecretAccessKey"])
        self.client = self._client("s3", *self.keys)
        return self.keys


class GcsServer(_Process):
    """A server that speaks Google's JSON API."""

    def __init__(self) -> None:
        super().__init__(
            "gcs", ["-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", "--port={port}", "--in-memory"]
        )

    def __enter__(self) -> Self:
        self.start("/")
        return self

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def bucket(self, name: str, objects: Mapping[str, bytes | str] | None = None) -> None:
        self._send("POST", "/storage/v1/b?project=tests", json.dumps({"name": name}).encode(), "application/json")
        self.put(name, objects or {})

    def put(self, bucket: str, objects: Mapping[str, bytes | str]) -> None:
        for key, content in objects.items():
            path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
            self._send("POST", path, _raw(content), "application/octet-stream")

    def _send(self, method: str, path: str, body: bytes, content_type: str) -> None:
        request = urllib.request.Request(
            f"{self.endpoint}{path}", data=body, method=method, headers={"Content-Type": content_type}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass


def _raw(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


class Storage(LoopbackServer):
    """Base of the storages in memory: buckets, their objects, and what was asked for."""

    page_size = 1000

    def __init__(self, *, authority: Authority | None = None) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.etags: dict[tuple[str, str], str] = {}  # those that are not the content's digest
        self.gets: list[str] = []
        super().__init__(name="storage", authority=authority)

    def bucket(self, name: str, objects: Mapping[str, bytes | str] | None = None) -> dict[str, bytes]:
        """Create a bucket; the dict that is returned is what it holds."""
        self.buckets[name] = {key: _raw(content) for key, content in (objects or {}).items()}
        return self.buckets[name]

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def https_host(self) -> str:
        return self.https_url.removeprefix("https://")

    @property
    def mtls_host(self) -> str:
        return self.mtls_url.removeprefix("https://")

    def counted(self) -> tuple[int, list[str]]:
        """How many requests there were since the last time, and which objects were downloaded."""
        found = len(self.requests), [key for key in self.gets if key != ".sourceignore"]
        self.forget()
        self.gets.clear()
        return found

    def etag(self, bucket: str, key: str) -> str:
        chosen = self.etags.get((bucket, key))
        return chosen or hashlib.md5(self.buckets[bucket][key], usedforsecurity=False).hexdigest()

    def listed(self, bucket: str, prefix: str, token: str) -> tuple[list[str], str]:
        keys = sorted(key for key in self.buckets[bucket] if key.startswith(prefix) and key > token)
        page = keys[: self.page_size]
        return page, page[-1] if len(keys) > len(page) else ""

    def content(self, request: web.Request, bucket: str, key: str, condition: bool) -> Answer | None:
        """The content of an object; None when there is none, 412 when it is not the one that was meant."""
        content = self.buckets[bucket].get(key)
        if content is None:
            return None
        if not condition:
            return self.fault(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
        self.gets.append(key)
        wanted = request.headers.get("Range", "")
        if wanted:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            return Answer(206, {"Content-Type": "binary/octet-stream"}, content[start:])
        return Answer(200, {"Content-Type": "binary/octet-stream"}, content)

    def fault(self, status: int, code: str, message: str) -> Answer:
        raise NotImplementedError


def _error(code: str, message: str) -> bytes:
    text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()


class LoopbackS3(Storage):
    """Speaks S3 with addresses by path. With `keys`, requests must be signed by them (checked by botocore)."""

    def __init__(self, *, authority: Authority | None = None, keys: tuple[str, str] | None = None) -> None:
        self.keys = keys
        self.session_token = ""
        super().__init__(authority=authority)

    def fault(self, status: int, code: str, message: str) -> Answer:
        return Answer(status, {"Content-Type": "application/xml"}, _error(code, message))

    async def answer(self, request: web.Request, path: str) -> Answer:
        if self.keys is not None and not is_signed(request, *self.keys, self.session_token):
            return self.fault(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")
        bucket, _, key = unquote(request.rel_url.raw_path.lstrip("/")).partition("/")
        if bucket not in self.buckets:
            return self.fault(404, "NoSuchBucket", "The specified bucket does not exist")
        if key:
            wanted = request.headers.get("If-Match")
            matches = wanted is None or (key in self.buckets[bucket] and wanted == f'"{self.etag(bucket, key)}"')
            found = self.content(request, bucket, key, matches)
            return found or self.fault(404, "NoSuchKey", "The specified key does not exist.")
        if request.method == "HEAD":
            return Answer(200)
        query = request.rel_url.query
        keys, token = self.listed(bucket, query.get("prefix", ""), query.get("continuation-token", ""))
        return s3_page([(one, self.etag(bucket, one), len(self.buckets[bucket][one])) for one in keys], token)


def s3_page(entries: Iterable[tuple[str, str, int]], token: str = "", *, more: str = "") -> Answer:
    """A page of ListObjectsV2 with keys as `encoding-type=url` gives them."""
    rows = "".join(
        f"<Contents><Key>{quote(key, safe='/')}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, etag, size in entries
    )
    follows = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<EncodingType>url</EncodingType><IsTruncated>{str(bool(token)).lower()}</IsTruncated>{follows}{rows}{more}"
        "</ListBucketResult>"
    )
    return Answer(200, {"Content-Type": "application/xml"}, body.encode())


def is_signed(request: web.Request, access_key: str, secret_key: str, session_token: str = "") -> bool:
    """Whether the vendor's own client would have signed the request so."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    given = request.headers.get("Authorization", "")
    names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    if "host" not in names or request.headers.get("x-amz-security-token", "") != session_token:
        return False
    headers = {name: request.headers[name] for name in names if name != "host" and name in request.headers}
    url = f"{request.scheme}://{request.headers['Host']}{request.rel_url.raw_path_qs}"
    copy = AWSRequest(method=request.method, url=url, headers=headers)
    region = given.partition("Credential=")[2].split("/")[2] if "Credential=" in given else ""
    signer = S3SigV4Auth(Credentials(access_key, secret_key, session_token or None), "s3", region)
    copy.context["timestamp"] = request.headers.get("x-amz-date", "")
    canonical = signer.canonical_request(copy)
    signature = signer.signature(signer.string_to_sign(copy, canonical), copy)
    return hmac.compare_digest(given.partition("Signature=")[2], signature) and access_key in given


class LoopbackGcs(Storage):
    """Speaks Google's JSON API. With `token`, requests must carry it."""

    token = ""

    def fault(self, status: int, code: str, message: str) -> Answer:
        error = {"code": status, "message": message, "errors": [{"reason": code, "message": message}]}
        return Answer(status, {"Content-Type": "application/json"}, json.dumps({"error": error}).encode())

    async def answer(self, request: web.Request, path: str) -> Answer:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.fault(401, "authError", "Invalid Credentials")
        parts = request.rel_url.raw_path.split("/")[4:]
        bucket, key = unquote(parts[0]), unquote(parts[2]) if len(parts) > 2 else ""
        if bucket not in self.buckets:
            return self.fault(404, "notFound", "The specified bucket does not exist.")
        query = request.rel_url.query
        if key:
            wanted = query.get("ifGenerationMatch")
            matches = wanted is None or (key in self.buckets[bucket] and wanted == self.generation(bucket, key))
            return self.content(request, bucket, key, matches) or self.fault(404, "notFound", f"No such object: {key}")
        if len(parts) == 1:
            return Answer(200, {"Content-Type": "application/json"}, json.dumps({"name": bucket}).encode())
        keys, token = self.listed(bucket, query.get("prefix", ""), query.get("pageToken", ""))
        items = [self._item(bucket, one) for one in keys]
        page = {"items": items} | ({"nextPageToken": token} if token else {})
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(page).encode())

    def generation(self, bucket: str, key: str) -> str:
        return str(int(self.etag(bucket, key)[:12], 16))

    def _item(self, bucket: str, key: str) -> dict[str, str]:
        content = self.buckets[bucket][key]
        digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        etag = base64.b64encode(self.generation(bucket, key).encode()).decode()
        return {
            "name": key,
            "etag": etag,
            "size": str(len(content)),
            "generation": self.generation(bucket, key),
            "md5Hash": digest,
        }


class LoopbackAzure(Storage):
    """Speaks Azure's blob protocol, with the account in the host. It asks for what `key`, `token` or `sas` say."""

    account = "account"

    def __init__(self, *, authority: Authority | None = None) -> None:
        self.key = b""
        self.token = ""
        self.sas: Mapping[str, str] = {}
        self.left_out: Callable[[str], bool] = lambda _: False  # properties that listings do not tell
        super().__init__(authority=authority)

    def fault(self, status: int, code: str, message: str) -> Answer:
        body = "\ufeff".encode() + _error(code, message)
        return Answer(status, {"Content-Type": "application/xml", "x-ms-error-code": code}, body)

    async def answer(self, request: web.Request, path: str) -> Answer:
        if not self._may(request):
            return self.fault(403, "AuthenticationFailed", "Server failed to authenticate the request")
        container, _, key = unquote(request.rel_url.raw_path.lstrip("/")).partition("/")
        if container not in self.buckets:
            return self.fault(404, "ContainerNotFound", "The specified container does not exist.")
        if key:
            wanted = request.headers.get("If-Match")
            matches = wanted is None or (key in self.buckets[container] and wanted == f'"{self.etag(container, key)}"')
            found = self.content(request, container, key, matches)
            return found or self.fault(404, "BlobNotFound", "The specified blob does not exist.")
        query = request.rel_url.query
        keys, token = self.listed(container, query.get("prefix", ""), query.get("marker", ""))
        rows = "".join(self._row(container, one) for one in keys)
        body = (
            '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Prefix /><Blobs>'
            f"{rows}</Blobs><NextMarker>{escape(token)}</NextMarker></EnumerationResults>"
        )
        return Answer(200, {"Content-Type": "application/xml"}, body.encode())

    def _row(self, container: str, key: str) -> str:
        properties = {
            "Etag": self.etag(container, key),
            "Content-Length": str(len(self.buckets[container][key])),
            "BlobType": "BlockBlob",
        }
        told = "".join(f"<{name}>{value}</{name}>" for name, value in properties.items() if not self.left_out(name))
        return f"<Blob><Name>{escape(key)}</Name><Properties>{told}</Properties></Blob>"

    def _may(self, request: web.Request) -> bool:
        query = dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
        if any(query.get(name) != value for name, value in self.sas.items()):
            return False
        given = request.headers.get("Authorization", "")
        if self.token:
            return given == f"Bearer {self.token}"
        return not self.key or given == f"SharedKey {self.account}:{self._signature(request, query)}"

    def _signature(self, request: web.Request, query: Mapping[str, str]) -> str:
        """The signature as the service's documentation has it, for requests without a body."""
        headers = request.headers
        text = f"{request.method}\n\n\n\n\n\n\n\n{headers.get('If-Match', '')}\n\n\n{headers.get('Range', '')}\n"
        for name in sorted(name.lower() for name in headers if name.lower().startswith("x-ms-")):
            text += f"{name}:{headers[name]}\n"
        text += f"/{self.account}{request.rel_url.raw_path}"
        for name in sorted(query):
            text += f"\n{name}:{query[name]}"
        return base64.b64encode(hmac.new(self.key, text.encode(), hashlib.sha256).digest()).decode()


@contextlib.contextmanager
def instead(storage: Storage, pattern: Callable[[web.Request], bool] | str, *answers: Answer) -> Iterator[None]:
    """Give these answers, one after the other and the last for ever, to requests that match."""
    left = list(answers)

    async def rule(request: web.Request, ask: Any) -> Answer:
        found = left.pop(0) if len(left) > 1 else left[0]
        return Answer(found.status, found.headers, found.body, found.ending)

    with storage.behave(pattern, rule):
        yield


def is_listing(request: web.Request) -> bool:
    """A request of any protocol that lists objects."""
    return request.method == "GET" and (
        "list-type" in request.query or request.query.get("comp") == "list" or request.path.endswith("/o")
    )
