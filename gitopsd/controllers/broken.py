"""Objects of our kinds that cannot be read: told so, clearly, and left alone (`spec/hostile-inputs.md` O01).

The API server's schema keeps most of them out, but not a duration that overflows, and not what was stored before the
schema became stricter. Nothing that such an object owns is touched: what it wants cannot be known.
"""

from __future__ import annotations

from typing import NoReturn

from gitopsd.api.resource import DecodeError
from gitopsd.errors import StallError
from gitopsd.krm.objects import Obj, get_in
from gitopsd.runtime.recorder import Recorder
from gitopsd.runtime.status import StatusOwner
from gitopsd.tasks import TaskScope

REASON = "InvalidSpec"


async def report(
    obj: Obj, problem: DecodeError, status: StatusOwner, recorder: Recorder, tasks: TaskScope, *, component: str
) -> NoReturn:
    """Write the verdict, with one event for each text. Raises StallError: only a change of the object can help."""
    message = str(problem)
    if get_in(obj, "metadata", "deletionTimestamp") is not None:
        message += "; nothing is deleted, and the object stays, until it can be read"
    async with status.session(obj, tasks) as session:
        stalled = session.get("Stalled")
        session.mark_stalled(REASON, message)
        session.mark("Ready", "False", REASON, message)
        session.fields["observedGeneration"] = session.generation
        session.handled()
        if stalled is None or stalled.message != message:
            recorder.event(component, obj, "Warning", REASON, message)
        await session.finish()
    raise StallError(REASON, message)
