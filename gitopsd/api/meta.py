"""What all our kinds share: metadata, conditions, artifacts, durations, times, and every key Kubernetes sees.

Values are frozen, decoded from and encoded to plain objects. Unknown fields are ignored, because a cluster may run
newer CRDs than we know; encoding leaves out what has its default, as Go's `omitempty` does.
Knows nothing of any one kind, of the API server and of clocks: time always comes in as an argument.
Constants that Kubernetes or a user sees (groups, annotations, labels, reasons, field managers) are spelled here once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from gitopsd.errors import GitopsdError
from gitopsd.krm import objects

SOURCE_GROUP: Final = "source.toolkit.fluxcd.io"
KUSTOMIZE_GROUP: Final = "kustomize.toolkit.fluxcd.io"
HELM_GROUP: Final = "helm.toolkit.fluxcd.io"

FINALIZER: Final = "finalizers.fluxcd.io"

REQUESTED_AT: Final = "reconcile.fluxcd.io/requestedAt"
FORCE_AT: Final = "reconcile.fluxcd.io/forceAt"
RESET_AT: Final = "reconcile.fluxcd.io/resetAt"
EVENT_PREFIX: Final = "event.toolkit.fluxcd.io/"

WATCH_LABEL: Final = "reconcile.fluxcd.io/watch"
SHARD_KEY_LABEL: Final = "sharding.fluxcd.io/key"
TENANT_LABEL: Final = "toolkit.fluxcd.io/tenant"
PART_OF_LABEL: Final = "app.kubernetes.io/part-of"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
VERSION_LABEL: Final = "app.kubernetes.io/version"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"

KUSTOMIZE_RECONCILE: Final = f"{KUSTOMIZE_GROUP}/reconcile"
KUSTOMIZE_SSA: Final = f"{KUSTOMIZE_GROUP}/ssa"
KUSTOMIZE_FORCE: Final = f"{KUSTOMIZE_GROUP}/force"
KUSTOMIZE_PRUNE: Final = f"{KUSTOMIZE_GROUP}/prune"
KUSTOMIZE_SUBSTITUTE: Final = f"{KUSTOMIZE_GROUP}/substitute"
KUSTOMIZE_DECRYPT: Final = f"{KUSTOMIZE_GROUP}/decrypt"
HELM_DRIFT_DETECTION: Final = f"{HELM_GROUP}/driftDetection"
HELM_RESOURCE_POLICY: Final = "helm.sh/resource-policy"

# Left behind by old releases and by kubectl, removed from live objects when seen (spec/kustomize.md 3.8).
LEGACY_ANNOTATIONS: Final = (
    "kubectl.kubernetes.io/last-applied-configuration",
    f"{KUSTOMIZE_GROUP}/checksum",
    "fluxcd.io/sync-checksum",
)
LEGACY_LABELS: Final = ("fluxcd.io/sync-gc-mark",)

ORIGIN_REVISION: Final = "org.opencontainers.image.revision"
ORIGIN_SOURCE: Final = "org.opencontainers.image.source"

# Four names, as upstream: taking over a cluster then needs no migration of managed fields (spec/runtime.md 7.4).
SOURCE_MANAGER: Final = "source-controller"
KUSTOMIZE_STATUS_MANAGER: Final = "gotk-kustomize-controller"
KUSTOMIZE_APPLY_MANAGER: Final = "kustomize-controller"
HELM_MANAGER: Final = "helm-controller"

# Names that events carry as their source; alerts and `kubectl describe` show them (spec/runtime.md 9).
SOURCE_COMPONENT: Final = "source-controller"
KUSTOMIZE_COMPONENT: Final = "kustomize-controller"
HELM_COMPONENT: Final = "helm-controller"

MAX_MESSAGE_SIZE: Final = 32768


class ConditionType(StrEnum):
    """Types of the conditions our kinds carry."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    HEALTHY = "Healthy"
    STORAGE_OPERATION_FAILED = "StorageOperationFailed"
    FETCH_FAILED = "FetchFailed"
    INCLUDE_UNAVAILABLE = "IncludeUnavailable"
    BUILD_FAILED = "BuildFailed"
    ARTIFACT_OUTDATED = "ArtifactOutdated"
    ARTIFACT_IN_STORAGE = "ArtifactInStorage"
    SOURCE_VERIFIED = "SourceVerified"
    RELEASED = "Released"
    TEST_SUCCESS = "TestSuccess"
    REMEDIATED = "Remediated"
    DRIFTED = "Drifted"


class ConditionStatus(StrEnum):
    """The three values of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Reasons of conditions and events, as the specifications spell them."""

    # every kind
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    PROGRESSING = "Progressing"
    PROGRESSING_WITH_RETRY = "ProgressingWithRetry"
    SUSPENDED = "Suspended"
    DEPENDENCY_NOT_READY = "DependencyNotReady"
    INVALID_PATH = "InvalidPath"
    INVALID_URL = "InvalidURL"
    ARTIFACT_FAILED = "ArtifactFailed"
    BUILD_FAILED = "BuildFailed"
    PRUNE_FAILED = "PruneFailed"
    HEALTH_CHECK_FAILED = "HealthCheckFailed"
    HEALTH_CHECK_CANCELED = "HealthCheckCanceled"
    RECONCILIATION_SUCCEEDED = "ReconciliationSucceeded"
    RECONCILIATION_FAILED = "ReconciliationFailed"
    INVALID_CEL_EXPRESSION = "InvalidCELExpression"
    FEATURE_GATE_DISABLED = "FeatureGateDisabled"
    ACCESS_DENIED = "AccessDenied"

    # sources
    NEW_ARTIFACT = "NewArtifact"
    ARTIFACT_UP_TO_DATE = "ArtifactUpToDate"
    ARTIFACT_VERIFICATION_FAILED = "ArtifactVerificationFailed"
    NEW_REVISION = "NewRevision"
    NEW_CHART = "NewChart"
    INCLUDE_CHANGE = "IncludeChange"
    NOT_FOUND = "NotFound"
    NO_ARTIFACT = "NoArtifact"
    ILLEGAL_PATH = "IllegalPath"
    COPY_FAILURE = "CopyFailure"
    URL_INVALID = "URLInvalid"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    INVALID_PROVIDER_CONFIGURATION = "InvalidProviderConfiguration"
    VERIFICATION_ERROR = "VerificationError"
    VERIFICATION_FAILED = "VerificationFailed"
    INVALID_VERIFICATION_MODE = "InvalidVerificationMode"
    INVALID_GIT_OBJECT = "InvalidGitObject"
    INVALID_TAG_SIGNATURE = "InvalidTagSignature"
    INVALID_COMMIT_SIGNATURE = "InvalidCommitSignature"
    GIT_OPERATION_SUCCEEDED = "GitOperationSucceeded"
    GIT_OPERATION_FAILED = "GitOperationFailed"
    EMPTY_GIT_REPOSITORY = "EmptyGitRepository"
    SOURCE_IGNORE_ERROR = "SourceIgnoreError"
    READ_OPERATION_FAILED = "ReadOperationFailed"
    STAT_OPERATION_FAILED = "StatOperationFailed"
    DIRECTORY_CREATION_FAILED = "DirectoryCreationFailed"
    ARCHIVE_OPERATION_FAILED = "ArchiveOperationFailed"
    ACQUIRE_LOCK_FAILED = "AcquireLockFailed"
    SYMLINK_UPDATE_FAILED = "SymlinkUpdateFailed"
    CACHE_OPERATION_FAILED = "CacheOperationFailed"
    GARBAGE_COLLECTION_SUCCEEDED = "GarbageCollectionSucceeded"
    GARBAGE_COLLECTION_FAILED = "GarbageCollectionFailed"
    OCI_ARTIFACT_PULL_FAILED = "OCIArtifactPullFailed"
    OCI_ARTIFACT_LAYER_OPERATION_FAILED = "OCIArtifactLayerOperationFailed"
    INDEXATION_FAILED = "IndexationFailed"
    BUCKET_OPERATION_FAILED = "BucketOperationFailed"
    INVALID_STS_CONFIGURATION = "InvalidSTSConfiguration"

    # charts
    CHART_PULL_SUCCEEDED = "ChartPullSucceeded"
    CHART_PACKAGE_SUCCEEDED = "ChartPackageSucceeded"
    INVALID_CHART_REFERENCE = "InvalidChartReference"
    CHART_PULL_ERROR = "ChartPullError"
    METADATA_PATCH_ERROR = "MetadataPatchError"
    VALUES_FILES_ERROR = "ValuesFilesError"
    DEPENDENCY_BUILD_ERROR = "DependencyBuildError"
    CHART_PACKAGE_ERROR = "ChartPackageError"
    CHART_VERIFICATION_ERROR = "ChartVerificationError"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    NO_SOURCE_ARTIFACT = "NoSourceArtifact"
    UNSUPPORTED_SOURCE_KIND = "UnsupportedSourceKind"
    RESOLVED_DEPENDENCIES = "ResolvedDependencies"
    UNKNOWN = "Unknown"

    # releases
    INSTALL_SUCCEEDED = "InstallSucceeded"
    INSTALL_FAILED = "InstallFailed"
    UPGRADE_SUCCEEDED = "UpgradeSucceeded"
    UPGRADE_FAILED = "UpgradeFailed"
    ROLLBACK_SUCCEEDED = "RollbackSucceeded"
    ROLLBACK_FAILED = "RollbackFailed"
    UNINSTALL_SUCCEEDED = "UninstallSucceeded"
    UNINSTALL_FAILED = "UninstallFailed"
    TEST_SUCCEEDED = "TestSucceeded"
    TEST_FAILED = "TestFailed"
    AWAITING_TESTS = "AwaitingTests"
    PENDING_RELEASE = "PendingRelease"
    RETRIES_EXCEEDED = "RetriesExceeded"
    MISSING_ROLLBACK_TARGET = "MissingRollbackTarget"
    DRIFT_DETECTED = "DriftDetected"
    NO_DRIFT_DETECTED = "NoDriftDetected"
    SOURCE_NOT_READY = "SourceNotReady"
    VALUES_ERROR = "ValuesError"
    CHART_MUTATE_ERROR = "ChartMutateError"
    REST_CLIENT_ERROR = "RESTClientError"
    RESOURCE_MANAGER_ERROR = "ResourceManagerError"
    FACTORY_ERROR = "FactoryError"
    CONFIG_FACTORY_ERROR = "ConfigFactoryErr"
    STATE_ERROR = "StateError"
    RECONCILE_ERROR = "ReconcileError"
    HELM_CHART_CREATED = "HelmChartCreated"
    INVENTORY_BUILD_FAILED = "InventoryBuildFailed"
    NAMESPACE_CHECK_SKIPPED = "NamespaceCheckSkipped"


class DurationError(GitopsdError, ValueError):
    """A text that Go would not read as a duration."""


DURATION_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
TIMEOUT_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"

Duration = Annotated[str, Meta(pattern=DURATION_PATTERN)]
"""A duration as the user wrote it; `parse_duration` turns it into seconds."""
Timeout = Annotated[str, Meta(pattern=TIMEOUT_PATTERN)]
"""As `Duration`, but the source kinds know no hours in a timeout."""
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""An RFC 3339 time, kept as text."""
Int64 = Annotated[int, Meta(extra_json_schema={"format": "int64"})]

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TERM = re.compile(r"(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(ns|us|µs|μs|ms|s|m|h)")
_MAX_NANOSECONDS: Final = 2**63 - 1
_MAX_DURATION_TEXT: Final = 256


@lru_cache(maxsize=4096)
def parse_duration(text: str) -> float:
    """Read a Go duration as seconds.

    Raises DurationError for anything that Go's `time.ParseDuration` refuses, overflow included.
    """
    if len(text) > _MAX_DURATION_TEXT:
        raise DurationError(f'invalid duration "{text[:32]}…": too long')
    sign = -1 if text.startswith("-") else 1
    unsigned = text[1:] if text[:1] in {"-", "+"} else text
    if unsigned == "0":
        return 0.0
    total = at = 0
    while term := _TERM.match(unsigned, at):
        whole, fraction, bare_fraction, unit = term.groups()
        digits = fraction or bare_fraction or ""
        scale = _UNITS[unit]
        total += int(whole or 0) * scale + (int(digits) * scale // 10 ** len(digits) if digits else 0)
        at = term.end()
    if at == 0 or at != len(unsigned) or total > _MAX_NANOSECONDS:
        raise DurationError(f'invalid duration "{text}"')
    return sign * total / 1_000_000_000


def require_durations(*texts: str | None) -> None:
    """Make sure that each text that is there can be read: the patterns of the schema allow what overflows in Go."""
    for text in texts:
        if text is not None:
            parse_duration(text)


def format_duration(seconds: float) -> str:
    """Write seconds as Go writes a duration, rounded to whole nanoseconds (spec/kustomize.md, `<dur>`)."""
    nanoseconds = round(seconds * 1_000_000_000)
    sign, nanoseconds = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if nanoseconds == 0:
        return "0s"
    for limit, scale, unit in ((1_000, 1, "ns"), (1_000_000, 1_000, "µs"), (1_000_000_000, 1_000_000, "ms")):
        if nanoseconds < limit:
            return f"{sign}{_decimal(nanoseconds, scale)}{unit}"
    minutes, rest = divmod(nanoseconds, _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, _UNITS['s'])}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def _decimal(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(scale)) - 1, '0').rstrip('0')}"


def rfc3339(now: datetime) -> str:
    """Write a time as Kubernetes does: UTC, whole seconds, `Z`. Raises ValueError for a time without zone."""
    if now.tzinfo is None:
        raise ValueError("a time without zone cannot be written as RFC 3339")
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 time; what is finer than a microsecond is dropped. Raises ValueError."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    return found


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """A part of one of our objects. Only trees are built of it, so the garbage collector need not look."""

    def to_builtins(self) -> dict[str, Any]:
        """Give the JSON form as plain dicts, lists and scalars, equal to what a server would answer."""
        # not msgspec.to_builtins: it keeps tuples, and no tuple equals the list in a server's answer
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain


class OwnerReference(Model, frozen=True, kw_only=True):
    """Who this object belongs to."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Model, frozen=True, kw_only=True):
    """The part of an object's metadata that decides anything."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    annotations: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None

    @property
    def is_being_deleted(self) -> bool:
        """Somebody asked for the object's deletion."""
        return self.deletion_timestamp is not None

    @property
    def has_finalizer(self) -> bool:
        """The object waits for us before it goes."""
        return FINALIZER in self.finalizers

    @property
    def requested_at(self) -> str | None:
        """The token somebody asked a reconcile with; any text, the empty one too, is a legal token."""
        return self.annotations.get(REQUESTED_AT)


_REASON_PATTERN: Final = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
_TYPE_PATTERN: Final = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
)


class Condition(Model, frozen=True, kw_only=True):
    """One aspect of the object's state."""

    type: Annotated[
        str,
        Meta(
            description="What the condition is about, in CamelCase.",
            extra_json_schema={"maxLength": 316, "pattern": _TYPE_PATTERN},
        ),
    ]
    status: Annotated[
        str,
        Meta(
            description="Whether it holds: True, False or Unknown.",
            extra_json_schema={"enum": ["True", "False", "Unknown"]},
        ),
    ]
    reason: Annotated[
        str,
        Meta(
            description="Why, as one CamelCase word for programs.",
            extra_json_schema={"minLength": 1, "maxLength": 1024, "pattern": _REASON_PATTERN},
        ),
    ]
    message: Annotated[
        str, Meta(description="Why, in words for people.", extra_json_schema={"maxLength": MAX_MESSAGE_SIZE})
    ]
    last_transition_time: Annotated[Time, Meta(description="When status, reason or message last changed.")]
    observed_generation: Annotated[
        Int64, Meta(description="The generation the condition speaks of.", extra_json_schema={"minimum": 0})
    ] = 0

    @property
    def is_true(self) -> bool:
        """The status is True."""
        return self.status == ConditionStatus.TRUE

    @property
    def is_false(self) -> bool:
        """The status is False."""
        return self.status == ConditionStatus.FALSE


_DIGEST_PATTERN: Final = "^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$"


class Artifact(Model, frozen=True, kw_only=True):
    """The file a source produced."""

    digest: Annotated[
        str,
        Meta(
            description="Digest of the file's bytes, as algorithm:hex.",
            extra_json_schema={"pattern": _DIGEST_PATTERN},
        ),
    ]
    path: Annotated[str, Meta(description="Where the file lies below the storage's root.")]
    url: Annotated[str, Meta(description="Address the file can be downloaded from.")]
    revision: Annotated[str, Meta(description="What the source calls this state: a commit, a digest, a version.")]
    last_update_time: Annotated[Time, Meta(description="When the file was written.")]
    size: Annotated[Int64 | None, Meta(description="Number of bytes in the file.")] = None
    metadata: Annotated[
        Mapping[str, str], Meta(description="What upstream says about the artifact, such as OCI annotations.")
    ] = {}


class LocalObjectReference(Model, frozen=True, kw_only=True):
    """Names an object of a known kind in the same namespace."""

    name: Annotated[str, Meta(description="Name of the object.")]


def owner_labels(group: str, owner: objects.ObjectKey) -> dict[str, str]:
    """The two labels that say which object of `group` an object was applied for."""
    return {f"{group}/name": owner.name, f"{group}/namespace": owner.namespace}
