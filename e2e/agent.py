"""What the agent says."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from .cluster import Json, kubectl, only_pod, require
from .settings import OURS, PLUGIN

if TYPE_CHECKING:
    from .world import World

SOCKET = f"{PLUGIN}/http-statistics.sock"
REQUESTS = "http_requests_per_second"
"""The metric that every process has."""
Sample = tuple[float, float]
"""Seconds since 1970, and a rate per second."""


class Plugin(http.client.HTTPConnection):
    """Asks as Scope's probe does."""

    def __init__(self) -> None:
        """Connects with the first request."""
        super().__init__("plugin", timeout=5)

    def connect(self) -> None:
        """To the plugin's socket, of this machine."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(SOCKET)


class Agent:
    """The agent that runs on the node, whatever installed it."""

    def __init__(self, world: World) -> None:
        """There need not be one yet."""
        self._world = world
        self._on_node = world.settings.on_node

    def pod(self) -> Json:
        """In whichever namespace: that depends on what installed it."""
        return only_pod(None, f"{OURS},app.kubernetes.io/component=agent")

    def image(self) -> str:
        """Of its pod."""
        image: str = self.pod()["spec"]["containers"][0]["image"]
        return image

    def pids(self) -> list[int]:
        """Agents that run on the node; commands that ask them are none."""
        found = self._world.on_node("ps", "-o", "pid,args").splitlines()
        return [int(line.split()[0]) for line in found if re.match(r"\s*\d+ scope-http-statistics-agent run", line)]

    def run(self, *command: str) -> str:
        """Runs the agent's program in its pod."""
        pod = self.pod()["metadata"]
        return kubectl("exec", "-n", pod["namespace"], pod["name"], "--", "scope-http-statistics-agent", *command)

    def table(self) -> str:
        """The latest rates, for people."""
        return self.run("report", "--table").rstrip("\n")

    def report(self) -> Json:
        """As Scope's probe gets it."""
        return self._ask("/report?api_version=1&probe_id=e2e")

    def totals(self) -> Json:
        """What was counted since it started."""
        return self._ask("/totals")

    def samples(self, uid: str) -> list[Sample]:
        """Requests of a pod. Fails if the report has no such pod."""
        return samples(self.report()["Pod"]["nodes"][f"{uid};<pod>"], REQUESTS)

    def counts(self, uid: str) -> Counter[str]:
        """What the processes of a pod did, those that are gone as well: by status codes, and `requests`."""
        totals = self.totals()
        sums: Counter[str] = Counter()
        for account in totals["processes"] + totals["exited"]:
            if account.get("pod_uid") == uid:
                sums["requests"] += account["requests"]
                sums.update(account["responses"])
        return sums

    def _ask(self, path: str) -> Json:
        answer: Json
        if not self._on_node:
            command = path.strip("/").split("?")[0]
            output = ["--output", "json"] if command == "totals" else []
            answer = json.loads(self.run(command, *output))
            return answer
        connection = Plugin()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            require(response.status == 200, f"{path}: {response.status}")
            answer = json.loads(response.read())
        finally:
            connection.close()
        return answer


def samples(node: Json, metric: str) -> list[Sample]:
    """What a node of the report has of a metric."""
    of_metric = node.get("metrics", {}).get(metric, {"samples": []})
    return [(datetime.fromisoformat(sample["date"]).timestamp(), sample["value"]) for sample in of_metric["samples"]]
