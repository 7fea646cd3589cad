"""Conditions as pure functions: every one takes a list of conditions and gives a new one.

Rules, of spec/kustomize.md 2.1, spec/source.md 3.1 and 3.3, spec/runtime.md 7.1:
- A condition's transition time moves when its status, reason or message changes, not only its status.
- `Reconciling` and `Stalled` exist only while True, and never both.
- The list is ordered: Stalled, Reconciling, Ready, then by higher observedGeneration, then by type.
Conditions of types that are not ours pass through untouched. Knows no clock; time is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from gitopsd.api.meta import MAX_MESSAGE_SIZE, Condition, ConditionStatus, ConditionType, Reason, rfc3339

NEGATIVE: Final = frozenset(
    {
        ConditionType.RECONCILING,
        ConditionType.STALLED,
        ConditionType.STORAGE_OPERATION_FAILED,
        ConditionType.FETCH_FAILED,
        ConditionType.INCLUDE_UNAVAILABLE,
        ConditionType.ARTIFACT_OUTDATED,
        ConditionType.BUILD_FAILED,
    }
)
"""Types whose True is bad news."""

_EXCLUSIVE: Final[dict[str, str]] = {
    ConditionType.RECONCILING: ConditionType.STALLED,
    ConditionType.STALLED: ConditionType.RECONCILING,
}
_FIRST: Final[dict[str, int]] = {
    ConditionType.STALLED: 0,
    ConditionType.RECONCILING: 1,
    ConditionType.READY: 2,
}
_CUT: Final = "..."
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def decode(value: Any) -> tuple[Condition, ...]:
    """Read the `conditions` of a plain status. An entry that is no condition at all is passed over."""
    found = []
    for item in value if isinstance(value, list) else ():
        try:
            found.append(msgspec.convert(item, Condition))
        except msgspec.ValidationError:
            continue
    return tuple(found)


def encode(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    """Give the plain form, in the given order."""
    return [msgspec.to_builtins(condition) for condition in conditions]


def get(conditions: Iterable[Condition], type: str) -> Condition | None:  # noqa: A002 - the field's own word
    """Find the condition of a type."""
    return next((condition for condition in conditions if condition.type == type), None)


def is_true(conditions: Iterable[Condition], type: str) -> bool:  # noqa: A002
    """The condition is there and True."""
    found = get(conditions, type)
    return found is not None and found.is_true


def is_false(conditions: Iterable[Condition], type: str) -> bool:  # noqa: A002
    """The condition is there and False."""
    found = get(conditions, type)
    return found is not None and found.is_false


def is_ready(conditions: Iterable[Condition]) -> bool:
    """`Ready` is True."""
    return is_true(conditions, ConditionType.READY)


def is_stalled(conditions: Iterable[Condition]) -> bool:
    """`Stalled` is True."""
    return is_true(conditions, ConditionType.STALLED)


def is_reconciling(conditions: Iterable[Condition]) -> bool:
    """`Reconciling` is True."""
    return is_true(conditions, ConditionType.RECONCILING)


def has_any(conditions: Iterable[Condition], types: Collection[str]) -> bool:
    """At least one of the types is there and True."""
    return any(condition.type in types and condition.is_true for condition in conditions)


def ordered(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """Put conditions into the order in which they are written."""
    return tuple(
        sorted(conditions, key=lambda each: (_FIRST.get(each.type, len(_FIRST)), -each.observed_generation, each.type))
    )


def mark(
    conditions: Sequence[Condition],
    type: str,  # noqa: A002
    status: str,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Set one condition.

    Marking one of `Reconciling` and `Stalled` removes the other; a status that is not True removes that one itself.
    """
    if type in _EXCLUSIVE and status != ConditionStatus.TRUE:
        return delete(conditions, type)
    text = _presentable(message)
    before = get(conditions, type)
    is_same = before is not None and (before.status, before.reason, before.message) == (status, reason, text)
    condition = Condition(
        type=str(type),
        status=str(status),
        reason=str(reason),
        message=text,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before is not None and is_same else rfc3339(now),
    )
    replaced = {type, _EXCLUSIVE.get(type)}
    return ordered([*(each for each in conditions if each.type not in replaced), condition])


def mark_true(
    conditions: Sequence[Condition],
    type: str,  # noqa: A002
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Set one condition to True."""
    return mark(conditions, type, ConditionStatus.TRUE, reason, message, generation, now)


def mark_false(
    conditions: Sequence[Condition],
    type: str,  # noqa: A002
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Set one condition to False."""
    return mark(conditions, type, ConditionStatus.FALSE, reason, message, generation, now)


def mark_unknown(
    conditions: Sequence[Condition],
    type: str,  # noqa: A002
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Set one condition to Unknown."""
    return mark(conditions, type, ConditionStatus.UNKNOWN, reason, message, generation, now)


def mark_reconciling(
    conditions: Sequence[Condition], reason: str, message: str, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Say that work is going on; nothing is stalled then."""
    return mark_true(conditions, ConditionType.RECONCILING, reason, message, generation, now)


def mark_stalled(
    conditions: Sequence[Condition], reason: str, message: str, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Say that no work will go on until somebody changes the object."""
    return mark_true(conditions, ConditionType.STALLED, reason, message, generation, now)


def mark_retrying(conditions: Sequence[Condition], generation: int, now: datetime) -> tuple[Condition, ...]:
    """Turn an existing `Reconciling` into "will be tried again", keeping its message; without one nothing changes."""
    reconciling = get(conditions, ConditionType.RECONCILING)
    if reconciling is None:
        return tuple(conditions)
    return mark_reconciling(conditions, Reason.PROGRESSING_WITH_RETRY, reconciling.message, generation, now)


def delete(conditions: Iterable[Condition], *types: str) -> tuple[Condition, ...]:
    """Remove the conditions of some types."""
    return tuple(condition for condition in conditions if condition.type not in types)


def observe(conditions: Iterable[Condition], type: str, generation: int) -> tuple[Condition, ...]:  # noqa: A002
    """Let one condition, if it is there, speak of `generation`, all else unchanged."""
    return ordered(
        msgspec.structs.replace(each, observed_generation=generation) if each.type == type else each
        for each in conditions
    )


def merged(latest: Iterable[Condition], ours: Iterable[Condition], owned: Collection[str]) -> tuple[Condition, ...]:
    """Lay our conditions over what the server has by now: ours decide the owned types, the server's all others."""
    return ordered(
        [
            *(condition for condition in latest if condition.type not in owned),
            *(condition for condition in ours if condition.type in owned),
        ]
    )


def summarise(
    conditions: Sequence[Condition], types: Sequence[str], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Compute `Ready` from the conditions of `types`, listed in the order that breaks ties (spec/source.md 3.3).

    Bad news wins over good news, whatever its type; a signature that did not verify wins over everything.
    Without any of the types `Ready` stays as it is.
    """
    present = [found for type_ in types if (found := get(conditions, type_)) is not None]
    if not present:
        return tuple(conditions)
    chosen = min(present, key=_rank)  # the first of the best rank
    rank = _rank(chosen)
    status = ConditionStatus.FALSE if rank <= 1 else ConditionStatus.TRUE if rank <= 3 else ConditionStatus.UNKNOWN
    verified = get(present, ConditionType.SOURCE_VERIFIED)
    if verified is not None and verified.is_false:
        chosen, status = verified, ConditionStatus.FALSE
    return mark(conditions, ConditionType.READY, status, chosen.reason, chosen.message, generation, now)


def summarise_release(
    conditions: Sequence[Condition], generation: int, now: datetime, *, tests_enabled: bool, tests_ignored: bool
) -> tuple[Condition, ...]:
    """Compute `Ready` of a release from what was done last (spec/helm.md 3.3).

    A remediation, even one that went well, leaves the release not ready.
    """
    left = conditions if tests_enabled else delete(conditions, ConditionType.TEST_SUCCESS)
    types = [ConditionType.REMEDIATED, ConditionType.TEST_SUCCESS, ConditionType.RELEASED]
    if not tests_enabled or tests_ignored:
        types.remove(ConditionType.TEST_SUCCESS)
    present = [found for type_ in types if (found := get(left, type_)) is not None]
    if not present:
        return tuple(left)
    chosen = max(present, key=lambda each: each.observed_generation)  # the first of the highest
    status = ConditionStatus.FALSE if chosen.type == ConditionType.REMEDIATED else chosen.status
    if status == ConditionStatus.TRUE:
        left = delete(left, ConditionType.STALLED)
    return mark(left, ConditionType.READY, status, chosen.reason, chosen.message, generation, now)


def _rank(condition: Condition) -> int:
    if condition.is_true:
        return 0 if condition.type in NEGATIVE else 2
    if condition.is_false:
        return 3 if condition.type in NEGATIVE else 1
    return 4


def _presentable(message: str) -> str:
    """Make a text fit for the API: valid UTF-8, no control characters but line breaks and tabs, bounded."""
    data = _UNPRINTABLE.sub("?", message).encode("utf-8", errors="replace")
    if len(data) > MAX_MESSAGE_SIZE:
        data = data[: MAX_MESSAGE_SIZE - len(_CUT)].decode("utf-8", errors="ignore").encode() + _CUT.encode()
    return data.decode("utf-8")
