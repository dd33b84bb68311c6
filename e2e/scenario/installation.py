"""`helm install`, the first number, `helm test`; and what is left after `helm uninstall`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .. import httpstatistics
from ..cluster import PATIENCE, get, kubectl, names, require, run, until
from ..settings import CRD, NAMESPACE, OURS, RELEASE
from ..terminal import say
from ..world import Load

if TYPE_CHECKING:
    from ..stage import Stage

FIRST_NUMBER = 60
"""Seconds after which a user has the first number at the latest."""
KEPT_DEFINITION = f"customresourcedefinition.apiextensions.k8s.io/{CRD}"
"""What stays unless the chart is told otherwise."""
FINALIZER = "foregroundDeletion"
"""Of a resource that is young: operator/src/default_resource.rs."""


def install(stage: Stage, helm: str, *values: str) -> None:
    """Installs the chart: the checks `first_number`, `finalizer` and `ready`."""
    if not names("namespace", NAMESPACE, "--ignore-not-found"):
        kubectl("create", "namespace", NAMESPACE)
        kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")
    uid = stage.world.web_uid()
    with Load(stage.world):
        begin = time.monotonic()
        chart = stage.settings.chart("N")
        run(helm, "install", RELEASE, chart, "--namespace", NAMESPACE, *stage.settings.chart_values, *values)
        until(
            "the report has a number that is not zero",
            lambda: any(value for _, value in stage.agent.samples(uid)),
        )
        took = time.monotonic() - begin
    require(took < FIRST_NUMBER, f"the first number took {took:.1f} s")
    command = " ".join([helm, "install", *values])
    stage.held("first_number", f"{command}: first number in the report after {took:.1f} s")
    finalizers = httpstatistics.finalizers()
    require(finalizers == [FINALIZER], f"the young resource has the finalizers {finalizers}")
    stage.held("finalizer", "the young resource waits for the garbage collector")
    httpstatistics.wait_until_ready()
    stage.held("ready", "HttpStatistics is Ready")
    say(kubectl("get", "httpstatistics").rstrip("\n"))


def use(stage: Stage, helm: str, when: str) -> None:
    """What a user tries first: the checks `counting` and `helm_test`."""
    # `helm test` mostly waits for a pod of its own, and what that asks is not counted.
    with ThreadPoolExecutor(max_workers=1) as pool:
        test = pool.submit(run, helm, "test", RELEASE, "-n", NAMESPACE)
        stage.count(when)
        test.result()
    stage.held("helm_test", f"{helm} test")


def uninstall(stage: Stage, helm: str, kept: list[str]) -> None:
    """Uninstalls the chart: the check `nothing_left`, but for `kept`."""
    run(helm, "uninstall", RELEASE, "--namespace", NAMESPACE)
    wait_until_nothing_is_left(stage, kept)
    if KEPT_DEFINITION in kept:
        kubectl("delete", "crd", CRD)
    stage.held(
        "nothing_left",
        f"{helm} uninstall: no process, socket, pinned object, directory or cluster object is left "
        f"but {kept or 'nothing'}",
    )


def wait_until_nothing_is_left(stage: Stage, kept: list[str]) -> None:
    """No object of ours in the cluster but those that are to be kept, and nothing on the node."""
    told: list[str] = []

    def as_it_should_be() -> bool:
        nonlocal told
        found = _objects(stage)
        if found not in (kept, told):
            told = found
            stage.note(f"still there: {', '.join(one for one in found if one not in kept)}")
        require(found == kept, f"there is {found}")
        return True

    # A definition that is young waits for the garbage collector.
    until(f"only {kept} is left", as_it_should_be, 2 * PATIENCE)
    wait_until_no_agent_runs(stage)
    pinned = stage.world.newly_pinned()
    require(not pinned, f"pinned objects are left: {pinned}")


def wait_until_no_agent_runs(stage: Stage) -> None:
    """And then no socket or directory of one may be on the node."""
    until("no agent runs", lambda: not stage.agent.pids())
    directories = stage.world.plugin_directories()
    require(not directories, f"the socket's directory is left: {directories}")


def _objects(stage: Stage) -> list[str]:
    # Kinds anew each time: the definition may be on its way out.
    kinds = kubectl("api-resources", "--verbs=list", "-o", "name").split()
    # Of pods, only those that run.
    listed = ",".join(kind for kind in kinds if kind != "pods" and not kind.startswith(("events", "componentstatuses")))
    found = names(listed, "-A", "-l", OURS, "--ignore-not-found")
    found += names("clusterroles,clusterrolebindings,crd")
    found += [f"pod/{pod['metadata']['name']}" for pod in stage.running(get("pods", "-A", "-l", OURS)["items"])]
    return sorted({one for one in found if "scope-http-statistics" in one})
