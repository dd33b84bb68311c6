"""The checks that must be made, as a file lists them that a person reviews."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FILE = Path(__file__).with_name("checks.txt")


class Depth(StrEnum):
    """How much is checked."""

    SHORT = "short"
    """What is most likely to break, and checked nowhere else."""
    WHOLE = "whole"
    """All of it."""


class Place(StrEnum):
    """Where a check can be made."""

    ANY = "any"
    NODE = "node"
    """Only on the node of `.ci/node`: it takes the node's files, or a Kubernetes as old as that one's."""


class ListError(Exception):
    """The list of checks is not what it must be."""


@dataclass(frozen=True)
class Check:
    """A line of the list."""

    id: str
    depth: Depth
    place: Place

    def applies(self, depth: Depth, *, on_node: bool) -> bool:
        """Whether a run of that depth, there, makes it."""
        return (depth is Depth.WHOLE or self.depth is Depth.SHORT) and (on_node or self.place is Place.ANY)


def parse(text: str) -> list[Check]:
    """Reads a list: `ID DEPTH PLACE` a line, but for comments."""
    checks: list[Check] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            identifier, depth, place = words
            check = Check(identifier, Depth(depth), Place(place))
        except ValueError as error:
            raise ListError(f"line {number} is not ID DEPTH PLACE: {line}") from error
        if any(one.id == check.id for one in checks):
            raise ListError(f"line {number}: {check.id} is there twice")
        checks.append(check)
    return checks


def compare(checks: Iterable[Check], made: Sequence[str]) -> None:
    """Fails unless the scenario makes the checks of the list, and no others, in that order."""
    listed = [check.id for check in checks]
    for identifier in listed:
        if identifier not in made:
            raise ListError(f"{identifier}: no step of e2e/scenario makes this check")
    for identifier in made:
        if identifier not in listed:
            raise ListError(f"{identifier}: not in e2e/checks.txt, where every check is to be listed")
    if listed != list(made):
        raise ListError("e2e/checks.txt has the checks in another order than e2e/scenario makes them")
