"""The resource alone is deleted, or all that a manifest brought."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..cluster import kubectl, until
from .installation import wait_until_no_agent_runs, wait_until_nothing_is_left

if TYPE_CHECKING:
    from ..stage import Stage

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"


def delete_resource(stage: Stage) -> None:
    """The operator stays, the agents go."""
    kubectl("delete", "httpstatistics", "default")
    wait_until_no_agent_runs(stage)
    stage.held("nothing_left", "the resource is deleted: no agent, socket or directory is left")


def wait_for_pods(stage: Stage) -> None:
    """Pods whose containers had ended were left to kubelet; it has had the time."""
    until("kubelet has cleared the pods that had ended", lambda: not stage.ended_pods())
    stage.held("pods_gone", "no pod is left that had ended")


def apply_and_delete(stage: Stage, name: str) -> None:
    """A manifest without Helm: the checks `counting` and `nothing_left`."""
    text = (DEPLOYMENTS / name).read_text(encoding="utf-8")
    manifest = text.replace("registry.example/", f"{stage.settings.registry}/")
    # Kubernetes before 1.25 does not know the rules in the definition.
    kubectl("apply", "--validate=false", "-f", "-", given=manifest)
    until("one agent runs", lambda: len(stage.agent.pids()) == 1)
    stage.count(f"after kubectl apply of {name}")
    kubectl("delete", "-f", "-", given=manifest)
    wait_until_nothing_is_left(stage, [])
    stage.held("nothing_left", f"kubectl delete of {name}: nothing is left")
