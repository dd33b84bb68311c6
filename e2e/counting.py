"""A known load, and whether everyone agrees on it: the server's log, the agent's totals, its report."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .cluster import Json, require, until
from .terminal import say

if TYPE_CHECKING:
    from .agent import Agent
    from .world import World

LOAD = {"/": 300, "/missing": 40, "/created": 30, "/error": 20}
"""Requests by path."""
EXPECTED = Counter({"200": 300, "404": 40, "201": 30, "500": 20, "requests": 390})
"""What the web server answers to that."""
SETTLED = 1.5
"""Seconds after which what was under way is counted: the agent looks once a second."""
SOON = 30
"""Seconds after which what is not there is lost."""


def count(world: World, agent: Agent, when: str) -> str:
    """Sends the load and compares; what held, in words."""
    pod = world.web_pod()
    uid = pod["metadata"]["uid"]
    until(f"{when}, the report has the pod", lambda: _is_reported(world, agent, uid))
    time.sleep(SETTLED)
    log, totals = world.log(), agent.counts(uid)
    begin = time.time()
    world.request(LOAD)
    until(
        "the server has logged the load",
        lambda: (world.log() - log)["requests"] >= EXPECTED["requests"],
        SOON,
    )
    logged = world.log() - log
    require(logged == EXPECTED, f"{when}, the server logged {dict(logged)}")
    until(
        f"{when}, the agent's totals are those of the log, {dict(logged)}",
        lambda: agent.counts(uid) - totals == logged,
        SOON,
    )
    until(
        f"{when}, the report has {logged['requests']} requests",
        lambda: abs(_integral(agent, uid, begin) - logged["requests"]) < 4,
        SOON,
    )
    _require_names(agent, pod, on_node=world.settings.on_node)
    say(agent.table())
    return f"{when}: totals and report agree with the server's log: {dict(logged)}"


def _is_reported(world: World, agent: Agent, uid: str) -> bool:
    # To an agent that has just started the pod is new: its first sample would have none before it to tell its time.
    world.request({"/": 1})
    return bool(agent.samples(uid))


def _integral(agent: Agent, uid: str, begin: float) -> float:
    """Requests since `begin`: rates, times the time that they stand for."""
    return sum(value * (date - before) for (before, _), (date, value) in pairwise(agent.samples(uid)) if date > begin)


def _require_names(agent: Agent, pod: Json, *, on_node: bool) -> None:
    """The report knows the pod's name, its container and its processes, and what belongs to what."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    container = pod["status"]["containerStatuses"][0]["containerID"].split("//")[1]

    def report_with_name() -> Json | None:
        report = agent.report()
        return report if name in json.dumps(report["Pod"]["nodes"][f"{uid};<pod>"]) else None

    report = until("the pod has its name", report_with_name)
    require(f"{container};<container>" in report["Container"]["nodes"], "the report has no such container")
    latest = report["Container"]["nodes"][f"{container};<container>"]["latest"]
    require(latest["docker_container_name"]["value"] == "web", f"the container is called {latest}")
    processes = {
        key: node
        for key, node in report["Process"]["nodes"].items()
        if node.get("latest", {}).get("docker_container_id", {}).get("value") == container
    }
    require(processes, "no process is in that container")
    for key, node in processes.items():
        host, pid = key.split(";")
        require(host == pod["spec"]["nodeName"], f"the host is {host}, not {pod['spec']['nodeName']}")
        require(node["parents"]["pod"] == [f"{uid};<pod>"], f"{key} is of {node['parents']}")
        if on_node:
            command = Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
            require(command == "nginx", f"{pid} is not nginx but {command}")
