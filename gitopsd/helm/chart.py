"""What a HelmChart makes of a chart: its version, what is said about it, and what can go wrong on the way.

Knows the rules of spec/source.md 8.3 to 8.5 for all kinds of sources; refuses to know where charts come from
(`fetch.helmcharts`) and how they are packaged (`helm.package`). Pure.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gitopsd.api.meta import ConditionType, Reason
from gitopsd.errors import GitopsdError, presentable
from gitopsd.versions import Version, VersionError

VALUES_FILE: Final = "values.yaml"
_SHORT: Final = 12
# As upstream, in a form that needs no backtracking: words, between them a `/`, a `.` or both.
_NAME = re.compile(r"[-a-z0-9]+(?:(?:/\.?|\.)[-a-z0-9]+)*(?:/\.?|\.)?")
_LONGEST_NAME: Final = 250


class Failure(Enum):
    """The ways in which a build fails (`spec/source.md` 8.5): reason, summary, condition, and whether it stalls."""

    REFERENCE = (Reason.INVALID_CHART_REFERENCE, "invalid chart reference", ConditionType.FETCH_FAILED, True)
    PULL = (Reason.CHART_PULL_ERROR, "chart pull error", ConditionType.FETCH_FAILED, False)
    METADATA = (Reason.METADATA_PATCH_ERROR, "chart metadata patch error", ConditionType.BUILD_FAILED, True)
    VALUES = (Reason.VALUES_FILES_ERROR, "values files merge error", ConditionType.BUILD_FAILED, True)
    DEPENDENCY = (Reason.DEPENDENCY_BUILD_ERROR, "dependency build error", ConditionType.BUILD_FAILED, False)
    PACKAGE = (Reason.CHART_PACKAGE_ERROR, "chart package error", ConditionType.BUILD_FAILED, False)
    VERIFICATION = (Reason.CHART_VERIFICATION_ERROR, "chart verification error", ConditionType.BUILD_FAILED, False)
    UNKNOWN = (Reason.UNKNOWN, "unknown build error", ConditionType.FETCH_FAILED, False)

    def __init__(self, reason: Reason, summary: str, condition: ConditionType, stalls: bool) -> None:
        self.reason = reason
        self.summary = summary
        self.condition = condition
        self.stalls = stalls


class ChartBuildError(GitopsdError):
    """A build that failed, in the words for its condition."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(f"{failure.summary}: {message}")
        self.failure = failure


@dataclass(frozen=True)
class Build:
    """What is known of a chart by now. `content` is None when it is what is stored already."""

    name: str
    version: str
    values_files: tuple[str, ...] = ()
    is_complete: bool = False
    is_packaged: bool = False
    dependencies: int = 0
    content: bytes | None = None
    verified: bool | None = None  # None: not to be verified

    @property
    def summary(self) -> str:
        """What is said about it (`spec/source.md` 8.4)."""
        verb = ("packaged" if self.is_packaged else "pulled") if self.is_complete else "new"
        text = f"{verb} '{self.name}' chart with version '{self.version}'"
        merged = f" and merged values files [{' '.join(self.values_files)}]" if self.values_files else ""
        return presentable(text + merged)

    @property
    def reason(self) -> Reason:
        """The reason of its condition and its events."""
        return Reason.CHART_PACKAGE_SUCCEEDED if self.is_packaged else Reason.CHART_PULL_SUCCEEDED

    @property
    def file_name(self) -> str:
        """The file it is stored as; a chart's name in a registry may have slashes."""
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a chart in a repository. Raises ChartBuildError."""
    if not name:
        raise ChartBuildError(Failure.REFERENCE, "no name set for remote chart reference")
    if len(name) > _LONGEST_NAME or _NAME.fullmatch(name) is None:
        raise ChartBuildError(
            Failure.REFERENCE,
            f"invalid chart name '{name[:_LONGEST_NAME]}': a valid name must be lower case letters and numbers and MAY "
            "be separated with dashes (-), slashes (/) or periods (.)",
        )


def merged_files(values_files: Sequence[str]) -> tuple[str, ...]:
    """The values files that make another chart of it; the chart's own values alone do not."""
    if len(values_files) == 1 and posixpath.normpath(values_files[0]) == VALUES_FILE:
        return ()
    return tuple(values_files)


def build_metadata(revision: str, generation: int, values_files: Sequence[str]) -> str:
    """What goes behind the `+` of the version (`spec/source.md` 8.3).

    `revision` is that of the source where it is to be part of the version, else empty.
    """
    parts = [re.split("[:/]", revision)[-1][:_SHORT]] if revision else []
    if merged_files(values_files):
        parts.append(str(generation))
    return ".".join(parts)


def with_metadata(version: str, metadata: str) -> str:
    """The version with other build metadata; without any it stays as it is written. Raises ChartBuildError."""
    if not metadata:
        return version
    try:
        return str(Version.parse(version).with_build(metadata))
    except VersionError as error:
        raise ChartBuildError(Failure.METADATA, str(error)) from error
