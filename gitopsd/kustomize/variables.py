"""The variables of a Kustomization's `postBuild`: gathered, checked and merged (`spec/kustomize.md` 3.7).

Knows which values win and which names are legal; what `${…}` means is the engine's business. Reads through the function
it is given, once per run and not once per resource.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping

from gitopsd.api.kustomization import PostBuild, SubstituteReference
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj

# Go's [:alpha:] in a plain regular expression is ASCII.
_NAME = re.compile(r"[_A-Za-z][_A-Za-z0-9]*")
_NAME_RULE = "^[_[:alpha:]][_[:alpha:][:digit:]]*$"

ReadConfig = Callable[[str, str], Awaitable[Obj | None]]
"""Read a ConfigMap or Secret (kind, name) of the Kustomization's namespace; None when there is none."""


class VariablesError(GitopsdError):
    """The variables cannot be used; the text is what upstream says of it."""


async def gather(post_build: PostBuild, read: ReadConfig) -> Mapping[str, str]:
    """All variables: `substituteFrom` in its order, then `substitute`; the later wins.

    Raises VariablesError when a reference is missing, unreadable, or a name is not legal.
    """
    variables: dict[str, str] = {}
    for reference in post_build.substitute_from:
        variables.update(await _referenced(reference, read))
    variables.update(post_build.substitute)
    for name in variables:
        if not _NAME.fullmatch(name):
            raise VariablesError(f"envsubst error: '{name}' var name is invalid, must match '{_NAME_RULE}'")
    return {name: value.replace("\n", "") for name, value in variables.items()}


async def _referenced(reference: SubstituteReference, read: ReadConfig) -> Mapping[str, str]:
    try:
        obj = await read(reference.kind, reference.name)
    except GitopsdError as error:
        raise VariablesError(f"substitute from '{reference.kind}/{reference.name}' error: {error}") from error
    if obj is None:
        if reference.optional:
            return {}
        plural = "secrets" if reference.kind == "Secret" else "configmaps"
        raise VariablesError(
            f"substitute from '{reference.kind}/{reference.name}' error: {plural} \"{reference.name}\" not found"
        )
    data = obj.get("data") or {}
    if reference.kind == "Secret":
        return {key: _decoded(reference, key, value) for key, value in data.items()}
    return {str(key): str(value) for key, value in data.items()}


def _decoded(reference: SubstituteReference, key: str, value: str) -> str:
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        # The value itself is never shown: it is a secret.
        raise VariablesError(f"substitute from 'Secret/{reference.name}' error: key '{key}' is not text") from error
