"""What people are told, at once also into a pipe."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """What happens."""
    print(line, flush=True)  # noqa: T201 - the one place, and the next


def warn(line: str) -> None:
    """What stands in the way."""
    print(f"e2e: {line}", file=sys.stderr, flush=True)  # noqa: T201
