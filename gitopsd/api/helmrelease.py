"""The kind of group helm.toolkit.fluxcd.io: a chart that is kept installed as a release.

Fields, defaults and rules of spec/helm.md 1 and 2, and the names that follow from them (1.3). A field whose default
depends on a feature gate stays None when unset; its reader knows the gates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, field

from gitopsd.api.meta import (
    HELM_GROUP,
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
from gitopsd.api.resource import AGE, READY, STATUS, Names, Resource, Rule
from gitopsd.krm import objects

VERSION: Final = "v2"
DEFAULT_TIMEOUT: Final = 300.0
DEFAULT_RETRY_INTERVAL: Final = 300.0
DEFAULT_MAX_HISTORY: Final = 5
DEFAULT_VALUES_KEY: Final = "values.yaml"
_MAX_RELEASE_NAME: Final = 53
_KEPT_OF_A_LONG_NAME: Final = 40
_DIGEST_OF_A_LONG_NAME: Final = 12

ActionTimeout = Annotated[
    Duration | None, Meta(description="How long each wait and each hook of the action may take; spec.timeout if unset.")
]
DisableHooks = Annotated[bool, Meta(description="Do not run the chart's hooks.")]
DisableWait = Annotated[bool, Meta(description="Do not wait until the objects are ready.")]
DisableWaitForJobs = Annotated[bool, Meta(description="Do not wait until Jobs are complete.")]
CRDsPolicy = Annotated[
    Literal["Skip", "Create", "CreateReplace"],
    Meta(description="What to do with the chart's CRDs: nothing, create missing ones (the default), or also replace."),
]
ApplyMode = Annotated[
    Literal["enabled", "disabled", "auto"],
    Meta(description="Use server-side apply: yes, no, or as the release was made before (`auto`, the default)."),
]


# --- what the chart is ----------------------------------------------------------------------------------------------


class ChartObjectReference(Model, frozen=True, kw_only=True):
    """Names the source that holds a chart."""

    api_version: Annotated[str, Meta(description="API version of the source; not read.")] = ""
    kind: Annotated[Literal["HelmRepository", "GitRepository", "Bucket"], Meta(description="Kind of the source.")]
    name: Annotated[ObjectName, Meta(description="Name of the source.")]
    namespace: Annotated[
        NamespaceName | None, Meta(description="Namespace of the source; the release object's own if not set.")
    ] = None


class ChartVerification(Model, frozen=True, kw_only=True):
    """Which signature the chart has to carry."""

    provider: Annotated[
        Literal["cosign", "notation"],
        Meta(description="How the chart is signed.", extra_json_schema={"default": "cosign"}, extra={"required": True}),
    ] = "cosign"
    secret_ref: Annotated[LocalObjectReference | None, Meta(description="Secret with public keys or certificates.")] = (
        None
    )


class ChartSpec(Model, frozen=True, kw_only=True):
    """The HelmChart object to keep for the release."""

    chart: Annotated[
        str,
        Meta(min_length=1, max_length=2048, description="Name of the chart, or its path in a repository or bucket."),
    ]
    version: Annotated[
        str,
        Meta(
            description="Version or range of versions; only for Helm repositories.", extra_json_schema={"default": "*"}
        ),
    ] = "*"
    source_ref: Annotated[ChartObjectReference, Meta(description="Where the chart is.")]
    interval: Annotated[
        Duration | None, Meta(description="How often to look for a new chart; spec.interval if not set.")
    ] = None
    reconcile_strategy: Annotated[
        Literal["ChartVersion", "Revision"],
        Meta(
            description="What makes a new chart: another version of it, or any new revision of its source.",
            extra_json_schema={"default": "ChartVersion"},
        ),
    ] = "ChartVersion"
    values_files: Annotated[
        tuple[str, ...], Meta(description="Files whose merge replaces the chart's values.yaml; later ones win.")
    ] = ()
    ignore_missing_values_files: Annotated[bool, Meta(description="Pass over values files that are not there.")] = False
    verify: Annotated[ChartVerification | None, Meta(description="Signature to demand.")] = None

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval)


class ChartTemplate(Model, frozen=True, kw_only=True):
    """How the HelmChart object of the release looks."""

    metadata: Annotated[CommonMetadata | None, Meta(description="Labels and annotations of the HelmChart object.")] = (
        None
    )
    spec: Annotated[ChartSpec, Meta(description="Which chart, from which source.")]


class ChartReference(Model, frozen=True, kw_only=True):
    """Names an existing source whose artifact is the chart."""

    api_version: Annotated[str, Meta(description="API version of the source; not read.")] = ""
    kind: Annotated[Literal["OCIRepository", "HelmChart", "ExternalArtifact"], Meta(description="Kind of the source.")]
    name: Annotated[ObjectName, Meta(description="Name of the source.")]
    namespace: Annotated[
        NamespaceName | None, Meta(description="Namespace of the source; this object's own if not set.")
    ] = None


# --- what is done with it -------------------------------------------------------------------------------------------


class InstallStrategy(Model, frozen=True, kw_only=True):
    """What a failed install leads to."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.retryInterval) || self.name != 'RemediateOnFailure'",
            message=".retryInterval cannot be set when .name is 'RemediateOnFailure'",
        ),
    )

    name: Annotated[
        Literal["RemediateOnFailure", "RetryOnFailure"],
        Meta(description="Undo what failed, or leave it and try again later."),
    ]
    retry_interval: Annotated[
        Duration | None, Meta(description="How long to wait before the next try, with RetryOnFailure; 5m if not set.")
    ] = None

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.retry_interval)

    @property
    def retry_seconds(self) -> float:
        """Seconds before the next try."""
        return DEFAULT_RETRY_INTERVAL if self.retry_interval is None else parse_duration(self.retry_interval)


class UpgradeStrategy(InstallStrategy, frozen=True, kw_only=True):
    """What a failed upgrade leads to."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.retryInterval) || self.name == 'RetryOnFailure'",
            message=".retryInterval can only be set when .name is 'RetryOnFailure'",
        ),
    )


class InstallRemediation(Model, frozen=True, kw_only=True):
    """How a failed install is undone."""

    retries: Annotated[
        int, Meta(description="How many more times to try after a failure; a negative number means without end.")
    ] = 0
    ignore_test_failures: Annotated[
        bool | None, Meta(description="Do not count failed tests as a failure; as spec.test says if not set.")
    ] = None
    remediate_last_failure: Annotated[
        bool | None, Meta(description="Undo the last failure too, when no retry is left.")
    ] = None

    @property
    def remediates_last_failure(self) -> bool:
        """The last failure is undone too; not unless asked for (spec/helm.md 1.4)."""
        return bool(self.remediate_last_failure)


class UpgradeRemediation(InstallRemediation, frozen=True, kw_only=True):
    """How a failed upgrade is undone."""

    strategy: Annotated[
        Literal["rollback", "uninstall"],
        Meta(description="Go back to the release before (the default), or uninstall."),
    ] = "rollback"

    @property
    def remediates_last_failure(self) -> bool:
        """The last failure is undone too; by default when there are retries, a finite number (spec/helm.md 1.5)."""
        return self.retries > 0 if self.remediate_last_failure is None else self.remediate_last_failure


class ReleaseAction(Model, frozen=True, kw_only=True):
    """What install and upgrade have in common."""

    timeout: ActionTimeout = None
    crds: CRDsPolicy = "Create"
    disable_hooks: DisableHooks = False
    disable_wait: DisableWait = False
    disable_wait_for_jobs: DisableWaitForJobs = False
    disable_open_api_validation: Annotated[
        bool, Meta(description="Do not validate the objects against the server's schema before.")
    ] = field(name="disableOpenAPIValidation", default=False)
    disable_schema_validation: Annotated[
        bool, Meta(description="Do not validate the values against the chart's JSON schema.")
    ] = False
    disable_take_ownership: Annotated[
        bool, Meta(description="Fail when an object exists that belongs to nobody or to another release.")
    ] = False

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.timeout)


class Install(ReleaseAction, frozen=True, kw_only=True):
    """How the release is installed."""

    strategy: Annotated[InstallStrategy | None, Meta(description="What a failure leads to.")] = None
    remediation: Annotated[InstallRemediation, Meta(description="How a failure is undone.")] = InstallRemediation()
    skip_crds: Annotated[bool, Meta(description="Deprecated and without effect; see crds.")] = field(
        name="skipCRDs", default=False
    )
    create_namespace: Annotated[
        bool, Meta(description="Create spec.targetNamespace when it is not there; it is never deleted.")
    ] = False
    replace: Annotated[
        bool, Meta(description="Use a name again whose last release was uninstalled, or failed, but kept its record.")
    ] = False
    server_side_apply: Annotated[bool | None, Meta(description="Use server-side apply; true if not set.")] = None


class Upgrade(ReleaseAction, frozen=True, kw_only=True):
    """How the release is upgraded."""

    strategy: Annotated[UpgradeStrategy | None, Meta(description="What a failure leads to.")] = None
    remediation: Annotated[UpgradeRemediation, Meta(description="How a failure is undone.")] = UpgradeRemediation()
    chart_name_change_strategy: Annotated[
        Literal["Reinstall", "InPlaceUpdate"],
        Meta(description="What to do when the chart has another name: uninstall first (the default), or upgrade."),
    ] = "Reinstall"
    cleanup_on_fail: Annotated[bool, Meta(description="Delete what a failed upgrade created.")] = False
    force: Annotated[bool, Meta(description="Replace objects instead of patching; not with server-side apply.")] = False
    preserve_values: Annotated[
        bool, Meta(description="Merge the values over those of the last release instead of the chart's.")
    ] = False
    server_side_apply: ApplyMode = "auto"


class Rollback(Model, frozen=True, kw_only=True):
    """How the release goes back to the one before."""

    timeout: ActionTimeout = None
    disable_wait: DisableWait = False
    disable_wait_for_jobs: DisableWaitForJobs = False
    disable_hooks: DisableHooks = False
    recreate: Annotated[bool, Meta(description="Without effect; kept for compatibility.")] = False
    force: Annotated[bool, Meta(description="Replace objects instead of patching; not with server-side apply.")] = False
    cleanup_on_fail: Annotated[bool, Meta(description="Delete what a failed rollback created.")] = False
    server_side_apply: ApplyMode = "auto"

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.timeout)


class Uninstall(Model, frozen=True, kw_only=True):
    """How the release is uninstalled."""

    timeout: ActionTimeout = None
    disable_hooks: DisableHooks = False
    disable_wait: Annotated[bool, Meta(description="Do not wait until the objects are gone.")] = False
    keep_history: Annotated[
        bool, Meta(description="Keep the release's records; a later install then needs install.replace.")
    ] = False
    deletion_propagation: Annotated[
        Literal["background", "foreground", "orphan"],
        Meta(
            description="How deletion goes on to what belongs to the objects.",
            extra_json_schema={"default": "background"},
        ),
    ] = "background"

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.timeout)


class TestFilter(Model, frozen=True, kw_only=True):
    """Picks one test by name."""

    __test__: ClassVar[bool] = False  # the name is Helm's; pytest must not take it for a test

    name: Annotated[ObjectName, Meta(description="Name of the test.")]
    exclude: Annotated[bool, Meta(description="Leave the test out instead of picking it.")] = False


class Test(Model, frozen=True, kw_only=True):
    """How the release is tested."""

    __test__: ClassVar[bool] = False

    enable: Annotated[bool, Meta(description="Run the chart's tests after each install and upgrade.")] = False
    timeout: ActionTimeout = None
    ignore_failures: Annotated[bool, Meta(description="A failed test changes nothing.")] = False
    filters: Annotated[
        tuple[TestFilter, ...], Meta(description="Tests to run, or to leave out; all of them if empty.")
    ] = ()

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.timeout)


class DriftDetection(Model, frozen=True, kw_only=True):
    """What to do about changes that others make to the release's objects."""

    mode: Annotated[
        Literal["disabled", "warn", "enabled"],
        Meta(description="Nothing (the default), tell of them, or tell of them and undo them."),
    ] = "disabled"
    ignore: Annotated[tuple[IgnoreRule, ...], Meta(description="Changes that are nobody's business.")] = ()


class ValuesReference(Model, frozen=True, kw_only=True):
    """Names a ConfigMap or Secret that holds values."""

    kind: Annotated[Literal["Secret", "ConfigMap"], Meta(description="Kind of the object.")]
    name: Annotated[ObjectName, Meta(description="Name of the object, in the same namespace.")]
    values_key: Annotated[
        Annotated[str, Meta(max_length=253, pattern=r"^[\-._a-zA-Z0-9]+$")] | None,
        Meta(description="Key whose data hold the values; `values.yaml` if not set."),
    ] = None
    target_path: Annotated[
        Annotated[str, Meta(max_length=250, pattern=r"^([a-zA-Z0-9_\-.\\\/]|\[[0-9]{1,5}\])+$")] | None,
        Meta(description="Where to put the data, as one value, in the dotted syntax of Helm's --set."),
    ] = None
    optional: Annotated[bool, Meta(description="Go on when the object or the key is not there.")] = False
    literal: Annotated[
        bool, Meta(description="Take the data as plain text instead of reading it as --set does; with targetPath only.")
    ] = False

    @property
    def key(self) -> str:
        """The key whose data hold the values."""
        return self.values_key or DEFAULT_VALUES_KEY


class KustomizeRenderer(Model, frozen=True, kw_only=True):
    """What kustomize changes about the rendered objects."""

    patches: Annotated[tuple[Patch, ...], Meta(description="Patches for the rendered objects.")] = ()
    images: Annotated[tuple[Image, ...], Meta(description="Image names, tags and digests to use instead.")] = ()


class PostRenderer(Model, frozen=True, kw_only=True):
    """One step between rendering and applying."""

    kustomize: Annotated[KustomizeRenderer | None, Meta(description="Change the objects with kustomize.")] = None


class WaitStrategy(Model, frozen=True, kw_only=True):
    """How it is found out whether objects are ready."""

    name: Annotated[
        Literal["poller", "legacy"], Meta(description="By kstatus rules (`poller`), or as Helm 3 did (`legacy`).")
    ]


# --- the object -----------------------------------------------------------------------------------------------------


class HelmReleaseSpec(Model, frozen=True, kw_only=True):
    """Which chart to keep installed, and how."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="(has(self.chart) && !has(self.chartRef)) || (!has(self.chart) && has(self.chartRef))",
            message="either chart or chartRef must be set",
        ),
    )

    chart: Annotated[ChartTemplate | None, Meta(description="The HelmChart object to keep for this release.")] = None
    chart_ref: Annotated[ChartReference | None, Meta(description="An existing source whose artifact is the chart.")] = (
        None
    )
    interval: Annotated[Duration, Meta(description="How often to look at the release when nothing new came.")]
    timeout: Annotated[
        Duration | None, Meta(description="How long each wait and each hook of an action may take; 5m if not set.")
    ] = None
    suspend: Annotated[bool, Meta(description="Stop working on this object until it is false again.")] = False
    release_name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=53)] | None,
        Meta(description="Name of the release; made of target namespace and object name if not set."),
    ] = None
    target_namespace: Annotated[
        NamespaceName | None, Meta(description="Namespace of the release; this object's own if not set.")
    ] = None
    storage_namespace: Annotated[
        NamespaceName | None, Meta(description="Namespace of the release's records; this object's own if not set.")
    ] = None
    depends_on: Annotated[
        tuple[Dependency, ...], Meta(description="HelmReleases that have to be ready before this one is acted on.")
    ] = ()
    max_history: Annotated[
        int | None, Meta(description="How many records of the release to keep; 5 if not set, 0 keeps all.")
    ] = None
    service_account_name: Annotated[
        ObjectName | None, Meta(description="ServiceAccount of this namespace with whose rights everything is done.")
    ] = None
    kube_config: Annotated[
        KubeConfig | None, Meta(description="Where the release goes when it is not this cluster.")
    ] = None
    persistent_client: Annotated[
        bool, Meta(description="Keep what was learned about the server's kinds for the whole run; true if not set.")
    ] = True
    drift_detection: Annotated[
        DriftDetection, Meta(description="What to do about changes that others make to the release's objects.")
    ] = DriftDetection()
    install: Annotated[Install, Meta(description="How the release is installed.")] = Install()
    upgrade: Annotated[Upgrade, Meta(description="How the release is upgraded.")] = Upgrade()
    test: Annotated[Test, Meta(description="How the release is tested.")] = Test()
    rollback: Annotated[Rollback, Meta(description="How the release goes back to the one before.")] = Rollback()
    uninstall: Annotated[Uninstall, Meta(description="How the release is uninstalled.")] = Uninstall()
    values_from: Annotated[
        tuple[ValuesReference, ...], Meta(description="ConfigMaps and Secrets that hold values; later ones win.")
    ] = ()
    values: Annotated[Any, Meta(description="Values for the chart, over those of valuesFrom.")] = None
    common_metadata: Annotated[
        CommonMetadata | None, Meta(description="Labels and annotations for every object of the release.")
    ] = None
    post_renderers: Annotated[
        tuple[PostRenderer, ...], Meta(description="Steps between rendering and applying, in order.")
    ] = ()
    post_render_strategy: Annotated[
        Literal["nohooks", "combined", "separate"] | None,
        Meta(
            description="Whether hooks go through the post renderers: not at all, together with the other objects "
            "(`combined`, the default), or on their own."
        ),
    ] = None
    wait_strategy: Annotated[
        WaitStrategy | None, Meta(description="How it is found out whether objects are ready.")
    ] = None
    health_check_exprs: Annotated[
        tuple[HealthExpression, ...], Meta(description="How to judge the health of custom resources.")
    ] = ()

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval, self.timeout)

    @property
    def interval_seconds(self) -> float:
        """Seconds between two runs that went well."""
        return parse_duration(self.interval)

    def timeout_of(self, action: ReleaseAction | Rollback | Uninstall | Test) -> float:
        """Seconds each wait and each hook of one of our actions may take."""
        text = action.timeout or self.timeout
        return DEFAULT_TIMEOUT if text is None else parse_duration(text)

    @property
    def history_limit(self) -> int:
        """How many records of the release are kept; zero keeps all."""
        return DEFAULT_MAX_HISTORY if self.max_history is None else self.max_history

    @property
    def inline_values(self) -> Mapping[str, Any]:
        """The values as a mapping; anything else counts as none."""
        return self.values if isinstance(self.values, dict) else {}


class TestHook(Model, frozen=True, kw_only=True):
    """How one test of the release went."""

    __test__: ClassVar[bool] = False

    last_started: Annotated[Time | None, Meta(description="When it was started.")] = None
    last_completed: Annotated[Time | None, Meta(description="When it ended.")] = None
    phase: Annotated[str, Meta(description="Where it stands, in Helm's words.")] = ""


class Snapshot(Model, frozen=True, kw_only=True):
    """A record of the release, as it was seen when it was written."""

    api_version: Annotated[str, Meta(description="Version of the way digest is computed.")] = ""
    digest: Annotated[str, Meta(description="Digest of the record.")]
    name: Annotated[str, Meta(description="Name of the release.")]
    namespace: Annotated[str, Meta(description="Namespace of the release.")]
    version: Annotated[int, Meta(description="Revision of the release.")]
    status: Annotated[str, Meta(description="State of the release, in Helm's words.")]
    action: Annotated[str, Meta(description="What made the record.")] = ""
    chart_name: Annotated[str, Meta(description="Name of the chart.")]
    chart_version: Annotated[str, Meta(description="Version of the chart.")]
    app_version: Annotated[str, Meta(description="Version of the application, as the chart tells.")] = ""
    config_digest: Annotated[str, Meta(description="Digest of the values.")]
    first_deployed: Annotated[Time, Meta(description="When the release was first deployed.")]
    last_deployed: Annotated[Time, Meta(description="When the release was last deployed.")]
    deleted: Annotated[Time | None, Meta(description="When the release was deleted.")] = None
    test_hooks: Annotated[
        Mapping[str, TestHook | None] | None,
        Meta(description="How the tests went, by name; empty when there was nothing to test."),
    ] = None
    oci_digest: Annotated[str, Meta(description="Digest of the chart's OCI artifact.")] = ""


class HelmReleaseStatus(Model, frozen=True, kw_only=True):
    """What became of the release."""

    observed_generation: Annotated[
        Int64, Meta(description="Last generation of the object that was dealt with to its end.")
    ] = 0
    conditions: Annotated[tuple[Condition, ...], Meta(description="The object's state, aspect by aspect.")] = ()
    helm_chart: Annotated[str, Meta(description="The HelmChart object kept for the release, as namespace/name.")] = ""
    storage_namespace: Annotated[
        str,
        Meta(
            description="Namespace of the release's records; while it is set something may be installed.",
            extra_json_schema={"minLength": 1, "maxLength": 63},
        ),
    ] = ""
    history: Annotated[
        tuple[Snapshot, ...], Meta(description="Records of the release as they were written, newest first.")
    ] = ()
    inventory: Annotated[Inventory | None, Meta(description="The objects of the release.")] = None
    last_attempted_generation: Annotated[Int64, Meta(description="Last generation an action was started for.")] = 0
    last_attempted_revision: Annotated[str, Meta(description="Chart version of the last action.")] = ""
    last_attempted_revision_digest: Annotated[str, Meta(description="Digest of the chart's artifact, if known.")] = ""
    last_attempted_config_digest: Annotated[str, Meta(description="Digest of the values of the last action.")] = ""
    last_attempted_values_checksum: Annotated[str, Meta(description="Deprecated and always empty.")] = ""
    last_release_revision: Annotated[int, Meta(description="Deprecated and always zero.")] = 0
    last_attempted_release_action: Annotated[
        str,
        Meta(description="The last action on the release.", extra_json_schema={"enum": ["install", "upgrade"]}),
    ] = ""
    last_attempted_release_action_duration: Annotated[str, Meta(description="How long that action took.")] = ""
    failures: Annotated[Int64, Meta(description="How often reconciling failed since the last success.")] = 0
    install_failures: Annotated[Int64, Meta(description="How often installing failed since the last success.")] = 0
    upgrade_failures: Annotated[Int64, Meta(description="How often upgrading failed since the last success.")] = 0
    last_handled_reconcile_at: Annotated[
        str, Meta(description="The newest value of annotation reconcile.fluxcd.io/requestedAt that was acted on.")
    ] = ""
    last_handled_force_at: Annotated[
        str, Meta(description="The newest value of annotation reconcile.fluxcd.io/forceAt that was acted on.")
    ] = ""
    last_handled_reset_at: Annotated[
        str, Meta(description="The newest value of annotation reconcile.fluxcd.io/resetAt that was acted on.")
    ] = ""
    observed_post_renderers_digest: Annotated[str, Meta(description="Digest of spec.postRenderers when last seen.")] = (
        ""
    )
    observed_common_metadata_digest: Annotated[
        str, Meta(description="Digest of spec.commonMetadata when last seen.")
    ] = ""


_OWNED: Final[frozenset[str]] = frozenset(
    {
        ConditionType.READY,
        ConditionType.RECONCILING,
        ConditionType.STALLED,
        ConditionType.RELEASED,
        ConditionType.TEST_SUCCESS,
        ConditionType.REMEDIATED,
        ConditionType.DRIFTED,
    }
)


class HelmRelease(Resource, frozen=True, kw_only=True):
    """A chart that is kept installed as a Helm release."""

    GVK: ClassVar[objects.GVK] = objects.GVK(HELM_GROUP, VERSION, "HelmRelease")
    NAMES: ClassVar[Names] = Names(
        plural="helmreleases",
        short=("hr",),
        categories=("all", "fluxcd", "fluxcd-appliers"),
        columns=(AGE, READY, STATUS),
    )
    OWNED: ClassVar[frozenset[str]] = _OWNED

    spec: Annotated[HelmReleaseSpec, Meta(description="Which chart to keep installed, and how.")]
    status: Annotated[HelmReleaseStatus, Meta(description="What became of the release.")] = HelmReleaseStatus()

    @property
    def release_name(self) -> str:
        """The release's name as messages print it; it may be longer than Helm takes (spec/helm.md 1.3)."""
        if self.spec.release_name:
            return self.spec.release_name
        target = self.spec.target_namespace
        return f"{target}-{self.metadata.name}" if target else self.metadata.name

    @property
    def stored_release_name(self) -> str:
        """The release's name as it is stored: long ones are cut and told apart by a digest (spec/helm.md 1.3)."""
        name = self.release_name.encode()
        if len(name) <= _MAX_RELEASE_NAME:
            return self.release_name
        digest = hashlib.sha256(name).hexdigest()[:_DIGEST_OF_A_LONG_NAME]
        return f"{name[:_KEPT_OF_A_LONG_NAME].decode(errors='ignore')}-{digest}"

    @property
    def release_namespace(self) -> str:
        """The namespace the release's objects go to."""
        return self.spec.target_namespace or self.metadata.namespace

    @property
    def storage_namespace(self) -> str:
        """The namespace of the release's records; it does not follow the target namespace."""
        return self.spec.storage_namespace or self.metadata.namespace

    @property
    def chart_key(self) -> objects.ObjectKey | None:
        """The object whose artifact is the chart: the one referred to, or the HelmChart kept for the release."""
        own = self.metadata.namespace
        if self.spec.chart_ref is not None:
            ref = self.spec.chart_ref
            return objects.ObjectKey(SOURCE_GROUP, ref.kind, ref.namespace or own, ref.name)
        if self.spec.chart is None:
            return None
        namespace = self.spec.chart.spec.source_ref.namespace or own
        return objects.ObjectKey(SOURCE_GROUP, "HelmChart", namespace, f"{own}-{self.metadata.name}")

    @property
    def dependency_keys(self) -> tuple[objects.ObjectKey, ...]:
        """The HelmReleases that have to be ready first, in the order of the spec."""
        own = self.metadata.namespace
        return tuple(
            objects.ObjectKey(HELM_GROUP, "HelmRelease", each.namespace or own, each.name)
            for each in self.spec.depends_on
        )


KINDS: Final[tuple[type[Resource], ...]] = (HelmRelease,)
