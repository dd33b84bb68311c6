"""`python3 -m e2e`: see `.ci/e2e`, which calls it with what is to be installed, and KUBECONFIG set."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from . import checks, failure
from .checks import Depth
from .cluster import Failure, Refusal
from .results import Results
from .scenario import select
from .scenario.preparation import inspect_cluster
from .settings import Settings
from .stage import Stage, Step
from .terminal import say, warn

PASSED, FAILED, REFUSED = 0, 1, 2
"""Exit codes."""


def parse_arguments() -> argparse.Namespace:
    """Flags; the environment has the defaults of two."""
    parser = argparse.ArgumentParser(
        prog="python3 -m e2e",
        description="Tests chart and images on the cluster of KUBECONFIG. Called by .ci/e2e.",
    )
    parser.add_argument("--list", action="store_true", help="print the checks of such a run, one a line, and end")
    parser.add_argument(
        "--depth",
        type=Depth,
        choices=list(Depth),
        default=os.environ.get("E2E_DEPTH") or Depth.WHOLE,
        help="how much to check (E2E_DEPTH; whole)",
    )
    parser.add_argument(
        "--on",
        choices=["node", "cluster"],
        default="cluster" if os.environ.get("E2E_KUBECONFIG") else "node",
        help="the node of .ci/node, which is this machine, or a cluster of yours (cluster if E2E_KUBECONFIG is set)",
    )
    return parser.parse_args()


def perform(stage: Stage, steps: list[Step], results: Results) -> int:
    """Takes the steps, until the first that fails."""
    step = steps[0]
    try:
        for step in steps:
            stage.perform(step)
    except Refusal as refusal:
        results.fail(str(refusal), step.ids())
        warn(f"{refusal}")
        return REFUSED
    except Exception as error:  # noqa: BLE001 - an error of the scenario's own is a failure too
        if not isinstance(error, Failure):
            traceback.print_exc()
        results.fail(str(error) if isinstance(error, Failure) else repr(error), step.ids())
        failure.describe()
        results.finish()
        return FAILED
    return PASSED if results.finish() else FAILED


def main() -> int:
    """Runs it; the exit code."""
    arguments = parse_arguments()
    on_node = arguments.on == "node"
    try:
        steps = select(arguments.depth, on_node=on_node)
    except checks.ListError as error:
        say(f"FAILED: {error}")
        return FAILED
    expected = [identifier for step in steps for identifier in step.ids()]
    if arguments.list:
        for identifier in expected:
            say(identifier)
        return PASSED
    file = os.environ.get("TEST_RESULTS")
    try:
        settings = Settings.from_environment(os.environ, on_node=on_node)
        if not on_node:
            inspect_cluster()
    except Refusal as refusal:
        warn(f"nothing was changed: {refusal}")
        return REFUSED
    results = Results(expected, Path(file) if file else None)
    try:
        return perform(Stage(settings, results), steps, results)
    finally:
        if not on_node:
            failure.clean_up()


sys.exit(main())
