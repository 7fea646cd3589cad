"""A tree, a path and a spec become objects: one request to the engine, remembered while its inputs stay the same.

Theory of operation. A build depends on the tree's digest, the path, the fields of the spec that shape the build, and
the variables; together they are its *input digest*. The last result of each Kustomization is kept as compact JSON
within a byte budget, so that an interval run over an unchanged revision costs no build. What a build took from
elsewhere (remote bases) is no part of that digest: such a result is never kept, and the next run looks there again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from gitopsd import metrics
from gitopsd.api.kustomization import Kustomization
from gitopsd.api.meta import KUSTOMIZE_SUBSTITUTE
from gitopsd.artifact.tree import FileTree, clamp_path
from gitopsd.engine import BuildError, BuildSpec, Engine, EngineError, EngineRefused, EngineTimeout
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import GVK, Obj, annotations_of, gvk_of, labels_of
from gitopsd.kustomize.variables import ReadConfig, VariablesError, gather


class RenderError(GitopsdError):
    """The objects could not be built; the text says which file and why."""


class RefusedError(RenderError):
    """The input harms the engine: trying it again would harm it again."""


@dataclass(frozen=True)
class Rendered:
    """What a build gave: the objects in build order, and the digest of their text."""

    objects: list[Obj]
    digest: str


class Renderer:
    """Builds Kustomizations."""

    def __init__(
        self,
        engine: Engine,
        *,
        timeout: float,
        remote_bases: bool,
        strict: bool,
        budget: int = 32 << 20,
    ) -> None:
        """`timeout` bounds one build (seconds); `budget` bounds the remembered results (bytes)."""
        self._engine = engine
        self._timeout = timeout
        self._remote_bases = remote_bases
        self._strict = strict
        self._budget = budget
        self._kept: OrderedDict[str, tuple[str, bytes, str]] = OrderedDict()
        self._kept_bytes = 0

    async def render(self, kustomization: Kustomization, tree: FileTree, read: ReadConfig) -> Rendered:
        """Build the objects of a Kustomization from its artifact. Raises RenderError."""
        post_build = kustomization.spec.post_build
        variables: Mapping[str, str] = {}
        problem: VariablesError | None = None
        if post_build is not None:
            try:
                variables = await gather(post_build, read)
            except VariablesError as error:
                problem = error
        substitutes = post_build is not None and (bool(variables) or post_build.substitute_strategy == "Always")
        spec = self._build_spec(kustomization, variables if substitutes and problem is None else None)
        rendered = await self._built(kustomization, tree, spec)
        if problem is not None:
            _refuse_first(rendered.objects, problem)
        return rendered

    def forget(self, subject: str) -> None:
        """The Kustomization is gone."""
        kept = self._kept.pop(subject, None)
        if kept is not None:
            self._kept_bytes -= len(kept[1])

    async def _built(self, kustomization: Kustomization, tree: FileTree, spec: BuildSpec) -> Rendered:
        subject = kustomization.key.subject
        digest = _input_digest(tree, spec)
        kept = self._kept.get(subject)
        if kept is not None and kept[0] == digest:
            metrics.build_cache.labels("hit").inc()
            return Rendered(orjson.loads(kept[1]), kept[2])
        metrics.build_cache.labels("miss").inc()
        try:
            result = await self._engine.build(
                tree, spec, subject=subject, timeout=self._timeout, remote_bases=self._remote_bases
            )
        except EngineRefused as error:
            raise RefusedError(str(error)) from error
        except EngineTimeout as error:
            raise RenderError(f"kustomize build failed: no result within {self._timeout:g}s") from error
        except (BuildError, EngineError) as error:
            raise RenderError(str(error)) from error
        if result.remote:
            self.forget(subject)
        else:
            self._keep(subject, digest, orjson.dumps(result.objects), result.digest)
        return Rendered(result.objects, result.digest)

    def _keep(self, subject: str, digest: str, objects: bytes, built_digest: str) -> None:
        self.forget(subject)
        if len(objects) > self._budget // 4:
            return
        self._kept[subject] = (digest, objects, built_digest)
        self._kept_bytes += len(objects)
        while self._kept_bytes > self._budget:
            _, (_, dropped, _) = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)

    def _build_spec(self, kustomization: Kustomization, variables: Mapping[str, str] | None) -> BuildSpec:
        spec = kustomization.spec.to_builtins()
        wanted = ("targetNamespace", "namePrefix", "nameSuffix", "patches", "components", "images", "buildMetadata")
        return BuildSpec(
            path=clamp_path(kustomization.spec.path),
            fields={key: spec[key] for key in (*wanted, "ignoreMissingComponents") if key in spec},
            variables=variables,
            strict=self._strict,
        )


def _input_digest(tree: FileTree, spec: BuildSpec) -> str:
    inputs = [tree.digest, spec.path, spec.fields, spec.variables and dict(spec.variables), spec.strict]
    return hashlib.sha256(orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _refuse_first(objects: list[Obj], problem: VariablesError) -> None:
    """Blame missing variables on the first object that would have been substituted, as upstream does."""
    for obj in objects:
        if "disabled" in (labels_of(obj).get(KUSTOMIZE_SUBSTITUTE), annotations_of(obj).get(KUSTOMIZE_SUBSTITUTE)):
            continue
        raise RenderError(f"post build failed for '{identity(gvk_of(obj))}/{obj['metadata']['name']}': {problem}")


def identity(gvk: GVK) -> str:
    """`Kind.version.group` as kustomize writes it."""
    return f"{gvk.kind or '[noKind]'}.{gvk.version or '[noVer]'}.{gvk.group or '[noGrp]'}"
