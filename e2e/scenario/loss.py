"""Processes and pods that are killed, and what time does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import httpstatistics
from ..cluster import identity, kubectl, until
from ..settings import NAMESPACE, SHOP

if TYPE_CHECKING:
    from ..stage import Stage


def kill(stage: Stage) -> None:
    """`kill -9` of the agent: kubelet starts it again."""
    uid, restarts = identity(stage.agent.pod())
    [pid] = stage.agent.pids()
    stage.world.on_node("kill", "-9", str(pid))
    until(
        "the agent is back",
        lambda: identity(stage.agent.pod()) == (uid, restarts + 1) and len(stage.agent.pids()) == 1,
    )
    httpstatistics.wait_until_ready()
    stage.count("after kill -9")


def grow_up(stage: Stage) -> None:
    """The finalizer that sees to it that nothing is left if all is removed at once is gone again."""
    until("the resource is no longer young", lambda: not httpstatistics.finalizers())
    stage.held("finalizer_gone", "after two minutes the resource has no finalizer")


def reboot(stage: Stage) -> None:
    """All pods end at once, as when the node does."""
    for namespace in (NAMESPACE, SHOP):
        kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force")
    stage.world.wait()
    operator = "deployment/scope-http-statistics-operator"
    until(
        "the operator is back",
        lambda: kubectl("rollout", "status", operator, "-n", NAMESPACE, "--timeout=1s"),
    )
    stage.agent.pod()
    until("one agent runs", lambda: len(stage.agent.pids()) == 1)
    until("it answers", stage.agent.totals)
    httpstatistics.wait_until_ready()
    stage.count("after all pods were killed")
