"""The `HttpStatistics` that the chart brings."""

from __future__ import annotations

import json

from .cluster import Json, get, kubectl, until

NAME = ("httpstatistics", "default")


def read() -> Json:
    """The resource."""
    return get(*NAME)


def generation() -> int:
    """Counts the changes of its spec."""
    number: int = read()["metadata"]["generation"]
    return number


def finalizers() -> list[str]:
    """What it waits for when it is deleted."""
    found: list[str] = read()["metadata"].get("finalizers", [])
    return found


def patch(spec: Json) -> None:
    """Changes fields of its spec."""
    kubectl("patch", *NAME, "--type=merge", "-p", json.dumps({"spec": spec}))


def wait_until_ready(after: int | None = None) -> None:
    """Until the operator says that all is as the spec says, in a generation after the one given."""

    def is_ready() -> bool:
        resource = read()
        current = resource["metadata"]["generation"]
        status = resource.get("status", {})
        conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
        return (
            status.get("observedGeneration") == current
            and (after is None or current > after)
            and conditions.get("Ready") == "True"
            and conditions.get("Progressing") == "False"
        )

    until("the HttpStatistics is Ready", is_ready)
