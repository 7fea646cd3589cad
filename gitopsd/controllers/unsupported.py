"""Kinds whose controllers come later: an object of such a kind is told so, clearly, and is never ignored.

It gets `Ready=False` and `Stalled=True` and nothing else: no finalizer, no event storm, and nothing that another
controller has recorded in its status is touched. One that is to be deleted is let go if nothing outside depends on it;
a HelmRelease keeps its finalizer, because letting it go would lose track of what it installed.
"""

from __future__ import annotations

from gitopsd.api.meta import FINALIZER
from gitopsd.errors import StallError
from gitopsd.krm.objects import Obj, get_in
from gitopsd.kube.informer import Informer
from gitopsd.runtime.controller import Result, Run
from gitopsd.runtime.recorder import Recorder
from gitopsd.runtime.status import StatusOwner
from gitopsd.tasks import TaskScope

REASON = "NotSupported"


class UnsupportedReconciler:
    """Tells objects of one kind that this version does not work on them."""

    def __init__(
        self,
        informer: Informer[Obj],
        status: StatusOwner,
        recorder: Recorder,
        tasks: TaskScope,
        *,
        component: str,
        keeps_finalizer: bool = False,
    ) -> None:
        """`component` is the name under which events of the kind are known."""
        self._informer = informer
        self._status = status
        self._recorder = recorder
        self._tasks = tasks
        self._component = component
        self._keeps_finalizer = keeps_finalizer

    async def reconcile(self, run: Run) -> Result:
        """Write the verdict. Raises StallError unless the object is suspended or goes."""
        cached = self._informer.lister.get(run.key)
        if cached is None:
            return Result()
        obj = self._status.newest(cached)
        is_going = get_in(obj, "metadata", "deletionTimestamp") is not None
        if is_going and not self._keeps_finalizer:
            if FINALIZER in get_in(obj, "metadata", "finalizers", default=[]):
                await self._status.remove_finalizer(obj)
            return Result()
        if get_in(obj, "spec", "suspend") and not is_going:
            return Result()
        message = f"{run.key.kind} is not supported yet"
        if is_going:
            message += ", the object stays until what it installed can be removed"
        async with self._status.session(obj, self._tasks) as status:
            is_told = status.is_true("Stalled")
            status.mark_stalled(REASON, message)
            status.mark("Ready", "False", REASON, message)
            status.fields["observedGeneration"] = status.generation
            status.handled()
            if not is_told:
                self._recorder.event(self._component, obj, "Warning", REASON, message)
            await status.finish()
        raise StallError(REASON, message)
