"""Parts that the specs and statuses of several kinds have in common.

Shapes, defaults and rules only; what they mean is the business of the controllers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from gitopsd.api.meta import LocalObjectReference, Model
from gitopsd.api.resource import Rule

ObjectName = Annotated[str, Meta(min_length=1, max_length=253)]
"""As long as the name of an object may be."""
NamespaceName = Annotated[str, Meta(min_length=1, max_length=63)]
"""As long as the name of a namespace may be."""


class SecretKeyReference(Model, frozen=True, kw_only=True):
    """Names a Secret in the same namespace and, if wanted, one key in it."""

    name: Annotated[str, Meta(description="Name of the Secret.")]
    key: Annotated[
        str | None, Meta(description="Key that holds the kubeconfig; without it `value`, then `value.yaml` is read.")
    ] = None


_ONE_KUBECONFIG = "exactly one of spec.kubeConfig.configMapRef or spec.kubeConfig.secretRef must be specified"


class KubeConfig(Model, frozen=True, kw_only=True):
    """Where the objects go when it is not this cluster."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(rule="has(self.configMapRef) || has(self.secretRef)", message=_ONE_KUBECONFIG),
        Rule(rule="!has(self.configMapRef) || !has(self.secretRef)", message=_ONE_KUBECONFIG),
    )

    config_map_ref: Annotated[
        LocalObjectReference | None,
        Meta(
            description="ConfigMap that describes a cluster reached with workload identity: keys `provider` (aws, "
            "azure, gcp, generic), `cluster`, `address`, `ca.crt`, `audiences`, `serviceAccountName`."
        ),
    ] = None
    secret_ref: Annotated[
        SecretKeyReference | None, Meta(description="Secret that holds a kubeconfig file for the cluster.")
    ] = None


class Dependency(Model, frozen=True, kw_only=True):
    """Another object of the same kind that has to be ready first."""

    name: Annotated[str, Meta(description="Name of the object that has to be ready first.")]
    namespace: Annotated[str | None, Meta(description="Its namespace; this object's own if not set.")] = None
    ready_expr: Annotated[
        str | None,
        Meta(
            description="CEL expression that decides instead of the built-in check whether the dependency is ready. "
            "It sees this object as `self` and the dependency as `dep`, and has to give a boolean."
        ),
    ] = None


class HealthExpression(Model, frozen=True, kw_only=True):
    """How to judge the health of a custom resource."""

    api_version: Annotated[str, Meta(description="API version of the custom resource; its group decides.")]
    kind: Annotated[str | None, Meta(description="Its kind; every kind of the group if not set.")] = None
    current: Annotated[str, Meta(description="CEL expression over the object that is true when it is healthy.")]
    in_progress: Annotated[
        str | None, Meta(description="CEL expression that is true while the object is on its way.")
    ] = None
    failed: Annotated[str | None, Meta(description="CEL expression that is true when the object has failed.")] = None


class CommonMetadata(Model, frozen=True, kw_only=True):
    """Labels and annotations for every object."""

    labels: Annotated[Mapping[str, str], Meta(description="Labels to set, over those that are there.")] = {}
    annotations: Annotated[Mapping[str, str], Meta(description="Annotations to set, over those that are there.")] = {}


class Selector(Model, frozen=True, kw_only=True):
    """Picks objects; what is not set matches everything, and all that is set has to match.

    Group, version, kind, name and namespace are regular expressions for the whole text.
    """

    group: Annotated[str, Meta(description="API group.")] = ""
    version: Annotated[str, Meta(description="API version, without the group.")] = ""
    kind: Annotated[str, Meta(description="Kind.")] = ""
    name: Annotated[str, Meta(description="Name.")] = ""
    namespace: Annotated[str, Meta(description="Namespace.")] = ""
    label_selector: Annotated[
        str, Meta(description="Selector over the labels, in the syntax of Kubernetes label selectors.")
    ] = ""
    annotation_selector: Annotated[
        str, Meta(description="Selector over the annotations, in the syntax of Kubernetes label selectors.")
    ] = ""


class Patch(Model, frozen=True, kw_only=True):
    """A change to objects of the build."""

    patch: Annotated[
        str, Meta(description="A strategic merge patch, or a list of JSON 6902 operations, as YAML or JSON text.")
    ]
    target: Annotated[
        Selector | None,
        Meta(description="Objects to patch; if not set the strategic merge patch itself names its object."),
    ] = None


class Image(Model, frozen=True, kw_only=True):
    """Another name, tag or digest for an image."""

    name: Annotated[str, Meta(description="Image name without tag, as it stands in the manifests.")]
    new_name: Annotated[str, Meta(description="Name to use instead.")] = ""
    new_tag: Annotated[str, Meta(description="Tag to use instead.")] = ""
    digest: Annotated[str, Meta(description="Digest to use instead of any tag.")] = ""


class IgnoreRule(Model, frozen=True, kw_only=True):
    """Fields that belong to somebody else."""

    paths: Annotated[
        tuple[str, ...], Meta(description="JSON pointers (RFC 6901) to the fields; the empty one is the whole object.")
    ]
    target: Annotated[Selector | None, Meta(description="Objects the rule is for; all if not set.")] = None


class InventoryEntry(Model, frozen=True, kw_only=True):
    """One object that was applied and is kept track of."""

    id: Annotated[str, Meta(description="Identity of the object: namespace_name_group_kind.")]
    v: Annotated[str, Meta(description="API version of the object, without the group.")]


class Inventory(Model, frozen=True, kw_only=True):
    """The objects that were applied."""

    entries: Annotated[tuple[InventoryEntry, ...], Meta(description="The objects, in the order of application.")]
