"""`gitopsd check` and `gitopsd version`: what is installed, and is it fit (`spec/cli.md` 3 and 11).

What is installed is known by labels and image tags alone; there is no version API. A part that cannot be read is
told and does not keep the others from being looked at.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from gitopsd.api.meta import KUSTOMIZE_GROUP, PART_OF_LABEL, VERSION_LABEL
from gitopsd.cli import console, session
from gitopsd.cli.flags import DURATION, CommandError, Verb, split_commas
from gitopsd.cli.objects import states
from gitopsd.cli.session import Session
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, get_in, labels_of

if TYPE_CHECKING:
    from gitopsd.kube.client import KubeClient

OLDEST_KUBERNETES = ">=1.33.0-0"
PART_OF_FLUX = f"{PART_OF_LABEL}=flux"

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_GIT_REPOSITORIES = f"{_CRDS}/gitrepositories.source.toolkit.fluxcd.io"
# Items of a list do not say what they are.
_DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment"}
_BOOTSTRAP_LABEL = f"{KUSTOMIZE_GROUP}/namespace"


def deployments_path(namespace: str) -> str:
    """The API path of the Deployments of a namespace."""
    return f"/apis/apps/v1/namespaces/{namespace}/deployments"


async def labelled(client: KubeClient, path: str) -> list[Obj]:
    """Everything at `path` that says it is part of the installation."""
    found: list[Obj] = []
    async for page in client.list_pages(path, params={"labelSelector": PART_OF_FLUX}):
        found.extend(page.get("items") or [])
    return found


def distribution(crd: Obj) -> str:
    """What the CRD's labels say is installed, empty when they say nothing."""
    labels = labels_of(crd)
    version = labels.get(VERSION_LABEL, "")
    part_of = labels.get(PART_OF_LABEL, "")
    return f"{part_of}-{version}" if part_of else version


def split_image(image: str) -> tuple[str, str]:
    """The base name of an image and its tag (with a digest that follows it). Raises CommandError without a tag."""
    base = image.rpartition("/")[2]
    before_digest, at, digest = base.partition("@")
    name, colon, tag = before_digest.partition(":")
    if not colon or not tag:
        raise CommandError(f"missing image tag in image {image}")
    return name, tag + at + digest


async def run_check(at: Session, *, only_prerequisites: bool) -> None:
    """Look at everything and say what is wrong; the error at the end is only the summary."""
    console.action("checking prerequisites")
    is_well = await _check_kubernetes(at)
    if only_prerequisites:
        if not is_well:
            raise CommandError("check failed")
        console.success("prerequisites checks passed")
        return
    console.action("checking version in cluster")
    is_well &= await _check_distribution(at)
    console.action("checking controllers")
    is_well &= await _check_controllers(at)
    console.action("checking crds")
    is_well &= await _check_crds(at)
    if not is_well:
        raise CommandError("check failed")
    console.success("all checks passed")


async def _check_kubernetes(at: Session) -> bool:
    try:
        version = str((await at.client.get("/version")).get("gitVersion") or "")
    except GitopsdError as error:
        console.failure(f"Kubernetes API call failed: {error}")
        return False
    from gitopsd.versions import Range, Version, VersionError

    try:
        found = Version.parse(version)
    except VersionError:
        console.failure("Kubernetes version can't be determined")
        return False
    if not Range.parse(OLDEST_KUBERNETES).matches(found):
        console.failure(f"Kubernetes version {version} does not match {OLDEST_KUBERNETES}")
        return False
    console.success(f"Kubernetes {found} {OLDEST_KUBERNETES}")
    return True


async def _check_distribution(at: Session) -> bool:
    try:
        crd = await at.client.get(_GIT_REPOSITORIES, metadata_only=True)
    except GitopsdError as error:
        console.failure(f"checking failed: {error}")
        return False
    if found := distribution(crd):
        console.success(f"distribution: {found}")
    console.success(f"bootstrapped: {'true' if _BOOTSTRAP_LABEL in labels_of(crd) else 'false'}")
    return True


async def _check_controllers(at: Session) -> bool:
    try:
        deployments = await labelled(at.client, deployments_path(at.namespace))
    except GitopsdError as error:
        # Not a failure of the installation: whoever asks may not be allowed to look.
        console.warning(f"the controllers cannot be listed: {error}")
        return True
    if not deployments:
        console.failure(
            f"no controllers found in the '{at.namespace}' namespace with the label selector '{PART_OF_FLUX}'"
        )
        return False
    verdicts = await asyncio.gather(*(_readiness(at, _name(deployment)) for deployment in deployments))
    for deployment, verdict in zip(deployments, verdicts, strict=True):
        say = console.success if verdict == "ready" else console.failure
        say(f"{_name(deployment)}: deployment {verdict}")
        for container in get_in(deployment, "spec", "template", "spec", "containers", default=[]):
            console.action(str(container.get("image") or ""))
    return all(verdict == "ready" for verdict in verdicts)


async def _readiness(at: Session, name: str) -> str:
    """`ready` as soon as it is; else, when the time is up, what it was last."""
    from gitopsd.krm.kstatus import Status, assess

    verdict = "not found"
    try:
        async with asyncio.timeout(at.flags.timeout) as limit:
            async with aclosing(states(at.client, deployments_path(at.namespace), name)) as stream:
                async for deployment in stream:
                    if deployment is not None and assess({**_DEPLOYMENT, **deployment}).status is Status.CURRENT:
                        return "ready"
                    verdict = "not found" if deployment is None else "not ready"
    except TimeoutError:
        if not limit.expired():
            raise
    return verdict


async def _check_crds(at: Session) -> bool:
    try:
        crds = await labelled(at.client, _CRDS)
    except GitopsdError as error:
        console.warning(f"the crds cannot be listed: {error}")
        return True
    if not crds:
        console.failure(f"no crds found with the label selector '{PART_OF_FLUX}'")
        return False
    is_well = True
    for crd in crds:
        versions = get_in(crd, "status", "storedVersions", default=[])
        if versions:
            console.success(f"{_name(crd)}/{versions[-1]}")
        else:
            console.failure(f"no stored versions for {_name(crd)}")
            is_well = False
    return is_well


def _name(obj: Obj) -> str:
    return str(get_in(obj, "metadata", "name", default=""))


async def installed_versions(at: Session) -> dict[str, str]:
    """What runs in the cluster: the distribution, and the tag of every image."""
    from gitopsd.kube.errors import NotFoundError

    found: dict[str, str] = {}
    try:
        said = distribution(await at.client.get(_GIT_REPOSITORIES, metadata_only=True))
    except NotFoundError:
        said = ""
    if said:
        found["distribution"] = said
    deployments = await labelled(at.client, deployments_path(at.namespace))
    if not deployments:
        raise CommandError(f"no deployments found in {at.namespace} namespace")
    for deployment in deployments:
        for container in get_in(deployment, "spec", "template", "spec", "containers", default=[]):
            name, tag = split_image(str(container.get("image") or ""))
            found[name] = tag
    return found


def _print_versions(versions: Mapping[str, Any], output: str) -> None:
    from gitopsd.cli.output import as_json, as_yaml

    console.out(as_json(versions) if output == "json" else as_yaml(versions))


def _check(*, pre: bool, components: tuple[str, ...], components_extra: tuple[str, ...], poll_interval: float) -> None:
    # Accepted as flux accepts them, and as without effect: what is installed is found by its labels, and waits are
    # watches.
    del components, components_extra, poll_interval
    session.run(lambda at: run_check(at, only_prerequisites=pre), limited=False)


def _version(*, client: bool, output: str) -> None:
    if output not in {"yaml", "json"}:
        raise CommandError(f"--output must be json or yaml, not {output}")
    own = {"flux": f"v{importlib.metadata.version('gitopsd')}"}
    if client:
        _print_versions(own, output)
        return

    async def print_all(at: Session) -> None:
        _print_versions({**own, **await installed_versions(at)}, output)

    session.run(print_all)


check = Verb(
    "check",
    callback=_check,
    help="Check what gitopsd needs, and whether it is well.",
    params=[
        click.Option(["--pre"], is_flag=True, help="only what is needed before an installation"),
        click.Option(["--components"], multiple=True, callback=split_commas, hidden=True),
        click.Option(["--components-extra"], multiple=True, callback=split_commas, hidden=True),
        click.Option(["--poll-interval"], type=DURATION, default=5.0, hidden=True),
    ],
)

version = Verb(
    "version",
    callback=_version,
    help="Print the versions of the CLI and of what is installed.",
    params=[
        click.Option(["--client"], is_flag=True, help="only the CLI's own"),
        click.Option(["-o", "--output"], default="yaml", metavar="yaml|json"),
    ],
)
