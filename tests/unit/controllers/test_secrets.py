"""What may stand in a reference to a Secret or ServiceAccount, and what is asked for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gitopsd.controllers.kustomization_run import Attempt
from gitopsd.controllers.secrets import Secrets
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj
from tests.virtual import run

STRANGE = ["../../b/secrets/x", "b/x", "..", ".", "", "x%2f..", "x/status"]


class Asked:
    """Answers everything, and remembers the paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def get(self, path: str) -> Obj:
        self.paths.append(path)
        return {"metadata": {"name": "x"}, "data": {}}

    async def create(self, path: str, _: Obj) -> Obj:
        self.paths.append(path)
        return {"status": {"token": "made"}}


async def _each(secrets: Secrets, name: str) -> list[Any]:
    found: list[Any] = []
    for ask in (
        secrets.get("a", name),
        secrets.service_account("a", name),
        secrets.token("a", name, "audience"),
    ):
        try:
            found.append(await ask)
        except GitopsdError as error:
            found.append(error)
    return found


@pytest.mark.parametrize("name", STRANGE)
def test_P07_a_name_that_no_object_can_have_is_refused_before_it_becomes_a_path(name: str) -> None:
    client = Asked()
    for outcome in run(_each(Secrets(client), name)):  # type: ignore[arg-type]
        assert isinstance(outcome, GitopsdError)
        assert "is not a name that an object can have" in str(outcome)
    assert client.paths == []


def test_P07_what_else_a_path_would_read_differently_is_encoded() -> None:
    client = Asked()
    run(_each(Secrets(client), "x?watch=true#y"))  # type: ignore[arg-type]
    name = "x%3Fwatch%3Dtrue%23y"
    assert client.paths == [
        f"/api/v1/namespaces/a/secrets/{name}",
        f"/api/v1/namespaces/a/serviceaccounts/{name}",
        f"/api/v1/namespaces/a/serviceaccounts/{name}/token",
    ]


@pytest.mark.parametrize("kind", ["Secret", "ConfigMap"])
@pytest.mark.parametrize("name", STRANGE)
def test_P07_nor_does_a_kustomizations_reference_to_values_become_a_path(kind: str, name: str) -> None:
    kustomization = SimpleNamespace(metadata=SimpleNamespace(namespace="a"))
    read: Any = Attempt._read_config
    with pytest.raises(GitopsdError, match="is not a name that an object can have"):
        run(read(SimpleNamespace(_kustomization=kustomization, _read=None), kind, name))
