"""GitRepositories in the pipeline: spec/source.md 5.1 to 5.4, 5.7 and 11.1."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from gitopsd.artifact.folder import Step
from gitopsd.artifact.store import StoreError
from gitopsd.errors import RetryError, StallError
from gitopsd.fetch.cloud.identity import GitCloudAuth
from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.fetch.git import GitRef
from gitopsd.runtime.controller import Result
from tests.signing import commit_object
from tests.unit.controllers.gitbench import Bench

APP = {"githubAppID": "1", "githubAppPrivateKey": "key", "githubAppInstallationID": "2"}
CHECKOUT = "failed to checkout and determine revision: "
AUTH = "failed to configure authentication options: "
GATE = "--feature-gates=ObjectLevelWorkloadIdentity=true"
SHA = "a" * 40


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench.opened(tmp_path) as bench:
        yield bench


@pytest.fixture(scope="module")
def encrypted():
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key(passphrase="secret")


async def fails(bench, reason, kind=RetryError, condition="FetchFailed"):
    """A run that ends in a condition: told once, and the artifact stays."""
    before = bench.status().get("artifact")
    outcome = await bench.run()
    assert type(outcome) is kind, outcome
    assert outcome.reason == reason
    status, shown, message = bench.condition(condition)
    assert (status, shown) == ("True", reason)
    assert bench.condition("Ready") == ("False", reason, message)
    assert bench.events == [("Warning", reason, message)]
    assert bench.status().get("artifact") == before
    if kind is StallError:
        assert bench.condition("Stalled") == ("True", reason, message)
        assert bench.condition("Reconciling") is None
        assert bench.status()["observedGeneration"] == bench.cache.list()[0]["metadata"]["generation"]
    else:
        assert bench.condition("Reconciling")[:2] == ("True", "ProgressingWithRetry")
        assert bench.condition("Stalled") is None
    return message


async def asked(bench, **spec):
    """The request that an object makes."""
    bench.apply(**spec)
    await bench.good()
    return bench.remote.requests[0]


# -- 5.1 ---------------------------------------------------------------------------------------------------------------


async def test_s5_1_defaults(bench):
    request = await asked(bench, ref=None)
    assert request.ref == GitRef()
    assert request.timeout == 60.0
    assert (request.recurse_submodules, request.sparse, request.ignore, request.leave_out) == (False, (), None, True)
    assert not request.is_foreign


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({"url": "http://git.example.com/a"}, "url", "http://git.example.com/a"),
        ({"timeout": "1m30s"}, "timeout", 90.0),
        ({"ref": {"branch": "b"}}, "ref", GitRef(branch="b")),
        ({"ref": {"tag": "t"}}, "ref", GitRef(tag="t")),
        ({"ref": {"semver": ">=1.0.0"}}, "ref", GitRef(semver=">=1.0.0")),
        ({"ref": {"name": "refs/pull/1/head"}}, "ref", GitRef(name="refs/pull/1/head")),
        ({"ref": {"commit": SHA}}, "ref", GitRef(commit=SHA)),
        ({"ignore": "*.txt"}, "ignore", "*.txt"),
        ({"recurseSubmodules": True}, "recurse_submodules", True),
        ({"sparseCheckout": ["./charts", "b"]}, "sparse", ("./charts", "b")),
        ({"include": [{"repository": {"name": "lib"}}]}, "leave_out", False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_s5_1_each_field_reaches_the_fetch(bench, spec, field, value):
    bench.apply("lib")
    await bench.good("lib")
    assert getattr(await asked(bench, **spec), field) == value


async def test_s5_1_secret_ref_and_proxy_are_the_credentials(bench):
    bench.secret("creds", {"username": "u", "password": "p"})
    bench.secret("proxy", {"address": "http://proxy:3128"})
    request = await asked(bench, secretRef={"name": "creds"}, proxySecretRef={"name": "proxy"})
    assert (request.auth.username, request.auth.password) == ("u", "p")
    assert request.auth.proxy.port == 3128


async def test_s5_1_the_interval_is_the_pause_give_or_take(bench):
    bench.apply(interval="10m")
    outcome = await bench.run()
    assert isinstance(outcome, Result)
    assert 570 <= outcome.again_in <= 630
    bench.apply(interval="0s")
    assert (await bench.run()).again_in is None


async def test_s5_1_suspended_nothing_is_done(bench):
    bench.apply(suspend=True)
    assert await bench.run() == Result()
    assert bench.remote.asked == []


# -- 5.2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({}, "observedGeneration", 1),
        ({"ignore": "*.txt"}, "observedIgnore", "*.txt"),
        ({"ignore": ""}, "observedIgnore", ""),
        ({}, "observedIgnore", None),
        ({"recurseSubmodules": True}, "observedRecurseSubmodules", True),
        ({"recurseSubmodules": False}, "observedRecurseSubmodules", None),
        ({"sparseCheckout": ["a"]}, "observedSparseCheckout", ["a"]),
        ({}, "observedSparseCheckout", None),
        ({}, "observedInclude", None),
        ({}, "includedArtifacts", None),
        ({}, "sourceVerificationMode", None),
        ({}, "url", None),
    ],
)
async def test_s5_2_what_the_status_says_of_an_artifact(bench, spec, field, value):
    bench.apply(**spec)
    await bench.good()
    assert bench.status().get(field) == value
    artifact = bench.status()["artifact"]
    assert artifact["revision"] == f"main@sha1:{bench.remote.sha}"
    assert artifact["path"] == f"gitrepository/ns/app/{bench.remote.sha}.tar.gz"


async def test_s5_2_what_was_observed_changes_only_with_the_artifact(bench):
    bench.apply(ignore="one")
    await bench.good()
    bench.remote.failure = FetchError("GitOperationFailed", CHECKOUT + "gone")
    bench.apply(ignore="two")
    await fails(bench, "GitOperationFailed")
    assert bench.status()["observedIgnore"] == "one"
    assert bench.status()["observedGeneration"] == 1


# -- 5.3 ---------------------------------------------------------------------------------------------------------------

FIELDS = {"commit": SHA, "name": "refs/heads/n", "tag": "v1.0.0", "semver": ">=1.0.0", "branch": "b"}


@pytest.mark.parametrize("first", range(5), ids=list(FIELDS))
def test_s5_3_s14_the_first_of_commit_name_tag_semver_branch_counts(first):
    names = list(FIELDS)[first:]
    ref = GitRef(**{name: FIELDS[name] for name in names})
    alone = GitRef(**{names[0]: FIELDS[names[0]]})
    if names[0] == "commit":
        assert ref.wanted_commit == SHA
        assert ref.pinned_revision == f"refs/heads/n@sha1:{SHA}"
        assert GitRef(commit=SHA, branch="b").pinned_revision == f"b@sha1:{SHA}"
        assert GitRef(commit=SHA, tag="v1.0.0", semver="*").pinned_revision == f"sha1:{SHA}"
        return
    assert ref.pinned_revision is None
    assert ref.is_range == alone.is_range == (names[0] == "semver")
    assert ref.is_branch == alone.is_branch == (names[0] == "branch")
    if not ref.is_range:
        assert (ref.reference, ref.label) == (alone.reference, alone.label)


@pytest.mark.parametrize(
    ("ref", "label"),
    [
        (None, "master"),
        ({"branch": "feature/x"}, "feature/x"),
        ({"tag": "v1.0.0"}, "v1.0.0"),
        ({"name": "refs/pull/420/head"}, "refs/pull/420/head"),
        ({"name": "refs/tags/v1.1.0^{}"}, "refs/tags/v1.1.0^{}"),
    ],
)
async def test_s4_2_s5_3_revisions_begin_with_what_was_asked_for(bench, ref, label):
    bench.apply(ref=ref)
    await bench.good()
    revision = f"{label}@sha1:{bench.remote.sha}"
    assert bench.status()["artifact"]["revision"] == revision
    assert bench.condition("ArtifactInStorage") == ("True", "Succeeded", f"stored artifact for revision '{revision}'")


# -- 5.4 ---------------------------------------------------------------------------------------------------------------


async def test_s5_4_an_unchanged_remote_is_only_listed(bench):
    bench.apply()
    await bench.good()
    before = bench.status()
    await bench.good()
    assert bench.remote.asked == ["resolve"]
    assert bench.events == []
    assert bench.status() == before


async def test_s5_4_who_asks_is_told_that_nothing_moved(bench):
    bench.apply()
    await bench.good()
    obj = bench.cache.list()[0]
    obj["metadata"]["annotations"] = {"reconcile.fluxcd.io/requestedAt": "now"}
    await bench.good()
    text = f"no changes since last reconciliation: observed revision 'main@sha1:{bench.remote.sha}'"
    assert bench.events == [("Trace", "GitOperationSucceeded", text)]
    assert bench.status()["lastHandledReconcileAt"] == "now"


async def test_s5_4_a_failure_ends_without_a_fetch_and_is_told_as_a_recovery(bench):
    bench.apply()
    await bench.good()
    bench.remote.failure = FetchError("GitOperationFailed", CHECKOUT + "gone")
    await fails(bench, "GitOperationFailed")
    bench.remote.failure = None
    await bench.good()
    assert bench.remote.asked == ["resolve"]
    assert bench.condition("FetchFailed") is None
    revision = f"main@sha1:{bench.remote.sha}"
    assert bench.events == [("Normal", "Succeeded", f"stored artifact for commit '{revision}'")]
    assert bench.condition("ArtifactInStorage") == ("True", "Succeeded", f"stored artifact for revision '{revision}'")


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ({}, {"ignore": ""}, True),
        ({"ignore": ""}, {"ignore": None}, True),
        ({"ignore": "a"}, {"ignore": "b"}, True),
        ({}, {"recurseSubmodules": True}, True),
        ({"recurseSubmodules": True}, {"recurseSubmodules": None}, True),
        ({}, {"sparseCheckout": ["a"]}, True),
        ({"sparseCheckout": ["a", "b"]}, {"sparseCheckout": ["b", "a"]}, True),
        ({}, {"url": "https://example.com/other.git"}, False),
        ({}, {"timeout": "10s", "interval": "1m"}, False),
        ({"ref": {"branch": "main"}}, {"ref": {"branch": "main", "tag": ""}}, False),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
async def test_s5_4_settings_that_make_the_content_make_it_anew(bench, before, after, again):
    bench.apply(**before)
    await bench.good()
    bench.apply(**after)
    await bench.good()
    assert bench.remote.asked == (["resolve", "fetch"] if again else ["resolve"])
    assert bench.status()["observedGeneration"] == 2


async def test_s5_4_the_same_revision_with_other_rules_is_a_new_artifact(bench):
    bench.remote.files = {"a.yaml": b"a", "b.txt": b"b"}
    bench.apply()
    await bench.good()
    first = bench.status()["artifact"]
    bench.apply(ignore="*.txt")
    await bench.good()
    second = bench.status()["artifact"]
    assert second["path"] == first["path"]
    assert second["digest"] != first["digest"]
    assert bench.events == [("Normal", "NewArtifact", "stored artifact for commit 'first'")]
    assert bench.condition("ArtifactOutdated") is None


async def test_s5_4_a_lost_artifact_is_made_again(bench, tmp_path):
    bench.apply()
    await bench.good()
    await asyncio.to_thread(lambda: [path.unlink() for path in tmp_path.rglob("*.tar.gz")])
    await bench.good()
    assert bench.remote.asked == ["resolve", "fetch"]


async def test_s5_4_what_moves_back_between_listing_and_fetch_is_no_new_artifact(bench):
    bench.apply()
    await bench.good()
    old = bench.remote.commit
    bench.remote.commit, bench.remote.moves_to = commit_object("second"), old
    await bench.good()
    assert bench.remote.asked == ["resolve", "fetch"]
    assert bench.events == []


async def test_s2_6_a_new_revision_is_told_by_its_subject_cut_at_fifty(bench):
    bench.apply()
    await bench.good()
    bench.remote.commit = commit_object("another commit of the same files")
    await bench.good()
    assert bench.events == []
    bench.remote.commit, bench.remote.files = commit_object("ä" * 50), {"a.yaml": b"1"}
    await bench.good()
    assert bench.events == [("Normal", "NewArtifact", f"stored artifact for commit '{'ä' * 50}'")]
    bench.remote.commit, bench.remote.files = commit_object("ä" * 51 + "\n\nbody"), {"a.yaml": b"2"}
    await bench.good()
    assert bench.events[-1:] == [("Normal", "NewArtifact", f"stored artifact for commit '{'ä' * 50}...'")]


# -- 5.7 ---------------------------------------------------------------------------------------------------------------


async def test_s5_7_a_proxy_secret_that_cannot_be_used(bench):
    bench.apply(proxySecretRef={"name": "nope"})
    text = "failed to configure proxy options: failed to get secret 'ns/nope': secrets \"nope\" not found"
    assert await fails(bench, "AuthenticationFailed") == text
    bench.secret("proxy", {"address": "ftp://x"})
    bench.apply(proxySecretRef={"name": "proxy"})
    assert (await fails(bench, "AuthenticationFailed")).startswith("failed to configure proxy options: ")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com:port/app.git",
        "git://example.com/app.git",
        "file:///etc",
        "ext::sh -c touch% x",
        "-oProxyCommand=x",
        "ssh://-oProxyCommand=x/r",
        "ssh://host/$(id)'",
        "ssh://host/a\nb",
    ],
)
async def test_s5_7_A14_A15_an_address_that_got_past_the_schema_stalls(bench, url):
    bench.apply(url=url)
    message = await fails(bench, "URLInvalid", StallError)
    assert message.startswith("failed to parse url '")
    assert bench.remote.asked == []


async def test_s5_7_a_secret_that_is_not_there_is_named_twice(bench):
    bench.apply(secretRef={"name": "nope"})
    text = "failed to get secret 'ns/nope': failed to get secret 'ns/nope': secrets \"nope\" not found"
    assert await fails(bench, "AuthenticationFailed") == text


@pytest.mark.parametrize(
    ("url", "data", "text"),
    [
        ("https://x/a", {"password": "p"}, "invalid 'https' auth option: 'password' requires 'username' to be set"),
        ("https://x/a", {"tls.crt": "c"}, "invalid 'https' auth option: 'tls.crt' and 'tls.key' must be set together"),
        ("ssh://x/a", {"known_hosts": "x"}, "invalid 'ssh' auth option: 'identity' is required"),
        ("ssh://x/a", {"identity": "x"}, "invalid 'ssh' auth option: 'known_hosts' is required"),
        ("ssh://x/a", None, "invalid 'ssh' auth option: 'identity' is required"),
    ],
)
async def test_s5_7_s11_1_credentials_that_cannot_be_used(bench, url, data, text):
    bench.secret("creds", data or {})
    bench.apply(url=url, secretRef=None if data is None else {"name": "creds"})
    assert await fails(bench, "AuthenticationFailed") == AUTH + text


async def test_s5_7_an_encrypted_identity_without_password(bench, encrypted):
    bench.secret("creds", {"identity": encrypted, "known_hosts": "x"})
    bench.apply(url="ssh://x/a", secretRef={"name": "creds"})
    text = "SSH identity key is encrypted but no 'password' field was provided in the secret 'ns/creds'"
    assert await fails(bench, "AuthenticationFailed") == text


NO_APP = "secretRef with github app data must be specified when provider is set to github"


async def test_s5_7_github_without_secret_stalls(bench):
    bench.apply(provider="github")
    assert await fails(bench, "InvalidProviderConfiguration", StallError) == NO_APP


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"username": "u", "password": "p"},
        {"githubAppID": ""},
        {"githubAppID": "1", "githubAppInstallationID": "2"},
        {"githubAppPrivateKey": "key", "githubAppInstallationID": "2"},
    ],
)
async def test_s5_7_github_with_another_secret_is_tried_again(bench, data):
    bench.secret("creds", data)
    bench.apply(provider="github", secretRef={"name": "creds"})
    assert await fails(bench, "InvalidProviderConfiguration") == NO_APP


@pytest.mark.parametrize(
    "data", [APP, APP | {"username": "u", "password": "p"}, {"githubAppClientID": "x", "githubAppPrivateKey": "key"}]
)
@pytest.mark.parametrize("provider", [None, "generic"])
async def test_s5_7_an_app_without_its_provider_is_tried_again(bench, provider, data):
    bench.secret("creds", data)
    bench.apply(provider=provider, secretRef={"name": "creds"})
    text = "secretRef 'ns/creds' has github app data but provider is not set to github"
    assert await fails(bench, "InvalidProviderConfiguration") == text


@pytest.mark.parametrize("provider", ["aws", "azure"])
async def test_s5_7_an_account_of_its_own_needs_the_feature_gate(bench, provider):
    bench.apply(provider=provider, serviceAccountName="robot")
    assert await fails(bench, "FeatureGateDisabled", StallError) == (
        "to use spec.serviceAccountName for provider authentication please enable the ObjectLevelWorkloadIdentity"
        " feature gate in the controller"
    )


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("GitOperationFailed", CHECKOUT + "unable to clone 'https://x/a': couldn't find remote ref"),
        ("EmptyGitRepository", "git repository is empty"),
        (
            "GitOperationFailed",
            "failed to sparse checkout directories : sparse checkout dir 'x' does not exist in repository: no",
        ),
    ],
)
@pytest.mark.parametrize("when", ["resolve", "fetch"])
async def test_s5_7_what_the_client_reports_is_the_condition(bench, reason, message, when, monkeypatch):
    bench.apply()
    await bench.good()
    bench.remote.commit = commit_object("second")

    async def broken(*_, **__):
        raise FetchError(reason, message)

    monkeypatch.setattr(bench.remote, when, broken)
    assert await fails(bench, reason) == message
    assert bench.condition("ArtifactInStorage")[0] == "True"


@pytest.mark.parametrize(
    ("step", "reason", "text"),
    [
        (Step.DIRECTORY, "DirectoryCreationFailed", "failed to create artifact directory: no space (x)"),
        (Step.WRITE, "ArchiveOperationFailed", "unable to archive artifact to storage: no space (x)"),
    ],
)
async def test_s5_7_a_storage_that_fails(bench, step, reason, text, monkeypatch):
    async def full(*_, **__):
        raise StoreError("no space (x)", step)

    bench.apply()
    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "put", full)
        assert await fails(bench, reason, condition="StorageOperationFailed") == text
    await bench.good()
    assert bench.condition("StorageOperationFailed") is None


async def test_s5_7_C09_ignore_rules_that_cannot_be_used(bench):
    bench.remote.files = {".sourceignore": b"a*b\n" * 400_000}
    bench.apply()
    message = await fails(bench, "SourceIgnoreError", condition="StorageOperationFailed")
    assert message.startswith("failed to load source ignore patterns from repository: ")


# -- 11.1 and 11.2 -----------------------------------------------------------------------------------------------------


async def test_s11_1_basic(bench):
    bench.secret("creds", {"username": "u", "password": "p"})
    auth = (await asked(bench, secretRef={"name": "creds"})).auth
    assert (auth.username, auth.password, auth.bearer) == ("u", "p", "")


async def test_s11_1_user_info_of_the_address_fills_in(bench):
    bench.secret("creds", {"username": "u"})
    auth = (await asked(bench, url="https://x:topsecret@example.com/a", secretRef={"name": "creds"})).auth
    assert (auth.username, auth.password) == ("u", "topsecret")
    assert "topsecret" not in str(bench.status())


async def test_s11_1_bearer(bench):
    bench.secret("creds", {"bearerToken": "t", "username": "u", "password": "p"})
    auth = (await asked(bench, secretRef={"name": "creds"})).auth
    assert (auth.username, auth.password, auth.bearer) == ("", "", "t")
    bench.apply(url="https://x:y@example.com/a")
    text = CHECKOUT + "basic auth and bearer token cannot be set at the same time"
    assert await fails(bench, "GitOperationFailed") == text


@pytest.mark.parametrize(("entry", "read"), [("ca.crt", True), ("caFile", True), ("certFile", False)])
async def test_s11_1_tls(bench, entry, read):
    bench.secret("creds", {entry: "CA", "tls.crt": "C", "tls.key": "K"})
    auth = (await asked(bench, secretRef={"name": "creds"})).auth
    assert auth.ca == (b"CA" if read else b"")
    assert (auth.client_cert, auth.client_key) == (b"C", b"K")


async def test_s11_1_ssh(bench, encrypted):
    bench.secret("creds", {"identity": encrypted, "known_hosts": "h", "password": "secret"})
    auth = (await asked(bench, url="ssh://example.com/a", secretRef={"name": "creds"})).auth
    assert (auth.username, auth.identity, auth.known_hosts, auth.passphrase) == ("git", encrypted, b"h", "secret")
    assert (await asked(bench, url="ssh://me@example.com/a")).auth.username == "me"


async def test_s11_1_proxy(bench):
    bench.secret("proxy", {"address": "socks5://proxy:1080", "username": "u"})
    proxy = (await asked(bench, proxySecretRef={"name": "proxy"})).auth.proxy
    assert (proxy.scheme, proxy.host, proxy.port, proxy.username) == ("socks5", "proxy", 1080, "u")


class Cloud:
    """Clouds that give out what they are told to, and remember who asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    async def _give(self, *question):
        self.asked.append(question)
        if inspect.isfunction(self.answer):
            return await self.answer()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def github_app(self, data, url, identity):
        return await self._give(dict(data), url, identity)

    async def git(self, provider, url, identity):
        return await self._give(provider, url, identity)


def cloudy(bench, answer):
    cloud = Cloud(answer)
    bench.cloud.__dict__.update({"github_app": cloud.github_app, "git": cloud.git})
    return cloud


async def test_s11_1_github_app(bench):
    cloud = cloudy(bench, "installation-token")
    bench.secret("creds", APP | {"ca.crt": "CA", "tls.crt": "C", "tls.key": "K"})
    bench.secret("proxy", {"address": "http://proxy:3128"})
    spec = {"provider": "github", "secretRef": {"name": "creds"}, "proxySecretRef": {"name": "proxy"}}
    auth = (await asked(bench, **spec)).auth
    assert (auth.username, auth.password, auth.bearer) == ("x-access-token", "installation-token", "")
    assert auth.ca == b"CA"
    ((data, url, identity),) = cloud.asked
    assert data["githubAppID"] == b"1"
    assert url == "https://example.com/app.git"
    assert (identity.kind, identity.namespace, identity.name) == ("GitRepository", "ns", "app")
    assert (identity.tls.ca, identity.tls.cert, identity.tls.key) == (b"CA", b"C", b"K")
    assert identity.proxy == auth.proxy is not None
    assert "installation-token" not in repr(auth)


@pytest.mark.parametrize("error", [ValueError("the key is no key"), RemoteError("it said no")])
async def test_s11_1_a_github_app_that_gets_no_token(bench, error):
    cloudy(bench, error)
    bench.secret("creds", APP)
    bench.apply(provider="github", secretRef={"name": "creds"})
    assert await fails(bench, "AuthenticationFailed") == f"{AUTH}{error}"


@pytest.mark.parametrize("provider", ["aws", "azure"])
@pytest.mark.parametrize("answer", [GitCloudAuth("u", "p"), GitCloudAuth(bearer="t")])
async def test_s11_2_clouds_give_the_credentials(bench, provider, answer):
    cloud = cloudy(bench, answer)
    bench.secret("creds", {"username": "mine", "password": "mine", "ca.crt": "CA"})
    auth = (await asked(bench, provider=provider, secretRef={"name": "creds"})).auth
    assert (auth.username, auth.password, auth.bearer) == (answer.username, answer.password, answer.bearer)
    assert auth.ca == b"CA"
    ((asked_of, url, identity),) = cloud.asked
    assert (asked_of, url) == (provider, "https://example.com/app.git")
    assert (identity.service_account, identity.token) == ("", None)
    assert identity.tls.ca == b""  # what a tenant trusts must not decide who sees the daemon's identity


@pytest.mark.parametrize(
    ("flags", "spec"),
    [((GATE,), {"serviceAccountName": "robot"}), ((GATE, "--default-source-service-account=robot"), {})],
    ids=["named", "default"],
)
async def test_s11_2_an_account_of_its_own_is_used(tmp_path, flags, spec):
    async with Bench.opened(tmp_path, *flags) as bench:
        cloud = cloudy(bench, GitCloudAuth(bearer="t"))
        bench.account("robot", {"azure.workload.identity/client-id": "x"})
        await asked(bench, provider="azure", **spec)
        identity = cloud.asked[0][2]
        assert identity.service_account == "robot"
        assert identity.annotations == {"azure.workload.identity/client-id": "x"}
        assert await identity.token("audience") == "made"
        path, body = bench.api.created[0]
        assert path == "/api/v1/namespaces/ns/serviceaccounts/robot/token"
        assert body["spec"]["audiences"] == ["audience"]


async def test_s11_2_an_account_that_is_not_there(tmp_path):
    async with Bench.opened(tmp_path, GATE) as bench:
        cloudy(bench, GitCloudAuth())
        bench.apply(provider="aws", serviceAccountName="robot")
        assert await fails(bench, "AuthenticationFailed") == f'{AUTH}serviceaccounts "robot" not found'


@pytest.mark.parametrize("provider", ["aws", "azure"])
async def test_s11_2_a_cloud_that_says_no(bench, provider):
    cloudy(bench, RemoteError("it said no"))
    bench.apply(provider=provider)
    assert await fails(bench, "AuthenticationFailed") == f"{AUTH}it said no"


async def test_s11_2_a_cloud_that_says_nothing_is_given_up_at_the_timeout(bench):
    async def never():
        await asyncio.Event().wait()

    cloudy(bench, never)
    bench.apply(provider="aws", timeout="10ms")
    assert await fails(bench, "AuthenticationFailed") == f"{AUTH}no answer within 0.01s"


async def test_A42_who_may_share_what_was_fetched_with_tokens(tmp_path):
    """Tokens change all the time; the account behind them is what has to be equal."""
    async with Bench.opened(tmp_path, GATE) as bench:
        cloudy(bench, GitCloudAuth(bearer="t"))
        bench.account("robot", {})
        accounts = {
            (await asked(bench, provider="azure")).account,
            (await asked(bench, provider="aws")).account,
            (await asked(bench, provider="aws", serviceAccountName="robot")).account,
        }
        cloudy(bench, "token")
        for data in (APP, APP | {"githubAppPrivateKey": "forged"}):
            bench.secret("creds", data)
            spec = {"provider": "github", "serviceAccountName": None, "secretRef": {"name": "creds"}}
            accounts.add((await asked(bench, **spec)).account)
        assert len(accounts) == 5
        assert not any("forged" in account for account in accounts)
        assert (await asked(bench, provider=None, secretRef=None)).account == ""


async def test_A12_a_token_over_plain_http_can_be_forbidden(tmp_path):
    async with Bench.opened(tmp_path, "--insecure-allow-http=false") as bench:
        cloudy(bench, "token")
        bench.secret("creds", APP)
        bench.apply(url="http://example.com/a", provider="github", secretRef={"name": "creds"})
        assert await fails(bench, "GitOperationFailed") == f"{CHECKOUT}basic auth cannot be sent over HTTP"
        assert bench.remote.asked == []
