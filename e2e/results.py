"""What held and what did not, for people and for machines.

A machine reads a file with one JSON object a line:

    {"name": ID, "outcome": "passed" | "failed", "seconds": since the check before, "message": for people}

A check that was expected and never reported has failed, so none is dropped without anyone noticing.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from .cluster import Failure
from .terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Results:
    """Compares what is reported with what was expected."""

    def __init__(
        self,
        expected: Sequence[str],
        file: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        out: Callable[[str], None] = say,
    ) -> None:
        """Expects each of these checks once. Appends to `file` if there is one; tells people by `out`."""
        self._waiting = list(expected)
        self._total = len(expected)
        self._file = file
        self._clock = clock
        self._out = out
        self._start = self._last = clock()
        self.passed = 0
        self.failed = 0

    def held(self, identifier: str, message: str) -> None:
        """Reports a check that passed. Fails if nobody expected it."""
        if identifier not in self._waiting:
            reason = "reported, but not among the checks of this run (e2e/checks.txt), or twice"
            self._record(identifier, reason, passed=False)
            raise Failure(f"{identifier}: {reason}")
        self._waiting.remove(identifier)
        self._record(identifier, message, passed=True)

    def fail(self, reason: str, step: Sequence[str]) -> None:
        """Reports what ended a step with these checks. The first that is still waited for has failed, else the last."""
        if self.failed:
            return  # that is told already
        waiting = [identifier for identifier in step if identifier in self._waiting]
        identifier = waiting[0] if waiting else step[-1]
        self._record(identifier, reason, passed=False)

    def finish(self) -> bool:
        """Whether all checks were made and held. Reports those that were not made, if nothing has failed before."""
        if not self.failed:
            for identifier in self._waiting:
                self._record(identifier, "never reported, but in e2e/checks.txt", passed=False)
        verdict = "held" if not self.failed else f"held, {self.failed} failed"
        self._out(f"end to end: {self.passed} of {self._total} checks {verdict} in {self._clock() - self._start:.0f} s")
        return not self.failed

    def note(self, message: str) -> None:
        """Tells people what is waited for."""
        self._out(f"[{self._clock() - self._start:5.1f} s]       {message}")

    def _record(self, identifier: str, message: str, *, passed: bool) -> None:
        now = self._clock()
        if passed:
            self.passed += 1
        else:
            self.failed += 1
        number = self.passed + self.failed
        verdict = "ok: " if passed else f"FAILED: {identifier}: "
        self._out(f"[{now - self._start:5.1f} s] {number:2d}/{self._total} {verdict}{message}")
        if self._file:
            result = {
                "name": identifier,
                "outcome": "passed" if passed else "failed",
                "seconds": round(now - self._last, 3),
                "message": message,
            }
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
        self._last = now
