"""What a step of the scenario works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import counting
from .agent import Agent
from .cluster import get, has_ended
from .watch import Watch
from .world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cluster import Json
    from .results import Results
    from .settings import Settings


@dataclass(frozen=True)
class Step:
    """A part of the scenario that is made as a whole, or left out as a whole."""

    name: str
    act: Callable[[Stage], None]
    checks: tuple[str, ...]
    """What it reports, in this order."""

    def ids(self) -> list[str]:
        """By which the list and the results know its checks."""
        return [f"{self.name}.{check}" for check in self.checks]


class Stage:
    """The world and the agent, and where to report what held."""

    def __init__(self, settings: Settings, results: Results) -> None:
        """Touches nothing yet."""
        self.settings = settings
        self.world = World(settings)
        self.agent = Agent(self.world)
        self._results = results
        self._step = ""
        self._ended: set[str] = set()

    def perform(self, step: Step) -> None:
        """Takes a step."""
        self._step = step.name
        step.act(self)

    def held(self, check: str, message: str) -> None:
        """Reports a check of the current step."""
        self._results.held(f"{self._step}.{check}", message)

    def note(self, message: str) -> None:
        """Tells people what is waited for."""
        self._results.note(message)

    def running(self, pods: list[Json]) -> list[Json]:
        """Those of the pods that have not ended. The others must be gone at the end: see `ended_pods`."""
        ended = {pod["metadata"]["uid"] for pod in pods if has_ended(pod)}
        self._ended |= ended
        return [pod for pod in pods if pod["metadata"]["uid"] not in ended]

    def ended_pods(self) -> list[str]:
        """Those that had ended when they were seen last, and are still there."""
        pods = get("pods", "-A")["items"]
        return [pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] in self._ended]

    def count(self, when: str) -> None:
        """Sends a known load; reports the check `counting`."""
        self.held("counting", counting.count(self.world, self.agent, when))

    def watch(self, uid: str) -> Watch:
        """Watches what the agent says of a pod."""
        return Watch(self.agent, uid, on_node=self.settings.on_node)
