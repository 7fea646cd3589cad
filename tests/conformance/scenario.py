"""Scenarios and their recordings as files, and the words in them that stand for something of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

GOLDENS = Path(__file__).parent / "goldens"


def load_yaml(path: Path) -> Any:
    """The only document of a file."""
    return yaml.load(path.read_text(), Loader=yaml.CSafeLoader)


@dataclass(frozen=True)
class Scenario:
    """Steps to play, and what they showed when the reference implementation worked on them."""

    name: str  # "kustomize/success"
    why: str
    steps: list[dict[str, Any]]
    mask: list[re.Pattern[str]]
    hide: list[str]
    golden: list[dict[str, Any]]

    @classmethod
    def load(cls, name: str) -> Scenario:
        """Read a scenario and its recording."""
        document = load_yaml(GOLDENS / f"{name}.yaml")
        recorded = load_yaml(GOLDENS / f"{name}.golden.yaml")
        unknown = set(document) - {"name", "why", "steps", "mask", "hide"}
        assert not unknown, f"{name}: the runner does not know {sorted(unknown)}"
        # The dot crosses lines: a masked text is masked to its end.
        masks = [re.compile(pattern, re.DOTALL) for pattern in document.get("mask", ())]
        return cls(name, document["why"], document["steps"], masks, document.get("hide", []), recorded["observed"])


@cache
def names() -> tuple[str, ...]:
    """Every scenario there is, as `folder/name`."""
    found = [path.relative_to(GOLDENS).with_suffix("") for path in GOLDENS.glob("*/*.yaml")]
    return tuple(sorted(str(name) for name in found if not str(name).endswith(".golden")))


@dataclass
class Places:
    """What the placeholders stand for in one run; grows while commits and pushes are made."""

    namespace: str
    git: str  # base URLs without a slash at their end
    http: str
    storage: str  # host:port of the artifact server
    registry: str = ""  # host and prefix
    shas: dict[str, list[str]] = field(default_factory=dict)  # repository -> hashes of its commits
    pushes: dict[str, list[str]] = field(default_factory=dict)  # OCI repository -> digests (hex) of its pushes
    layers: dict[str, str] = field(default_factory=dict)  # digest (hex) -> "REPO:N:I"
    files: dict[str, str] = field(default_factory=dict)  # digest (hex) of served content -> "PATH:N"

    def fill(self, value: Any) -> Any:
        """`value` with every placeholder replaced, keys too."""
        if isinstance(value, str):
            return re.sub(r"<([a-z-]+)((?::[^:<>]+)*)>", self._meaning, value)
        if isinstance(value, Mapping):
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        return value

    def _meaning(self, match: re.Match[str]) -> str:
        arguments = match[2].split(":")[1:]
        match match[1], arguments:
            case "sha", [repository, number]:
                return self.shas[repository][int(number) - 1]
            case "oci", [repository, number]:
                return self.pushes[repository][int(number) - 1]
            case name, []:
                return self.names.get(name, match[0])
        return match[0]

    @property
    def names(self) -> dict[str, str]:
        """The placeholders without arguments; longer values come first, so that they can be put back in this order."""
        return {
            "git": self.git,
            "http": self.http,
            **({"registry": self.registry, "registry-host": self.registry.partition("/")[0]} if self.registry else {}),
            "storage": self.storage,
            "git-host": self.git.partition("//")[2],
            "ns": self.namespace,
        }
