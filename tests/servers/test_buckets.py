"""The storages themselves: what their vendors' clients think of them."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.servers.buckets import ACCESS_KEY, SECRET_KEY, GcsServer, LoopbackS3, S3Server


def client(address: str, keys: tuple[str, str], token: str | None = None):
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="eu-west-1",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        aws_session_token=token,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
    )


def test_the_vendors_client_lists_and_reads_what_the_loopback_storage_holds():
    with LoopbackS3(keys=(ACCESS_KEY, SECRET_KEY)) as server:
        server.page_size = 2
        server.bucket("b", {"a b": "1", "c+d/é": "22", "e": "333", "x": ""})
        s3 = client(server.url, (ACCESS_KEY, SECRET_KEY))
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="b")
        found = [(one["Key"], one["Size"]) for page in pages for one in page["Contents"]]
        assert found == [("a b", 1), ("c+d/é", 2), ("e", 3), ("x", 0)]
        assert s3.get_object(Bucket="b", Key="c+d/é")["Body"].read() == b"22"
        for wrong, token in (((ACCESS_KEY, "other"), None), ((ACCESS_KEY, SECRET_KEY), "token")):
            with pytest.raises(ClientError, match=r"403|SignatureDoesNotMatch"):
                client(server.url, wrong, token).list_objects_v2(Bucket="b")


def test_the_real_s3_server_refuses_wrong_signatures_once_it_is_told_to():
    with S3Server() as server:
        server.bucket("bucket", {"a": "1"})
        keys = server.check_signatures()
        assert client(f"http://{server.address}", keys).get_object(Bucket="bucket", Key="a")["Body"].read() == b"1"
        with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
            client(f"http://{server.address}", (keys[0], "other")).list_objects_v2(Bucket="bucket")


def test_the_stand_in_of_googles_storage_starts():
    with GcsServer() as server:
        server.bucket("b", {"a/b": "1"})
