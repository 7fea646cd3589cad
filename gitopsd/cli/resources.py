"""Resource words as kubectl takes them: `deploy`, `deployments`, `deployments.apps`, `ks`, `Kustomization`.

Asks the API server what it serves, short names included, which the daemon's own discovery has no use for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gitopsd.cli.flags import CommandError
from gitopsd.krm.objects import GVK

if TYPE_CHECKING:
    from gitopsd.kube.client import KubeClient
    from gitopsd.kube.discovery import Resource

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


class Named(NamedTuple):
    """A kind and every word for it."""

    gvk: GVK
    plural: str
    namespaced: bool
    words: frozenset[str]

    def resource(self) -> Resource:
        """The kind as paths are made of it."""
        from gitopsd.kube.discovery import Resource

        return Resource(self.gvk, self.plural, self.namespaced)


def rows(document: Mapping[str, Any]) -> Iterator[Named]:
    """The kinds of an aggregated discovery document, in the server's order of preference."""
    for group in document.get("items") or []:
        name = str((group.get("metadata") or {}).get("name") or "")
        for version in group.get("versions") or []:
            for resource in version.get("resources") or []:
                kind = str((resource.get("responseKind") or {}).get("kind") or "")
                singular = str(resource.get("singularResource") or "")
                words = {str(resource["resource"]), singular, kind.lower(), *(resource.get("shortNames") or [])}
                yield Named(
                    GVK(name, str(version["version"]), kind),
                    str(resource["resource"]),
                    resource.get("scope") == "Namespaced",
                    frozenset(words - {""}),
                )


def find(served: Iterator[Named], word: str) -> Named:
    """The first kind that `word` names: `resource`, `resource.group` or `resource.version.group`."""
    name, _, qualifier = word.lower().partition(".")
    for named in served:
        group, version, _ = named.gvk
        if name in named.words and qualifier in {"", group, f"{version}.{group}"}:
            return named
    raise CommandError(f'the server doesn\'t have a resource type "{word}"')


async def resolve(client: KubeClient, word: str) -> Named:
    """Ask the server which kind `word` means; core kinds come first."""
    served: list[Named] = []
    for path in ("/api", "/apis"):
        body = await client.raw("GET", path, accept=_AGGREGATED)
        from gitopsd.krm.documents import load_json

        served.extend(rows(load_json(body, source="discovery")))
    return find(iter(served), word)
