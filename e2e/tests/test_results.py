"""A check that is dropped, unknown or failed is noticed."""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path

from e2e.cluster import Failure
from e2e.results import Results


class Clock:
    """Each reading is a second after the one before."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class ResultsTest(unittest.TestCase):
    """What people and machines are told."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.file = Path(directory.name) / "results.jsonl"
        self.lines: list[str] = []

    def results(self, *expected: str) -> Results:
        return Results(expected, self.file, clock=Clock(), out=self.lines.append)

    def written(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def test_all_that_was_expected_held(self) -> None:
        results = self.results("a.one", "b.two")
        results.held("a.one", "it counts")
        results.held("b.two", "it still counts")
        self.assertTrue(results.finish())
        self.assertEqual(
            self.written(),
            [
                {"name": "a.one", "outcome": "passed", "seconds": 1.0, "message": "it counts"},
                {"name": "b.two", "outcome": "passed", "seconds": 1.0, "message": "it still counts"},
            ],
        )
        self.assertEqual(self.lines[0], "[  1.0 s]  1/2 ok: it counts")
        self.assertEqual(self.lines[-1], "end to end: 2 of 2 checks held in 3 s")

    def test_a_check_that_is_never_reported_fails_the_run(self) -> None:
        results = self.results("a.one", "b.two")
        results.held("a.one", "it counts")
        self.assertFalse(results.finish())
        self.assertEqual([one["name"] for one in self.written() if one["outcome"] == "failed"], ["b.two"])
        self.assertIn("FAILED: b.two: ", self.lines[-2])

    def test_a_check_that_nobody_expects_fails_the_run(self) -> None:
        results = self.results("a.one")
        with self.assertRaises(Failure) as raised:
            results.held("a.more", "so what")
        results.fail(str(raised.exception), ["a.one"])
        self.assertFalse(results.finish())
        self.assertEqual([(one["name"], one["outcome"]) for one in self.written()], [("a.more", "failed")])

    def test_a_check_cannot_be_reported_twice(self) -> None:
        results = self.results("a.one")
        results.held("a.one", "it counts")
        with self.assertRaises(Failure):
            results.held("a.one", "it counts")
        self.assertFalse(results.finish())

    def test_the_first_check_that_is_waited_for_has_failed(self) -> None:
        results = self.results("a.one", "a.two", "b.one")
        results.held("a.one", "it counts")
        results.fail("the agent was restarted", ["a.one", "a.two"])
        self.assertFalse(results.finish())
        self.assertEqual(
            self.written()[1:],
            [{"name": "a.two", "outcome": "failed", "seconds": 1.0, "message": "the agent was restarted"}],
        )

    def test_what_fails_after_the_last_check_of_a_step_fails_that_one(self) -> None:
        results = self.results("a.one", "a.two")
        results.held("a.one", "it counts")
        results.held("a.two", "it counts")
        results.fail("the client does not stop", ["a.one", "a.two"])
        self.assertFalse(results.finish())
        self.assertEqual((self.written()[-1]["name"], self.written()[-1]["outcome"]), ("a.two", "failed"))
