"""One row for each kind: what it is called, where it lives, which columns it shows and how to read its status.

Verbs are written once, over these rows (`spec/cli.md` 2.4, 2.6, 4 and 5.5). Knows shapes of objects only; everything
here is pure. An absent field is an empty cell, never an error: objects may be older or younger than their controller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from gitopsd.api.meta import HELM_GROUP, KUSTOMIZE_GROUP, SOURCE_GROUP
from gitopsd.cli.flags import CommandError
from gitopsd.cli.table import shorten_hashes
from gitopsd.krm.objects import GVK, Obj, ObjectKey, get_in

Read = Callable[[Obj], str]
Column = tuple[str, Read]

# Groups that gitopsd has no controllers for: the verbs work where their CRDs exist.
NOTIFICATION_GROUP = "notification.toolkit.fluxcd.io"
IMAGE_GROUP = "image.toolkit.fluxcd.io"
EXTENSIONS_GROUP = "source.extensions.fluxcd.io"


def text_at(*path: str | int) -> Read:
    """A reader of the text at `path`, empty where there is none."""

    def read(obj: Obj) -> str:
        found = get_in(obj, *path, default="")
        return found if isinstance(found, str) else ""

    return read


def name_of(obj: Obj) -> str:
    """`metadata.name`."""
    return text_at("metadata", "name")(obj)


def namespace_of(obj: Obj) -> str:
    """`metadata.namespace`, empty when cluster-scoped."""
    return text_at("metadata", "namespace")(obj)


def condition(obj: Obj, kind: str) -> Mapping[str, object] | None:
    """The condition of type `kind`, compared without regard to case."""
    conditions = get_in(obj, "status", "conditions", default=[])
    for found in conditions if isinstance(conditions, list) else []:
        if isinstance(found, Mapping) and str(found.get("type", "")).lower() == kind.lower():
            return found
    return None


def is_suspended(obj: Obj) -> bool:
    """`spec.suspend`; absent means no."""
    return get_in(obj, "spec", "suspend", default=False) is True


def _suspended(obj: Obj) -> str:
    return str(is_suspended(obj))


def _never(_: Obj) -> bool:
    return False


def _always(_: Obj) -> bool:
    return True


def is_oci_helm_repository(obj: Obj) -> bool:
    """A HelmRepository that is only an address: nothing fetches it, so its status says nothing."""
    return bool(get_in(obj, "spec", "type", default="default") == "oci")


@dataclass(frozen=True)
class Kind:
    """How the verbs see one kind."""

    gvk: GVK
    plural: str
    human: str
    """What suspend, resume and delete call it."""
    word: str
    """The argument after `reconcile`, `suspend`, ...; below `family` where there is one."""
    get_word: str
    """The argument after `get`."""
    family: str = ""
    aliases: tuple[str, ...] = ()
    success: Read = field(default=lambda _: "")
    """What the last line of reconcile and resume says."""
    columns: tuple[Column, ...] = ()
    """Between NAME and READY."""
    source: Read | None = None
    """The cell that `--show-source` adds."""
    is_static: Callable[[Obj], bool] = _never
    """Nothing reconciles this object: it is ready by being there."""
    static_message: str = ""
    shorten_message: bool = True
    can_suspend: bool = True
    can_reconcile: bool = True

    @property
    def name(self) -> str:
        """The kind's own name."""
        return self.gvk.kind

    @property
    def resource(self) -> str:
        """`<plural>.<group>`, as the API server names it."""
        return f"{self.plural}.{self.gvk.group}"

    def path(self, namespace: str = "", name: str | None = None) -> str:
        """The API path of all objects, those of a namespace, or one. Raises CommandError for what cannot be a name."""
        path = f"/apis/{self.gvk.api_version}"
        if namespace:
            path += f"/namespaces/{namespace}"
        path += f"/{self.plural}"
        return path if name is None else f"{path}/{path_segment(name)}"

    def key(self, namespace: str, name: str) -> ObjectKey:
        """The identity of one object of this kind."""
        return ObjectKey(self.gvk.group, self.gvk.kind, namespace, name)

    def ready(self, obj: Obj) -> tuple[str, str]:
        """The READY and MESSAGE cells (`spec/cli.md` 2.6)."""
        if self.is_static(obj):
            return "True", self.static_message
        found = condition(obj, "Ready")
        if found is None:
            return "False", "waiting to be reconciled"
        message = str(found.get("message") or "")
        return str(found.get("status") or "False"), shorten_hashes(message) if self.shorten_message else message

    def matches(self, obj: Obj, kind: str, status: str) -> bool:
        """Whether the condition `kind` has `status`, both without regard to case."""
        if self.is_static(obj):
            return kind.lower() == "ready" and status.lower() == "true"
        found = condition(obj, kind)
        return found is not None and str(found.get("status", "")).lower() == status.lower()

    def headings(self, *, all_namespaces: bool, show_source: bool) -> list[str]:
        """The titles of a listing."""
        shown = ["Namespace"] if all_namespaces else []
        shown += ["Name"]
        shown += ["Source"] if show_source else []
        return [*shown, *(title for title, _ in self.columns), "Ready", "Message"]

    def row(self, obj: Obj, *, all_namespaces: bool, show_source: bool, with_kind: bool = False) -> list[str]:
        """The cells of one object; `with_kind` is the form of listings over several kinds."""
        shown = [namespace_of(obj)] if all_namespaces else []
        shown += [f"{self.name.lower()}/{name_of(obj)}" if with_kind else name_of(obj)]
        shown += [self.source(obj)] if show_source and self.source is not None else []
        return [*shown, *(read(obj) for _, read in self.columns), *self.ready(obj)]


def path_segment(name: str) -> str:
    """A name as part of a path: a crafted one must not reach another object or a whole collection."""
    if name in {"", ".", ".."} or "/" in name or "%" in name:
        raise CommandError(f'invalid resource name "{name}"')
    return quote(name, safe="")


def _short(read: Read) -> Read:
    return lambda obj: shorten_hashes(read(obj))


def _reference(obj: Obj, *path: str) -> str:
    found = get_in(obj, *path, default={})
    if not isinstance(found, Mapping) or not found:
        return ""
    return f"{found.get('kind', '')}/{found.get('namespace') or namespace_of(obj)}/{found.get('name', '')}"


def _source_reference(obj: Obj) -> str:
    return _reference(obj, "spec", "sourceRef")


def _release_source(obj: Obj) -> str:
    return _reference(obj, "spec", "chartRef") or _reference(obj, "spec", "chart", "spec", "sourceRef")


def release_revision(obj: Obj) -> str:
    """The chart version of a HelmRelease: of its newest release, else of its last attempt."""
    return text_at("status", "history", 0, "chartVersion")(obj) or text_at("status", "lastAttemptedRevision")(obj)


artifact_revision = text_at("status", "artifact", "revision")
applied_revision = text_at("status", "lastAppliedRevision")


def _fetched(obj: Obj) -> str:
    return f"fetched revision {artifact_revision(obj)}"


def _helm_repository_success(obj: Obj) -> str:
    if not is_oci_helm_repository(obj):
        return _fetched(obj)
    return _ready_message(obj) or "Helm repository is Ready"


def _ready_message(obj: Obj) -> str:
    return str((condition(obj, "Ready") or {}).get("message") or "")


def _scanned(obj: Obj) -> str:
    return f"scan fetched {get_in(obj, 'status', 'lastScanResult', 'tagCount', default=0)} tags"


def _selected(obj: Obj) -> str:
    latest = get_in(obj, "status", "latestRef", default={})
    digest = f"@{latest['digest']}" if latest.get("digest") else ""
    return f"selected ref {latest.get('name', '')}:{latest.get('tag', '')}{digest}"


_REVISION: Column = ("Revision", _short(artifact_revision))
_SUSPENDED: Column = ("Suspended", _suspended)


def _source(kind: str, plural: str, word: str) -> Kind:
    return Kind(
        gvk=GVK(SOURCE_GROUP, "v1", kind),
        plural=plural,
        human=f"source {word}",
        word=word,
        get_word=word,
        family="source",
        success=_fetched,
        columns=(_REVISION, _SUSPENDED),
    )


GIT_REPOSITORY = _source("GitRepository", "gitrepositories", "git")
OCI_REPOSITORY = _source("OCIRepository", "ocirepositories", "oci")
BUCKET = _source("Bucket", "buckets", "bucket")
HELM_REPOSITORY = Kind(
    gvk=GVK(SOURCE_GROUP, "v1", "HelmRepository"),
    plural="helmrepositories",
    human="source helm",
    word="helm",
    get_word="helm",
    family="source",
    success=_helm_repository_success,
    columns=(
        ("Revision", lambda obj: "" if is_oci_helm_repository(obj) else _short(artifact_revision)(obj)),
        _SUSPENDED,
    ),
    is_static=is_oci_helm_repository,
    static_message="Helm repository is Ready",
)
HELM_CHART = Kind(
    gvk=GVK(SOURCE_GROUP, "v1", "HelmChart"),
    plural="helmcharts",
    human="source chart",
    word="chart",
    get_word="chart",
    family="source",
    success=_fetched,
    columns=(("Revision", artifact_revision), _SUSPENDED),
)
EXTERNAL_ARTIFACT = Kind(
    gvk=GVK(SOURCE_GROUP, "v1", "ExternalArtifact"),
    plural="externalartifacts",
    human="source external-artifact",
    word="external",
    get_word="external",
    family="source",
    columns=(_REVISION, ("Source", _source_reference)),
    can_suspend=False,
    can_reconcile=False,
)
KUSTOMIZATION = Kind(
    gvk=GVK(KUSTOMIZE_GROUP, "v1", "Kustomization"),
    plural="kustomizations",
    human="kustomization",
    word="kustomization",
    get_word="kustomizations",
    aliases=("ks",),
    success=lambda obj: f"applied revision {applied_revision(obj)}",
    columns=(("Revision", _short(applied_revision)), _SUSPENDED),
    source=_source_reference,
)
HELM_RELEASE = Kind(
    gvk=GVK(HELM_GROUP, "v2", "HelmRelease"),
    plural="helmreleases",
    human="helmrelease",
    word="helmrelease",
    get_word="helmreleases",
    aliases=("hr",),
    success=lambda obj: f"applied revision {release_revision(obj)}",
    columns=(("Revision", release_revision), _SUSPENDED),
    source=_release_source,
    shorten_message=False,
)
ALERT = Kind(
    gvk=GVK(NOTIFICATION_GROUP, "v1beta3", "Alert"),
    plural="alerts",
    human="alert",
    word="alert",
    get_word="alerts",
    success=lambda _: "Alert reconciliation completed",
    columns=(_SUSPENDED,),
    is_static=_always,
    static_message="Alert is Ready",
    can_reconcile=False,
)
PROVIDER = Kind(
    gvk=GVK(NOTIFICATION_GROUP, "v1beta3", "Provider"),
    plural="providers",
    human="alert provider",
    word="alert-provider",
    get_word="alert-providers",
    success=lambda _: "Provider reconciliation completed",
    is_static=_always,
    static_message="Provider is Ready",
    can_reconcile=False,
)
RECEIVER = Kind(
    gvk=GVK(NOTIFICATION_GROUP, "v1", "Receiver"),
    plural="receivers",
    human="receiver",
    word="receiver",
    get_word="receivers",
    success=lambda _: "Receiver reconciliation completed",
    columns=(_SUSPENDED,),
)
IMAGE_REPOSITORY = Kind(
    gvk=GVK(IMAGE_GROUP, "v1", "ImageRepository"),
    plural="imagerepositories",
    human="image repository",
    word="repository",
    get_word="repository",
    family="image",
    success=_scanned,
    columns=(("Last scan", text_at("status", "lastScanResult", "scanTime")), _SUSPENDED),
)
IMAGE_POLICY = Kind(
    gvk=GVK(IMAGE_GROUP, "v1", "ImagePolicy"),
    plural="imagepolicies",
    human="image policy",
    word="policy",
    get_word="policy",
    family="image",
    success=_selected,
    columns=(("Image", text_at("status", "latestRef", "name")), ("Tag", text_at("status", "latestRef", "tag"))),
)
IMAGE_UPDATE = Kind(
    gvk=GVK(IMAGE_GROUP, "v1", "ImageUpdateAutomation"),
    plural="imageupdateautomations",
    human="image update automation",
    word="update",
    get_word="update",
    family="image",
    success=_ready_message,
    columns=(("Last run", text_at("status", "lastAutomationRunTime")), _SUSPENDED),
)
ARTIFACT_GENERATOR = Kind(
    gvk=GVK(EXTENSIONS_GROUP, "v1beta1", "ArtifactGenerator"),
    plural="artifactgenerators",
    human="artifact generator",
    word="generator",
    get_word="generators",
    family="artifact",
    columns=(_SUSPENDED,),
    can_suspend=False,
    can_reconcile=False,
)

ALL_SOURCES: Sequence[Kind] = (
    OCI_REPOSITORY,
    BUCKET,
    GIT_REPOSITORY,
    HELM_REPOSITORY,
    HELM_CHART,
    EXTERNAL_ARTIFACT,
)
ALL_IMAGES: Sequence[Kind] = (IMAGE_REPOSITORY, IMAGE_POLICY, IMAGE_UPDATE)
EVERYTHING: Sequence[Kind] = (
    *ALL_SOURCES,
    *ALL_IMAGES,
    HELM_RELEASE,
    KUSTOMIZATION,
    RECEIVER,
    PROVIDER,
    ALERT,
)
KINDS: Sequence[Kind] = (*EVERYTHING, ARTIFACT_GENERATOR)
STATISTICS: Sequence[Kind] = (
    GIT_REPOSITORY,
    OCI_REPOSITORY,
    HELM_REPOSITORY,
    HELM_CHART,
    BUCKET,
    KUSTOMIZATION,
    HELM_RELEASE,
    ALERT,
    PROVIDER,
    RECEIVER,
    IMAGE_UPDATE,
    IMAGE_POLICY,
    IMAGE_REPOSITORY,
)

BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}
