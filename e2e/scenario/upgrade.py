"""`helm upgrade` from N to N+1, first of the operator alone, then of the agents too; and `helm rollback`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import httpstatistics
from ..cluster import PATIENCE, get, identity, kubectl, only_pod, require, run, until
from ..settings import CRD, NAMESPACE, RELEASE
from ..watch import WITHOUT_A_MISS
from ..world import Load
from .change import without_a_gap

if TYPE_CHECKING:
    from ..stage import Stage

NEW_FIELD = "e2eField"
"""What N+1 has in its definition and N has not: .ci/e2e."""
AFTERWARDS = 3
"""Seconds for which a new operator is watched: what it does to agents, it does at its start."""


def upgrade_operator(stage: Stage, helm: str, *values: str) -> None:
    """The operator and the definition are new, the agents are not: the check `agent_stays`."""
    before, image, uid = identity(stage.agent.pod()), stage.agent.image(), stage.world.web_uid()
    operator = _operator_uid()
    with Load(stage.world), stage.watch(uid) as watch:
        _upgrade(stage, helm, *values, "--set", f"httpStatistics.spec.image={image}")
        until("the definition is the new one", lambda: _definition_has(NEW_FIELD))
        until("the operator is the new one", lambda: _operator_uid() != operator)
        deployment = "deployment/scope-http-statistics-operator"
        kubectl("rollout", "status", deployment, "-n", NAMESPACE, f"--timeout={PATIENCE}s")
        httpstatistics.wait_until_ready()
        time.sleep(AFTERWARDS)
        gap = watch.end()
    require(identity(stage.agent.pod()) == before, "the agent was restarted")
    require(gap < WITHOUT_A_MISS, f"{gap:.1f} s between samples: more than one was missed")
    stage.held(
        "agent_stays",
        f"{helm} upgrade of operator and definition: the agent stays, at most {gap:.2f} s between samples, "
        f"{watch.unanswered()}",
    )


def upgrade_agents(stage: Stage, helm: str, *values: str) -> None:
    """The agents are new too: the checks `no_gap` and `counting`."""
    image, uid = stage.settings.image("agent", "N+1"), stage.world.web_uid()
    require(stage.agent.image() != image, f"the agent has {image} already")
    with Load(stage.world), stage.watch(uid) as watch:
        _upgrade(stage, helm, *values, "--reset-values")
        until("the agent is the new one", lambda: stage.agent.image() == image)
        message = without_a_gap(stage, f"{helm} upgrade of the agents", watch, uid)
    stage.held("no_gap", message)
    stage.count("after the upgrade")


def roll_back(stage: Stage, helm: str) -> None:
    """Everything is again as it was installed: the checks `no_gap` and `counting`."""
    image, uid = stage.settings.image("agent", "N"), stage.world.web_uid()
    with Load(stage.world), stage.watch(uid) as watch:
        run(helm, "rollback", RELEASE, "1", "-n", NAMESPACE)
        until("the agent is the old one again", lambda: stage.agent.image() == image)
        until("the definition is the old one again", lambda: not _definition_has(NEW_FIELD))
        message = without_a_gap(stage, f"{helm} rollback", watch, uid)
    stage.held("no_gap", message)
    stage.count("after the rollback")


def _upgrade(stage: Stage, helm: str, *values: str) -> None:
    chart = stage.settings.chart("N+1")
    run(helm, "upgrade", RELEASE, chart, "-n", NAMESPACE, *stage.settings.chart_values, *values)


def _operator_uid() -> str:
    uid: str = only_pod(NAMESPACE, "app.kubernetes.io/component=operator")["metadata"]["uid"]
    return uid


def _definition_has(field: str) -> bool:
    schema = get("crd", CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return field in schema["properties"]["spec"]["properties"]
