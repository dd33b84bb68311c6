"""Agents without privileges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cluster import require

if TYPE_CHECKING:
    from ..stage import Stage

VALUES = ("--set", "httpStatistics.spec.securityMode=Capabilities")
CAPABILITIES = ["BPF", "PERFMON", "SYS_NICE"]


def require_capabilities(stage: Stage) -> None:
    """The agent has these and is not privileged: the check `security`."""
    context = stage.agent.pod()["spec"]["containers"][0]["securityContext"]
    require(
        "privileged" not in context and context["capabilities"]["add"] == CAPABILITIES,
        f"the agent has {context}",
    )
    stage.held("security", f"the agent is not privileged and has {', '.join(CAPABILITIES)}")
