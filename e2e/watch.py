"""What Scope's probe would have seen, while something changes."""

from __future__ import annotations

import http.client
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .agent import SOCKET
from .cluster import Failure, require, until

if TYPE_CHECKING:
    from types import TracebackType

    from .agent import Agent

PERIOD = 0.2
"""Seconds between two polls. Scope's probe asks once a second."""
ACCEPTS_CONNECTIONS = "00010000"
"""`__SO_ACCEPTCON` in the flags of /proc/net/unix."""
WITHOUT_A_MISS = 2.5
"""Seconds between two samples, which come once a second: one may be late, none may be missing."""


class Watch:
    """Asks several times a second, in a thread of its own, until `end` or until the block is left."""

    def __init__(self, agent: Agent, uid: str, *, on_node: bool) -> None:
        """Watches what the agent says of the pod `uid`; on the node also who owns the plugin's path."""
        self._agent = agent
        self._uid = uid
        self._on_node = on_node
        self._begin = time.time()
        self._dates: set[float] = set()
        self._most_owners = 0
        self._polls = 0
        self._unanswered = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Starts to ask."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops to ask."""
        self._over.set()
        self._thread.join()

    def end(self) -> float:
        """Stops to ask. The longest time between two samples; fails if the path ever had two owners."""
        # An agent that has just begun has one sample, and none of what was before it.
        until("the report has some samples", lambda: len(self._seen()) > 5)
        self._over.set()
        self._thread.join()
        require(
            not self._on_node or self._most_owners == 1,
            f"the plugin's path had {self._most_owners} owners at a time",
        )
        dates = self._seen()
        return max(after - before for before, after in pairwise(dates))

    def unanswered(self) -> str:
        """How many polls had no answer, in words."""
        return f"{self._unanswered} of {self._polls} polls without an answer"

    def _seen(self) -> list[float]:
        return sorted(date for date in self._dates.copy() if date >= self._begin - 2)

    def _run(self) -> None:
        while not self._over.wait(PERIOD):
            self._poll()
        self._poll()  # what was waited for is among the samples

    def _poll(self) -> None:
        self._polls += 1
        try:
            self._dates.update(date for date, _ in self._agent.samples(self._uid))
        except (Failure, OSError, ValueError, KeyError, http.client.HTTPException):
            self._unanswered += 1
        if self._on_node:
            self._most_owners = max(self._most_owners, owners())


def owners() -> int:
    """How many agents listen at the plugin's path. The kernel lists sockets by network, and each pod has its own."""
    listening: set[tuple[int, str]] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "cmdline").read_bytes().startswith(b"scope-http-statistics-agent\0run"):
                continue
            network = (process / "ns/net").stat().st_ino
            sockets = [line.split() for line in (process / "net/unix").read_text(encoding="utf-8").splitlines()]
        except OSError:
            continue  # it has ended
        # Number, uses, protocol, flags, type, state, inode, path.
        listening |= {(network, one[6]) for one in sockets if one[3] == ACCEPTS_CONNECTIONS and one[7:] == [SOCKET]}
    return len(listening)
