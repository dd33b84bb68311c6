"""What the scenario is told, and what things are called in the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .cluster import Refusal, run

if TYPE_CHECKING:
    from collections.abc import Mapping

RELEASE = "statistics"
NAMESPACE = "scope-http-statistics"
AGENT_NAMESPACE = "scope-http-statistics-agent"
"""Of agents without an operator: `deployments/agent-daemonset.yaml`."""
SHOP = "scope-http-statistics-shop"
"""Of the web server and whatever else is the test's own."""
CRD = "httpstatistics.scope-http-statistics.dev"
OURS = "app.kubernetes.io/name=scope-http-statistics"
"""A label on every object of chart and manifests."""
PLUGIN = "/var/run/scope/plugins/http-statistics"
"""The agent's directory on the node."""


@dataclass(frozen=True)
class Settings:
    """What to test, and where."""

    charts: Path
    """Directory with two versions of the chart, packaged: `N.tgz` and `N+1.tgz`."""
    registry: str
    """Where the node has or pulls the images of agent and operator from; tags are the charts' versions."""
    web_image: str
    """Has nginx, curl and busybox."""
    on_node: bool
    """The node is this machine (`.ci/node`): its files, processes and sockets can be looked at."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, on_node: bool) -> Settings:
        """Reads the variables that `.ci/e2e` sets."""
        try:
            return cls(
                charts=Path(environment["E2E_DIRECTORY"]),
                registry=environment["E2E_REGISTRY"],
                web_image=environment["E2E_WEB_IMAGE"],
                on_node=on_node,
            )
        except KeyError as error:
            raise Refusal(f"{error.args[0]} is not set: call .ci/e2e, which sets it") from error

    @property
    def pull_policy(self) -> str:
        """Images are pulled again on a cluster that may have those of an earlier run, under the same tags."""
        return "IfNotPresent" if self.on_node else "Always"

    @property
    def chart_values(self) -> tuple[str, ...]:
        """What every installation of the chart needs here."""
        return ("--set", f"image.registry={self.registry}")

    def chart(self, revision: str) -> str:
        """The packaged chart `N` or `N+1`."""
        return str(self.charts / f"{revision}.tgz")

    def version(self, revision: str) -> str:
        """The version of the images that a chart installs."""
        return _app_version(self.chart(revision))

    def image(self, program: str, revision: str) -> str:
        """The image of `agent` or `operator` that a chart installs."""
        return f"{self.registry}/scope-http-statistics-{program}:{self.version(revision)}"


@cache
def _app_version(chart: str) -> str:
    said = run("helm", "show", "chart", chart)
    return said.split("appVersion: ")[1].split()[0].strip("\"'")
