"""The kind of group kustomize.toolkit.fluxcd.io: a directory of a source that is built and applied.

Fields, defaults and rules of spec/kustomize.md 1.2 and 1.3, and the few values that follow from several fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from gitopsd.api.meta import (
    KUSTOMIZE_GROUP,
    SOURCE_GROUP,
    Condition,
    ConditionType,
    Duration,
    Int64,
    LocalObjectReference,
    Model,
    Time,
    parse_duration,
    require_durations,
)
from gitopsd.api.parts import (
    CommonMetadata,
    Dependency,
    HealthExpression,
    IgnoreRule,
    Image,
    Inventory,
    KubeConfig,
    NamespaceName,
    ObjectName,
    Patch,
)
from gitopsd.api.resource import AGE, READY, STATUS, Names, Resource
from gitopsd.krm import objects

VERSION: Final = "v1"
HISTORY_LIMIT: Final = 5
_TIMEOUT_MARGIN: Final = 30.0
_MIN_TIMEOUT: Final = 30.0
_DEFAULT_HEALTH_API_VERSION: Final = "apps/v1"


Affix = Annotated[str, Meta(min_length=1, max_length=200)]


class SourceReference(Model, frozen=True, kw_only=True):
    """Names the source whose files are built."""

    api_version: Annotated[str, Meta(description="API version of the source; not read.")] = ""
    kind: Annotated[
        Literal["OCIRepository", "GitRepository", "Bucket", "ExternalArtifact"], Meta(description="Kind of the source.")
    ]
    name: Annotated[str, Meta(description="Name of the source.")]
    namespace: Annotated[str, Meta(description="Namespace of the source; this object's own if not set.")] = ""


class Decryption(Model, frozen=True, kw_only=True):
    """How encrypted files are read."""

    provider: Annotated[Literal["sops"], Meta(description="Who decrypts; only `sops` is known.")]
    secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret with keys or credentials, in the same namespace.")
    ] = None
    service_account_name: Annotated[
        str, Meta(description="ServiceAccount whose workload identity opens a cloud's key management.")
    ] = ""


class SubstituteReference(Model, frozen=True, kw_only=True):
    """Names an object whose data are variables."""

    kind: Annotated[Literal["Secret", "ConfigMap"], Meta(description="Kind of the object.")]
    name: Annotated[ObjectName, Meta(description="Name of the object, in the same namespace.")]
    optional: Annotated[
        bool, Meta(description="Go on when the object is not there.", extra_json_schema={"default": False})
    ] = False


class PostBuild(Model, frozen=True, kw_only=True):
    """What happens to the text of the build."""

    substitute: Annotated[
        Mapping[str, str], Meta(description="Variables and their values; they win over those of substituteFrom.")
    ] = {}
    substitute_from: Annotated[
        tuple[SubstituteReference, ...],
        Meta(description="ConfigMaps and Secrets whose data are variables; later ones win."),
    ] = ()
    substitute_strategy: Annotated[
        Literal["WithVariables", "Always"] | None,
        Meta(description="Substitute only when there are variables (WithVariables, the default), or Always."),
    ] = None

    @property
    def is_unconditional(self) -> bool:
        """Substitution runs even without variables."""
        return self.substitute_strategy == "Always"


class HealthCheck(Model, frozen=True, kw_only=True):
    """Names an object to wait for."""

    api_version: Annotated[str, Meta(description="API version of the object; apps/v1 if not set.")] = ""
    kind: Annotated[str, Meta(description="Kind of the object.")]
    name: Annotated[str, Meta(description="Name of the object.")]
    namespace: Annotated[str, Meta(description="Namespace of the object; needed for namespaced kinds.")] = ""

    @property
    def key(self) -> objects.ObjectKey:
        """The object to wait for; no namespace is added (spec/kustomize.md 1.2)."""
        gvk = objects.GVK.parse(self.api_version or _DEFAULT_HEALTH_API_VERSION, self.kind)
        return objects.ObjectKey(gvk.group, self.kind, self.namespace, self.name)


class KustomizationSpec(Model, frozen=True, kw_only=True):
    """What to build, and how to apply it."""

    interval: Annotated[
        Duration, Meta(description="How often to apply again when nothing new came, for example 10m; with some jitter.")
    ]
    prune: Annotated[bool, Meta(description="Delete objects that are no longer part of the build.")]
    source_ref: Annotated[SourceReference, Meta(description="Where the files come from.")]
    path: Annotated[str, Meta(description="Directory of the source to build; its root if not set.")] = ""
    target_namespace: Annotated[NamespaceName | None, Meta(description="Namespace to move every object to.")] = None
    name_prefix: Annotated[Affix | None, Meta(description="Text to put before every name.")] = None
    name_suffix: Annotated[Affix | None, Meta(description="Text to put after every name.")] = None
    common_metadata: Annotated[
        CommonMetadata | None, Meta(description="Labels and annotations for every object, set after the build.")
    ] = None
    patches: Annotated[
        tuple[Patch, ...], Meta(description="Patches for the build, after those of the kustomization file.")
    ] = ()
    images: Annotated[tuple[Image, ...], Meta(description="Image names, tags and digests to use instead.")] = ()
    components: Annotated[
        tuple[str, ...], Meta(description="Kustomize components to add, as paths relative to spec.path.")
    ] = ()
    ignore_missing_components: Annotated[bool, Meta(description="Pass over components that are not there.")] = False
    build_metadata: Annotated[
        tuple[Literal["originAnnotations", "transformerAnnotations"], ...],
        Meta(description="What kustomize tells in annotations about the origin of objects."),
    ] = ()
    decryption: Annotated[Decryption | None, Meta(description="How encrypted files are read.")] = None
    post_build: Annotated[PostBuild | None, Meta(description="Variables to substitute in what was built.")] = None
    depends_on: Annotated[
        tuple[Dependency, ...], Meta(description="Kustomizations that have to be ready before this one is applied.")
    ] = ()
    health_checks: Annotated[
        tuple[HealthCheck, ...], Meta(description="Objects to wait for, when not all are waited for.")
    ] = ()
    health_check_exprs: Annotated[
        tuple[HealthExpression, ...], Meta(description="How to judge the health of custom resources.")
    ] = ()
    wait: Annotated[bool, Meta(description="Wait until every applied object is healthy.")] = False
    timeout: Annotated[
        Duration | None,
        Meta(description="How long to wait for health; the interval less 30s if not set, and never less than 30s."),
    ] = None
    retry_interval: Annotated[
        Duration | None, Meta(description="How long to wait after a failure; the interval if not set.")
    ] = None
    force: Annotated[
        bool,
        Meta(
            description="Delete and create again what cannot be changed because of an immutable field.",
            extra_json_schema={"default": False},
        ),
    ] = False
    deletion_policy: Annotated[
        Literal["MirrorPrune", "Delete", "WaitForTermination", "Orphan"] | None,
        Meta(
            description="What becomes of the objects when this one is deleted: as spec.prune says (MirrorPrune, the "
            "default), deleted, deleted and waited for, or left alone."
        ),
    ] = None
    ignore: Annotated[
        tuple[IgnoreRule, ...], Meta(description="Fields of objects that are neither compared nor applied.")
    ] = ()
    service_account_name: Annotated[
        str, Meta(description="ServiceAccount of this namespace with whose rights everything is applied.")
    ] = ""
    kube_config: Annotated[KubeConfig | None, Meta(description="Where the objects go when it is not this cluster.")] = (
        None
    )
    suspend: Annotated[bool, Meta(description="Stop working on this object until it is false again.")] = False

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval, self.timeout, self.retry_interval)

    @property
    def interval_seconds(self) -> float:
        """Seconds between two runs that went well."""
        return parse_duration(self.interval)

    @property
    def retry_seconds(self) -> float:
        """Seconds after a run that failed."""
        return self.interval_seconds if self.retry_interval is None else parse_duration(self.retry_interval)

    @property
    def effective_timeout(self) -> float:
        """Seconds health checks may take; never less than thirty, whatever was asked for (spec/kustomize.md 1.2)."""
        wanted = self.interval_seconds - _TIMEOUT_MARGIN if self.timeout is None else parse_duration(self.timeout)
        return max(wanted, _MIN_TIMEOUT)

    @property
    def effective_deletion_policy(self) -> Literal["Delete", "WaitForTermination", "Orphan"]:
        """What becomes of the objects, with MirrorPrune worked out."""
        if self.deletion_policy is None or self.deletion_policy == "MirrorPrune":
            return "Delete" if self.prune else "Orphan"
        return self.deletion_policy


class HistoryEntry(Model, frozen=True, kw_only=True):
    """One build, and how applying it ended."""

    digest: Annotated[str, Meta(description="Digest of what was built.")]
    first_reconciled: Annotated[Time, Meta(description="When this build first ended this way.")]
    last_reconciled: Annotated[Time, Meta(description="When it last did.")]
    last_reconciled_duration: Annotated[str, Meta(description="How long the last time took.")]
    last_reconciled_status: Annotated[str, Meta(description="How it ended, as the reason of the Ready condition.")]
    total_reconciliations: Annotated[Int64, Meta(description="How many times it ended this way.")]
    metadata: Annotated[
        Mapping[str, str], Meta(description="Further facts: revision and, if known, originRevision.")
    ] = {}


class KustomizationStatus(Model, frozen=True, kw_only=True):
    """What was built and applied."""

    observed_generation: Annotated[
        Int64, Meta(description="Last generation of the object that was dealt with to its end.")
    ] = 0
    conditions: Annotated[tuple[Condition, ...], Meta(description="The object's state, aspect by aspect.")] = ()
    last_applied_revision: Annotated[str, Meta(description="Last revision that was applied with success.")] = ""
    last_applied_origin_revision: Annotated[
        str, Meta(description="What that revision was made from, when the source knows it.")
    ] = ""
    last_attempted_revision: Annotated[str, Meta(description="Last revision that was tried.")] = ""
    last_handled_reconcile_at: Annotated[
        str, Meta(description="The newest value of annotation reconcile.fluxcd.io/requestedAt that was acted on.")
    ] = ""
    inventory: Annotated[Inventory | None, Meta(description="The objects that were applied.")] = None
    history: Annotated[
        tuple[HistoryEntry, ...], Meta(description="The last few builds and how they ended, newest first.")
    ] = ()


_OWNED: Final[frozenset[str]] = frozenset(
    {ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.HEALTHY}
)


class Kustomization(Resource, frozen=True, kw_only=True):
    """A directory of a source that is built with kustomize and applied to a cluster."""

    GVK: ClassVar[objects.GVK] = objects.GVK(KUSTOMIZE_GROUP, VERSION, "Kustomization")
    NAMES: ClassVar[Names] = Names(
        plural="kustomizations",
        short=("ks",),
        categories=("all", "fluxcd", "fluxcd-appliers"),
        columns=(AGE, READY, STATUS),
    )
    OWNED: ClassVar[frozenset[str]] = _OWNED

    spec: Annotated[KustomizationSpec, Meta(description="What to build, and how to apply it.")]
    status: Annotated[KustomizationStatus, Meta(description="What was built and applied.")] = KustomizationStatus()

    @property
    def source_key(self) -> objects.ObjectKey:
        """The source whose files are built."""
        ref = self.spec.source_ref
        return objects.ObjectKey(SOURCE_GROUP, ref.kind, ref.namespace or self.metadata.namespace, ref.name)

    @property
    def dependency_keys(self) -> tuple[objects.ObjectKey, ...]:
        """The Kustomizations that have to be ready first, in the order of the spec."""
        own = self.metadata.namespace
        return tuple(
            objects.ObjectKey(KUSTOMIZE_GROUP, "Kustomization", each.namespace or own, each.name)
            for each in self.spec.depends_on
        )


KINDS: Final[tuple[type[Resource], ...]] = (Kustomization,)
