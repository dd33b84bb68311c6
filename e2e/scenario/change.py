"""A changed spec: in place where that can be, else one agent takes over from another without a gap."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import httpstatistics
from ..cluster import Json, get, identity, require, until
from ..settings import NAMESPACE
from ..watch import WITHOUT_A_MISS
from ..world import Load

if TYPE_CHECKING:
    from ..stage import Stage
    from ..watch import Watch

TEMPLATES = {
    "http_requests_per_second",
    "http_200_responses_per_second",
    "http_418_responses_per_second",
    "http_OTHERS_responses_per_second",
}
"""The metrics of an agent that is to tell 200 and 418 from others."""


def change_live(stage: Stage) -> None:
    """Other status codes: the agent reads its configuration again."""
    before = identity(stage.agent.pod())
    httpstatistics.patch({"statusCodes": [200, 418]})
    begin = time.monotonic()
    until(
        "the report has the new codes",
        lambda: set(stage.agent.report()["Process"]["metric_templates"]) == TEMPLATES,
    )
    took = time.monotonic() - begin
    require(identity(stage.agent.pod()) == before, "the agent was restarted")
    stage.held("no_restart", f"status codes changed without a restart, after {took:.1f} s")


def roll_out(stage: Stage) -> None:
    """Another hook takes another agent."""
    before, uid = identity(stage.agent.pod()), stage.world.web_uid()
    with Load(stage.world):
        with stage.watch(uid) as watch:
            generation = httpstatistics.generation()
            httpstatistics.patch({"attachMode": "Tracepoint", "statusCodes": [200, 201, 404, 500]})
            if stage.settings.on_node:
                until("another one stands in", lambda: standby_pods(stage))
            httpstatistics.wait_until_ready(after=generation)
            require(identity(stage.agent.pod())[0] != before[0], "the agent is the same as before")
            message = without_a_gap(stage, "an agent of another spec took over", watch, uid)
        stage.held("no_gap", message)
    stage.count("after a rolling change")


def take_back_a_bad_image(stage: Stage) -> None:
    """The new agent never comes; the old one stays, and so it does when the change is taken back."""
    before, image, uid = identity(stage.agent.pod()), stage.agent.image(), stage.world.web_uid()
    with Load(stage.world), stage.watch(uid) as watch:
        httpstatistics.patch({"image": f"{stage.settings.registry}/scope-http-statistics-agent:none"})
        unavailable = until("it is told", lambda: httpstatistics.read()["status"].get("unavailableNodes"))
        until("only those of before serve", _is_told_that_old_ones_stay)
        httpstatistics.patch({"image": image})
        reason = unavailable[0]["message"].split(":")[0]
        message = without_a_gap(stage, f"an image that is not there ({reason}), taken back", watch, uid)
    require(identity(stage.agent.pod()) == before, "the agent was restarted")
    stage.held("no_gap", message)


def without_a_gap(stage: Stage, what: str, watch: Watch, uid: str) -> str:
    """The change is over: no sample was missed, the path had one owner at a time, and nobody stands by. In words."""
    httpstatistics.wait_until_ready()
    until("one agent runs", lambda: len(stage.agent.pids()) == 1 and not standby_pods(stage))
    until("it counts", lambda: stage.agent.samples(uid)[-1][1] > 0)
    gap = watch.end()
    on_node = stage.settings.on_node
    # Elsewhere the agent is asked by way of its pod, not of the path that changes hands.
    require(not on_node or gap < WITHOUT_A_MISS, f"{what}: {gap:.1f} s between samples: more than one was missed")
    owners = "never two owners, " if on_node else ""
    return f"{what}: {owners}at most {gap:.2f} s between samples, {watch.unanswered()}"


def standby_pods(stage: Stage) -> list[Json]:
    """Those that stand in while Kubernetes, before 1.22, replaces agents."""
    return stage.running(get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=standby")["items"])


def _is_told_that_old_ones_stay() -> bool:
    return any("old ones stay" in one["message"] for one in httpstatistics.read()["status"]["conditions"])
