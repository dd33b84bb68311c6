"""The list of checks, and whether the scenario agrees with it."""

from __future__ import annotations

import unittest

from e2e import checks
from e2e.checks import Check, Depth, ListError, Place
from e2e.scenario import STEPS, select

LIST = """
# Why.
a.one   short any
a.two   whole any  # as well
b.three whole node
"""
CHECKS = [
    Check("a.one", Depth.SHORT, Place.ANY),
    Check("a.two", Depth.WHOLE, Place.ANY),
    Check("b.three", Depth.WHOLE, Place.NODE),
]
IDS = ["a.one", "a.two", "b.three"]


class ChecksTest(unittest.TestCase):
    """A list that a person reviews."""

    def test_a_list_is_read(self) -> None:
        self.assertEqual(checks.parse(LIST), CHECKS)

    def test_a_line_that_cannot_be_read_is_an_error(self) -> None:
        for line in ("a", "a short", "a shor any", "a short there", "a short any more", "a short any\na short any"):
            with self.subTest(line), self.assertRaises(ListError):
                checks.parse(line)

    def test_depth_and_place_decide_what_is_checked(self) -> None:
        for depth, on_node, expected in (
            (Depth.SHORT, True, ["a.one"]),
            (Depth.SHORT, False, ["a.one"]),
            (Depth.WHOLE, False, ["a.one", "a.two"]),
            (Depth.WHOLE, True, IDS),
        ):
            with self.subTest(depth=depth, on_node=on_node):
                self.assertEqual([one.id for one in CHECKS if one.applies(depth, on_node=on_node)], expected)

    def test_a_check_of_one_side_only_is_an_error(self) -> None:
        checks.compare(CHECKS, IDS)
        for made in (IDS[:2], IDS[1:], [*IDS, "c.four"], IDS[::-1]):
            with self.subTest(made), self.assertRaises(ListError):
                checks.compare(CHECKS, made)


class ScenarioTest(unittest.TestCase):
    """The steps and checks.txt as they are."""

    def test_the_list_has_what_the_scenario_makes(self) -> None:
        self.assertEqual(select(Depth.WHOLE, on_node=True), list(STEPS))

    def test_each_depth_leaves_nothing_installed(self) -> None:
        for depth in Depth:
            for on_node in (True, False):
                names = [step.name for step in select(depth, on_node=on_node)]
                for mode in ("privileged", "capabilities", "taken_back"):
                    with self.subTest(depth=depth, on_node=on_node, mode=mode):
                        self.assertEqual(f"{mode}.install" in names, f"{mode}.uninstall" in names)
