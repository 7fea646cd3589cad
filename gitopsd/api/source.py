"""The kinds of group source.toolkit.fluxcd.io: where artifacts come from (spec/source.md 1 and 5 to 10).

The constraints of a spec's fields hold twice, in the CRD and when an object is read. What only the CRD knows
(defaults, CEL rules, patterns in a status) stands beside them as schema data: no status makes a source unreadable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, field

from gitopsd.api.meta import (
    SOURCE_GROUP,
    Artifact,
    Condition,
    ConditionType,
    Duration,
    Int64,
    LocalObjectReference,
    Model,
    Timeout,
    parse_duration,
    require_durations,
)
from gitopsd.api.resource import AGE, READY, STATUS, Column, Names, Resource, Rule
from gitopsd.krm import objects

VERSION: Final = "v1"
_CATEGORIES: Final = ("all", "fluxcd", "fluxcd-sources")
_DEFAULT_TIMEOUT: Final = "60s"
_DEFAULT_HELM_INTERVAL: Final = 60.0

# What Ready sums up, in the order that breaks ties (spec/source.md 3.3).
_GIT_CONDITIONS: Final[tuple[str, ...]] = (
    ConditionType.STORAGE_OPERATION_FAILED,
    ConditionType.FETCH_FAILED,
    ConditionType.INCLUDE_UNAVAILABLE,
    ConditionType.ARTIFACT_OUTDATED,
    ConditionType.ARTIFACT_IN_STORAGE,
    ConditionType.SOURCE_VERIFIED,
    ConditionType.STALLED,
    ConditionType.RECONCILING,
)
_CHART_CONDITIONS: Final[tuple[str, ...]] = (
    ConditionType.STORAGE_OPERATION_FAILED,
    ConditionType.FETCH_FAILED,
    ConditionType.BUILD_FAILED,
    *_GIT_CONDITIONS[3:],
)
_OCI_CONDITIONS: Final[tuple[str, ...]] = (*_GIT_CONDITIONS[:2], *_GIT_CONDITIONS[3:])
_PLAIN_CONDITIONS: Final[tuple[str, ...]] = (*_GIT_CONDITIONS[:2], *_GIT_CONDITIONS[3:5], *_GIT_CONDITIONS[6:])

Suspend = Annotated[bool, Meta(description="Stop working on this object until it is false again.")]
Interval = Annotated[
    Duration, Meta(description="How often to look for something new, for example 5m; a little jitter is added.")
]
FetchTimeout = Annotated[
    Timeout,
    Meta(
        description="How long one attempt to fetch may take, for example 60s.",
        extra_json_schema={"default": _DEFAULT_TIMEOUT},
    ),
]
Provider = Annotated[
    Literal["generic", "aws", "azure", "gcp"],
    Meta(
        description="Who issues the credentials; `generic` is the Secret or ServiceAccount.",
        extra_json_schema={"default": "generic"},
    ),
]
Ignore = Annotated[
    str | None, Meta(description="Patterns in the style of .gitignore for what to leave out of the artifact.")
]


class SourceStatus(Model, frozen=True, kw_only=True):
    """What was found at the source."""

    observed_generation: Annotated[
        Int64, Meta(description="Last generation of the object that was dealt with to its end.")
    ] = 0
    conditions: Annotated[tuple[Condition, ...], Meta(description="The object's state, aspect by aspect.")] = ()
    artifact: Annotated[Artifact | None, Meta(description="The newest artifact that was stored.")] = None
    last_handled_reconcile_at: Annotated[
        str, Meta(description="The newest value of annotation reconcile.fluxcd.io/requestedAt that was acted on.")
    ] = ""


def _gvk(kind: str) -> objects.GVK:
    return objects.GVK(SOURCE_GROUP, VERSION, kind)


_URL: Final = Column(name="URL", path=".spec.url")


# --- GitRepository --------------------------------------------------------------------------------------------------


class GitRef(Model, frozen=True, kw_only=True):
    """What to check out. When several are set: commit, then name, tag, semver, branch."""

    branch: Annotated[str, Meta(description="Branch to follow; `master` if nothing at all is set.")] = ""
    tag: Annotated[str, Meta(description="Tag to check out.")] = ""
    semver: Annotated[str, Meta(description="Range of versions; the newest tag in it is checked out.")] = ""
    name: Annotated[
        str, Meta(description="Full name of a reference, for example refs/heads/main or refs/pull/420/head.")
    ] = ""
    commit: Annotated[str, Meta(description="Full hash of a commit to check out.")] = ""


class GitVerification(Model, frozen=True, kw_only=True):
    """Which Git signatures have to be good before the artifact changes."""

    # The schema alone keeps other modes out: whoever gets one past it is told so, and is not merely unreadable.
    mode: Annotated[
        str,
        Meta(
            description="What has to be signed: the commit (HEAD, also written head), the tag, or both.",
            extra_json_schema={"enum": ["HEAD", "Tag", "TagAndHEAD", "head"], "default": "HEAD"},
        ),
    ] = "HEAD"
    secret_ref: Annotated[
        LocalObjectReference,
        Meta(description="Secret with the public keys: *.sshpub for SSH, every other key for OpenPGP."),
    ]

    @property
    def verifies_commit(self) -> bool:
        """The commit's signature counts."""
        return self.mode != "Tag"

    @property
    def verifies_tag(self) -> bool:
        """The tag's signature counts."""
        return self.mode in {"Tag", "TagAndHEAD"}


class GitInclude(Model, frozen=True, kw_only=True):
    """Files of another GitRepository to lay over the own ones."""

    repository: Annotated[LocalObjectReference, Meta(description="The other GitRepository, in the same namespace.")]
    from_path: Annotated[str, Meta(description="Directory of the other repository; its root if not set.")] = ""
    to_path: Annotated[
        str, Meta(description="Directory to put the files into; the other repository's name if not set.")
    ] = ""

    @property
    def destination(self) -> str:
        """Directory the files go to."""
        return self.to_path or self.repository.name


class GitRepositorySpec(Model, frozen=True, kw_only=True):
    """Which Git repository to follow, and how."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.serviceAccountName) || "
            "(has(self.provider) && (self.provider == 'azure' || self.provider == 'aws'))",
            message="serviceAccountName can only be set when provider is 'azure' or 'aws'",
        ),
    )

    url: Annotated[
        str,
        Meta(
            description="Address to clone from: https, http or ssh.",
            extra_json_schema={"pattern": "^(http|https|ssh)://.*$"},
        ),
    ]
    secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(
            description="Secret with credentials: `username` and `password` or `bearerToken` for https, `identity` "
            "and `known_hosts` for ssh, `ca.crt`, `tls.crt` and `tls.key` for TLS."
        ),
    ] = None
    provider: Annotated[
        Literal["generic", "aws", "azure", "github"],
        Meta(description="Who issues the credentials; `generic`, the Secret, if not set."),
    ] = "generic"
    service_account_name: Annotated[
        str, Meta(description="ServiceAccount whose workload identity is used, with provider azure or aws.")
    ] = ""
    interval: Interval
    timeout: FetchTimeout = _DEFAULT_TIMEOUT
    ref: Annotated[GitRef | None, Meta(description="What to check out; branch `master` if not set.")] = None
    verify: Annotated[GitVerification | None, Meta(description="Signatures to demand.")] = None
    proxy_secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret with a proxy: `address`, `username`, `password`.")
    ] = None
    ignore: Ignore = None
    suspend: Suspend = False
    recurse_submodules: Annotated[bool, Meta(description="Fetch submodules too, with the same credentials.")] = False
    include: Annotated[
        tuple[GitInclude, ...], Meta(description="Other repositories whose files are laid over the own ones.")
    ] = ()
    sparse_checkout: Annotated[tuple[str, ...], Meta(description="Directories to check out; everything if empty.")] = ()

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval, self.timeout)

    @property
    def interval_seconds(self) -> float:
        """Seconds between two looks."""
        return parse_duration(self.interval)

    @property
    def timeout_seconds(self) -> float:
        """Seconds an attempt may take."""
        return parse_duration(self.timeout)


class GitRepositoryStatus(SourceStatus, frozen=True, kw_only=True):
    """What was found in the Git repository."""

    included_artifacts: Annotated[
        tuple[Artifact, ...], Meta(description="Artifacts of the includes, in the order of spec.include.")
    ] = ()
    observed_ignore: Annotated[str | None, Meta(description="spec.ignore of the stored artifact.")] = None
    observed_recurse_submodules: Annotated[bool, Meta(description="spec.recurseSubmodules of the stored artifact.")] = (
        False
    )
    observed_include: Annotated[tuple[GitInclude, ...], Meta(description="spec.include of the stored artifact.")] = ()
    observed_sparse_checkout: Annotated[
        tuple[str, ...], Meta(description="spec.sparseCheckout of the stored artifact.")
    ] = ()
    source_verification_mode: Annotated[
        str | None, Meta(description="Mode of the last verification that passed: HEAD, Tag or TagAndHEAD.")
    ] = None
    source_verification_fingerprint: Annotated[
        str, Meta(description="Digest of the keys of the last verification that passed; other keys verify anew.")
    ] = ""


class GitRepository(Resource, frozen=True, kw_only=True):
    """A Git repository that is followed, and the files at its newest wanted commit."""

    GVK: ClassVar[objects.GVK] = _gvk("GitRepository")
    NAMES: ClassVar[Names] = Names(
        plural="gitrepositories", short=("gitrepo",), categories=_CATEGORIES, columns=(_URL, AGE, READY, STATUS)
    )
    SUMMARISED: ClassVar[tuple[str, ...]] = _GIT_CONDITIONS
    OWNED: ClassVar[frozenset[str]] = frozenset({ConditionType.READY, *_GIT_CONDITIONS})

    spec: Annotated[GitRepositorySpec, Meta(description="Which Git repository to follow, and how.")]
    status: Annotated[GitRepositoryStatus, Meta(description="What was found in the Git repository.")] = (
        GitRepositoryStatus()
    )


# --- OCIRepository --------------------------------------------------------------------------------------------------


class OCIRef(Model, frozen=True, kw_only=True):
    """Which artifact of the repository. When several are set: digest, then semver, then tag."""

    digest: Annotated[str, Meta(description="Digest of the manifest, as sha256:hex.")] = ""
    semver: Annotated[str, Meta(description="Range of versions; the highest tag in it is used.")] = ""
    semver_filter: Annotated[
        str, Meta(description="Regular expression that tags have to match before semver chooses among them.")
    ] = ""
    tag: Annotated[str, Meta(description="Tag; `latest` if nothing at all is set.")] = ""


class LayerSelector(Model, frozen=True, kw_only=True):
    """Which layer of the artifact, and what to do with it."""

    media_type: Annotated[
        str, Meta(description="Media type of the layer; the first one with it is used. The first layer if not set.")
    ] = ""
    operation: Annotated[
        Literal["extract", "copy"] | None,
        Meta(description="`extract` unpacks the layer, which is the default; `copy` stores it as it is."),
    ] = None

    @property
    def copies(self) -> bool:
        """The layer is stored as it is."""
        return self.operation == "copy"


class OIDCIdentity(Model, frozen=True, kw_only=True):
    """Who may have signed without a key; both are regular expressions."""

    issuer: Annotated[str, Meta(description="Regular expression for the issuer of the signer's token.")]
    subject: Annotated[str, Meta(description="Regular expression for the signer's identity.")]


class OCIVerification(Model, frozen=True, kw_only=True):
    """Which signature has to be good before the artifact changes."""

    provider: Annotated[
        Literal["cosign", "notation"],
        Meta(
            description="How the artifact is signed.",
            extra_json_schema={"default": "cosign"},
            extra={"required": True},
        ),
    ] = "cosign"
    secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(
            description="Secret with public keys (*.pub for cosign), or certificates and `trustpolicy.json` "
            "(notation). Without it cosign verifies keyless signatures."
        ),
    ] = None
    match_oidc_identity: Annotated[
        tuple[OIDCIdentity, ...],
        Meta(description="Identities of which one has to have signed, for keyless signatures."),
    ] = field(name="matchOIDCIdentity", default=())


class OCIRepositoryVerification(OCIVerification, frozen=True, kw_only=True):
    """Which signature has to be good, with a Sigstore of one's own."""

    trusted_root_secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(description="Secret whose key `trusted_root.json` describes a private Sigstore."),
    ] = None


class OCIRepositorySpec(Model, frozen=True, kw_only=True):
    """Which OCI repository to follow, and how."""

    url: Annotated[
        str, Meta(pattern="^oci://.*$", description="Address, as oci://host/repository without tag and digest.")
    ]
    ref: Annotated[OCIRef | None, Meta(description="Which artifact; tag `latest` if not set.")] = None
    layer_selector: Annotated[
        LayerSelector | None, Meta(description="Which layer; the first one, unpacked, if not set.")
    ] = None
    provider: Provider = "generic"
    secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret of type kubernetes.io/dockerconfigjson.")
    ] = None
    service_account_name: Annotated[
        str,
        Meta(description="ServiceAccount whose image pull secrets, or whose workload identity, is used."),
    ] = ""
    cert_secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret with TLS data: `tls.crt` and `tls.key`, `ca.crt`.")
    ] = None
    proxy_secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret with a proxy: `address`, `username`, `password`.")
    ] = None
    verify: Annotated[OCIRepositoryVerification | None, Meta(description="Signature to demand.")] = None
    interval: Interval
    timeout: FetchTimeout = _DEFAULT_TIMEOUT
    ignore: Ignore = None
    insecure: Annotated[
        bool, Meta(description="Speak plain HTTP, and do not verify TLS where no certificates are given.")
    ] = False
    suspend: Suspend = False

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval, self.timeout)

    @property
    def interval_seconds(self) -> float:
        """Seconds between two looks."""
        return parse_duration(self.interval)

    @property
    def timeout_seconds(self) -> float:
        """Seconds an attempt may take."""
        return parse_duration(self.timeout)


class OCIRepositoryStatus(SourceStatus, frozen=True, kw_only=True):
    """What was found in the OCI repository."""

    url: Annotated[str, Meta(description="Address at which the newest artifact can always be downloaded.")] = ""
    observed_ignore: Annotated[str | None, Meta(description="spec.ignore of the stored artifact.")] = None
    observed_layer_selector: Annotated[
        LayerSelector | None, Meta(description="spec.layerSelector of the stored artifact.")
    ] = None
    source_verification_fingerprint: Annotated[
        str, Meta(description="Digest of the keys of the last verification that passed; other keys verify anew.")
    ] = ""


class OCIRepository(Resource, frozen=True, kw_only=True):
    """A repository of an OCI registry that is followed, and the files of its newest wanted artifact."""

    GVK: ClassVar[objects.GVK] = _gvk("OCIRepository")
    NAMES: ClassVar[Names] = Names(
        plural="ocirepositories", short=("ocirepo",), categories=_CATEGORIES, columns=(_URL, READY, STATUS, AGE)
    )
    SUMMARISED: ClassVar[tuple[str, ...]] = _OCI_CONDITIONS
    OWNED: ClassVar[frozenset[str]] = frozenset({ConditionType.READY, *_OCI_CONDITIONS})

    spec: Annotated[OCIRepositorySpec, Meta(description="Which OCI repository to follow, and how.")]
    status: Annotated[OCIRepositoryStatus, Meta(description="What was found in the OCI repository.")] = (
        OCIRepositoryStatus()
    )


# --- HelmRepository -------------------------------------------------------------------------------------------------


class NamespaceSelector(Model, frozen=True, kw_only=True):
    """Picks namespaces by their labels."""

    match_labels: Annotated[Mapping[str, str], Meta(description="Labels a namespace has to carry, all of them.")] = {}


class AccessFrom(Model, frozen=True, kw_only=True):
    """Who may refer to the object from other namespaces. Kept for compatibility; nothing reads it."""

    namespace_selectors: Annotated[
        tuple[NamespaceSelector, ...], Meta(description="Namespaces that may; each entry may match.")
    ]


class HelmRepositorySpec(Model, frozen=True, kw_only=True):
    """Which Helm repository to follow, and how."""

    url: Annotated[
        str,
        Meta(
            pattern="^(http|https|oci)://.*$",
            description="Address of the directory that holds index.yaml, or of charts in an OCI registry.",
        ),
    ]
    type: Annotated[
        Literal["default", "oci"] | None,
        Meta(description="`default` for an HTTP repository with an index, `oci` for charts in an OCI registry."),
    ] = None
    interval: Annotated[
        Duration | None, Meta(description="How often to fetch the index; 1m if not set. Without meaning for oci.")
    ] = None
    timeout: Annotated[
        Timeout | None,
        Meta(description="How long fetching the index, or a chart from an OCI registry, may take; 60s if not set."),
    ] = None
    secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(description="Secret with `username` and `password`, or for oci a registry's configuration."),
    ] = None
    cert_secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret with TLS data: `tls.crt` and `tls.key`, `ca.crt`.")
    ] = None
    pass_credentials: Annotated[
        bool, Meta(description="Send the credentials to other hosts that the index names, too.")
    ] = False
    provider: Provider = "generic"
    insecure: Annotated[bool, Meta(description="Speak plain HTTP with an OCI registry.")] = False
    suspend: Suspend = False
    access_from: Annotated[
        AccessFrom | None,
        Meta(description="Who may refer to the object from other namespaces. Kept for compatibility; not read."),
    ] = None

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval, self.timeout)

    @property
    def is_oci(self) -> bool:
        """The charts lie in an OCI registry: the object is only data for others."""
        return self.type == "oci"

    @property
    def interval_seconds(self) -> float:
        """Seconds between two looks; zero counts as not set."""
        return parse_duration(self.interval or "0") or _DEFAULT_HELM_INTERVAL

    @property
    def timeout_seconds(self) -> float:
        """Seconds an attempt may take."""
        return parse_duration(self.timeout or _DEFAULT_TIMEOUT)


class HelmRepositoryStatus(SourceStatus, frozen=True, kw_only=True):
    """What was found in the Helm repository."""

    url: Annotated[str, Meta(description="Address at which the newest index can always be downloaded.")] = ""


class HelmRepository(Resource, frozen=True, kw_only=True):
    """A Helm repository that is followed, and its newest index; of type `oci` it only holds data for charts."""

    GVK: ClassVar[objects.GVK] = _gvk("HelmRepository")
    NAMES: ClassVar[Names] = Names(
        plural="helmrepositories", short=("helmrepo",), categories=_CATEGORIES, columns=(_URL, AGE, READY, STATUS)
    )
    SUMMARISED: ClassVar[tuple[str, ...]] = _PLAIN_CONDITIONS
    OWNED: ClassVar[frozenset[str]] = frozenset({ConditionType.READY, *_PLAIN_CONDITIONS})

    spec: Annotated[HelmRepositorySpec, Meta(description="Which Helm repository to follow, and how.")]
    status: Annotated[HelmRepositoryStatus, Meta(description="What was found in the Helm repository.")] = (
        HelmRepositoryStatus()
    )


# --- HelmChart ------------------------------------------------------------------------------------------------------


class ChartSourceReference(Model, frozen=True, kw_only=True):
    """Names the source a chart is taken from."""

    api_version: Annotated[str, Meta(description="API version of the source; not read.")] = ""
    kind: Annotated[Literal["HelmRepository", "GitRepository", "Bucket"], Meta(description="Kind of the source.")]
    name: Annotated[str, Meta(description="Name of the source, in the same namespace.")]


class HelmChartSpec(Model, frozen=True, kw_only=True):
    """Which chart to take from which source."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.verify) || self.sourceRef.kind == 'HelmRepository'",
            message="spec.verify is only supported when spec.sourceRef.kind is 'HelmRepository'",
        ),
    )

    chart: Annotated[
        str, Meta(description="Name of the chart in a Helm repository, or path of a chart in the other sources.")
    ]
    version: Annotated[
        str,
        Meta(
            description="Version or range of versions; only for Helm repositories.",
            extra_json_schema={"default": "*"},
        ),
    ] = "*"
    source_ref: Annotated[ChartSourceReference, Meta(description="Where the chart is.")]
    interval: Interval
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
    suspend: Suspend = False
    verify: Annotated[
        OCIVerification | None, Meta(description="Signature to demand; only for charts in an OCI registry.")
    ] = None

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval)

    @property
    def interval_seconds(self) -> float:
        """Seconds between two looks."""
        return parse_duration(self.interval)


class HelmChartStatus(SourceStatus, frozen=True, kw_only=True):
    """What was made of the chart."""

    url: Annotated[str, Meta(description="Address at which the newest chart can always be downloaded.")] = ""
    observed_source_artifact_revision: Annotated[
        str, Meta(description="Newest revision of the source that was seen.")
    ] = ""
    observed_chart_name: Annotated[str, Meta(description="Name of the stored chart.")] = ""
    observed_values_files: Annotated[
        tuple[str, ...], Meta(description="Values files that were merged, when missing ones are passed over.")
    ] = ()


class HelmChart(Resource, frozen=True, kw_only=True):
    """A chart that is taken from a source and kept up to date."""

    GVK: ClassVar[objects.GVK] = _gvk("HelmChart")
    NAMES: ClassVar[Names] = Names(
        plural="helmcharts",
        short=("hc",),
        categories=_CATEGORIES,
        columns=(
            Column(name="Chart", path=".spec.chart"),
            Column(name="Version", path=".spec.version"),
            Column(name="Source Kind", path=".spec.sourceRef.kind"),
            Column(name="Source Name", path=".spec.sourceRef.name"),
            AGE,
            READY,
            STATUS,
        ),
    )
    SUMMARISED: ClassVar[tuple[str, ...]] = _CHART_CONDITIONS
    OWNED: ClassVar[frozenset[str]] = frozenset({ConditionType.READY, *_CHART_CONDITIONS})

    spec: Annotated[HelmChartSpec, Meta(description="Which chart to take from which source.")]
    status: Annotated[HelmChartStatus, Meta(description="What was made of the chart.")] = HelmChartStatus()

    @property
    def source_key(self) -> objects.ObjectKey:
        """The source, which is always in the chart's own namespace."""
        return objects.ObjectKey(
            SOURCE_GROUP, self.spec.source_ref.kind, self.metadata.namespace, self.spec.source_ref.name
        )


# --- Bucket ---------------------------------------------------------------------------------------------------------


class BucketSTS(Model, frozen=True, kw_only=True):
    """A security token service that issues the credentials."""

    provider: Annotated[Literal["aws", "ldap"], Meta(description="Kind of the service.")]
    endpoint: Annotated[str, Meta(pattern="^(http|https)://.*$", description="Address of the service, http or https.")]
    secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret with `username` and `password`, for ldap.")
    ] = None
    cert_secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(description="Secret with TLS data: `tls.crt` and `tls.key`, `ca.crt`, for ldap."),
    ] = None


class BucketSpec(Model, frozen=True, kw_only=True):
    """Which bucket to follow, and how."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.provider == 'aws' || self.provider == 'generic' || !has(self.sts)",
            message="STS configuration is only supported for the 'aws' and 'generic' Bucket providers",
        ),
        Rule(
            rule="self.provider != 'aws' || !has(self.sts) || self.sts.provider == 'aws'",
            message="'aws' is the only supported STS provider for the 'aws' Bucket provider",
        ),
        Rule(
            rule="self.provider != 'generic' || !has(self.sts) || self.sts.provider == 'ldap'",
            message="'ldap' is the only supported STS provider for the 'generic' Bucket provider",
        ),
        Rule(
            rule="!has(self.sts) || self.sts.provider != 'aws' || !has(self.sts.secretRef)",
            message="spec.sts.secretRef is not required for the 'aws' STS provider",
        ),
        Rule(
            rule="!has(self.sts) || self.sts.provider != 'aws' || !has(self.sts.certSecretRef)",
            message="spec.sts.certSecretRef is not required for the 'aws' STS provider",
        ),
        Rule(
            rule="self.provider != 'generic' || !has(self.serviceAccountName)",
            message="ServiceAccountName is not supported for the 'generic' Bucket provider",
        ),
        Rule(
            rule="!has(self.secretRef) || !has(self.serviceAccountName)",
            message="cannot set both .spec.secretRef and .spec.serviceAccountName",
        ),
    )

    provider: Annotated[
        Literal["generic", "aws", "gcp", "azure"],
        Meta(
            description="Whose storage it is; `generic` is everything that speaks S3.",
            extra_json_schema={"default": "generic"},
        ),
    ] = "generic"
    bucket_name: Annotated[str, Meta(description="Name of the bucket or container.")]
    endpoint: Annotated[
        str, Meta(description="Host, and port if need be, of the storage; the whole address for azure.")
    ]
    region: Annotated[str, Meta(description="Region of the bucket.")] = ""
    prefix: Annotated[str, Meta(description="Only objects whose key begins with this.")] = ""
    insecure: Annotated[bool, Meta(description="Speak plain HTTP, for generic and aws.")] = False
    secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(description="Secret with credentials: `accesskey` and `secretkey`, or what the provider calls for."),
    ] = None
    service_account_name: Annotated[
        str, Meta(description="ServiceAccount whose workload identity is used; not for generic.")
    ] = ""
    cert_secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(description="Secret with TLS data: `tls.crt` and `tls.key`, `ca.crt`; for generic and aws."),
    ] = None
    proxy_secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret with a proxy: `address`, `username`, `password`.")
    ] = None
    sts: Annotated[BucketSTS | None, Meta(description="Security token service that issues the credentials.")] = None
    interval: Interval
    timeout: FetchTimeout = _DEFAULT_TIMEOUT
    ignore: Ignore = None
    suspend: Suspend = False

    def __post_init__(self) -> None:
        """Refuse durations that cannot be read."""
        require_durations(self.interval, self.timeout)

    @property
    def interval_seconds(self) -> float:
        """Seconds between two looks."""
        return parse_duration(self.interval)

    @property
    def timeout_seconds(self) -> float:
        """Seconds the listing may take, and the downloads once more."""
        return parse_duration(self.timeout)


class BucketStatus(SourceStatus, frozen=True, kw_only=True):
    """What was found in the bucket."""

    url: Annotated[str, Meta(description="Address at which the newest artifact can always be downloaded.")] = ""
    observed_ignore: Annotated[str | None, Meta(description="spec.ignore of the stored artifact.")] = None


class Bucket(Resource, frozen=True, kw_only=True):
    """A bucket of an object storage that is followed, and the files in it."""

    GVK: ClassVar[objects.GVK] = _gvk("Bucket")
    NAMES: ClassVar[Names] = Names(
        plural="buckets",
        categories=_CATEGORIES,
        columns=(Column(name="Endpoint", path=".spec.endpoint"), AGE, READY, STATUS),
    )
    SUMMARISED: ClassVar[tuple[str, ...]] = _PLAIN_CONDITIONS
    OWNED: ClassVar[frozenset[str]] = frozenset({ConditionType.READY, *_PLAIN_CONDITIONS})

    spec: Annotated[BucketSpec, Meta(description="Which bucket to follow, and how.")]
    status: Annotated[BucketStatus, Meta(description="What was found in the bucket.")] = BucketStatus()


# --- ExternalArtifact -----------------------------------------------------------------------------------------------


class ExternalSourceReference(Model, frozen=True, kw_only=True):
    """Names the object an artifact was made from."""

    api_version: Annotated[str, Meta(description="API version of the object.")] = ""
    kind: Annotated[str, Meta(description="Kind of the object.")]
    name: Annotated[str, Meta(description="Name of the object.")]
    namespace: Annotated[str, Meta(description="Namespace of the object; this one's own if not set.")] = ""


class ExternalArtifactSpec(Model, frozen=True, kw_only=True):
    """Where the artifact comes from, for people to know."""

    source_ref: Annotated[
        ExternalSourceReference | None, Meta(description="Object of another controller that the artifact is made from.")
    ] = None


class ExternalArtifactStatus(Model, frozen=True, kw_only=True):
    """What the other controller made."""

    artifact: Annotated[Artifact | None, Meta(description="The newest artifact.")] = None
    conditions: Annotated[tuple[Condition, ...], Meta(description="The object's state, aspect by aspect.")] = ()
    exported_inputs: Annotated[
        Mapping[str, Any], Meta(description="Whatever the other controller wants to tell those who build on it.")
    ] = {}


class ExternalArtifact(Resource, frozen=True, kw_only=True):
    """An artifact that another controller makes and serves; it is only consumed here."""

    GVK: ClassVar[objects.GVK] = _gvk("ExternalArtifact")
    NAMES: ClassVar[Names] = Names(
        plural="externalartifacts",
        short=("ea",),
        categories=_CATEGORIES,
        columns=(AGE, READY, STATUS, Column(name="Source", path=".spec.sourceRef.name")),
    )

    spec: Annotated[ExternalArtifactSpec, Meta(description="Where the artifact comes from, for people to know.")] = (
        ExternalArtifactSpec()
    )
    status: Annotated[ExternalArtifactStatus, Meta(description="What the other controller made.")] = (
        ExternalArtifactStatus()
    )


KINDS: Final[tuple[type[Resource], ...]] = (
    GitRepository,
    OCIRepository,
    HelmRepository,
    HelmChart,
    Bucket,
    ExternalArtifact,
)
