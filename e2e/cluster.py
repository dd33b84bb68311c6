"""The cluster, by way of kubectl; and how to wait for it."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]
T = TypeVar("T")

PATIENCE = 180
"""Seconds. What takes longer, on any machine, hangs."""
PAUSE = 0.2
"""Seconds between two questions. A kubectl takes about as long on a slow machine."""


class Failure(Exception):  # noqa: N818 - it is the scenario that fails, not the program
    """Something that must hold does not."""


class Refusal(Exception):  # noqa: N818 - as above
    """The cluster is not one to test on."""


def require(condition: object, message: str) -> None:
    """Fails with `message` unless the condition is true."""
    if not condition:
        raise Failure(message)


def run(*command: str, given: str | None = None, check: bool = True) -> str:
    """Runs a command, with `given` as its input; its output. Fails if the command does, unless `check` is false."""
    try:
        result = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{' '.join(command)}: no end after {error.timeout} s") from error
    if check and result.returncode != 0:
        raise Failure(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def kubectl(*command: str, given: str | None = None, check: bool = True) -> str:
    """Runs kubectl; see `run`."""
    return run("kubectl", *command, given=given, check=check)


def get(*what: str) -> Json:
    """`kubectl get`: an object, or a list of them in `items`."""
    answer: Json = json.loads(kubectl("get", "-o", "json", *what))
    return answer


def names(*what: str) -> list[str]:
    """`kubectl get`: KIND/NAME of each."""
    return kubectl("get", *what, "-o", "name").split()


def apply(*objects: Json) -> None:
    """`kubectl apply`, all at once."""
    kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def until(what: str, ask: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Asks until the answer is true, and returns that answer. What fails is a no."""
    end = time.monotonic() + patience
    last: Exception | None = None
    while True:
        try:
            answer = ask()
            if answer:
                return answer
        except (Failure, OSError, ValueError, LookupError, http.client.HTTPException) as error:
            last = error
        if time.monotonic() > end:
            raise Failure(f"it never came that {what}" + (f": {last}" if last else ""))
        time.sleep(PAUSE)


def only_pod(namespace: str | None, selector: str) -> Json:
    """The one pod that is not on its way out, once there is one. In all namespaces if none is given."""

    def ask() -> Json | None:
        where = ("-n", namespace) if namespace else ("-A",)
        items = get("pods", *where, "-l", selector)["items"]
        alive: list[Json] = [item for item in items if "deletionTimestamp" not in item["metadata"]]
        return alive[0] if len(alive) == 1 and alive[0]["status"].get("containerStatuses") else None

    return until(f"there is one pod {selector}", ask)


def has_ended(pod: Json) -> bool:
    """Whether a pod is deleted and nothing in it runs any more. To clear what is left may take kubelet a minute."""
    status = pod["status"]
    containers = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
    return "deletionTimestamp" in pod["metadata"] and all("running" not in one["state"] for one in containers)


def identity(pod: Json) -> tuple[str, int]:
    """Of a pod's first container: it changes when that is restarted."""
    return pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]
