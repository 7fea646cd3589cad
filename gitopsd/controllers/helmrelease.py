"""The HelmRelease controller: its place is here, its work comes later.

Until then every HelmRelease is told that it is not supported yet. One that is to be deleted stays: letting it go would
lose track of what it installed.
"""

from __future__ import annotations

from gitopsd.api.meta import HELM_COMPONENT
from gitopsd.controllers.unsupported import UnsupportedReconciler
from gitopsd.krm.objects import Obj
from gitopsd.kube.informer import Informer
from gitopsd.runtime.recorder import Recorder
from gitopsd.runtime.status import StatusOwner
from gitopsd.tasks import TaskScope


def reconciler(
    informer: Informer[Obj], status: StatusOwner, recorder: Recorder, tasks: TaskScope
) -> UnsupportedReconciler:
    """The reconciler of HelmReleases."""
    return UnsupportedReconciler(informer, status, recorder, tasks, component=HELM_COMPONENT, keeps_finalizer=True)
