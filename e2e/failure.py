"""After a failure: what the cluster says, and what has to be removed from it."""

from __future__ import annotations

from .cluster import Failure, kubectl, run
from .settings import AGENT_NAMESPACE, CRD, NAMESPACE, OURS, RELEASE, SHOP
from .terminal import say, warn


def describe() -> None:
    """Prints what is needed to understand it."""
    agents = "app.kubernetes.io/component in (agent, standby)"
    for command in (
        ("get", "pods,daemonsets,httpstatistics", "-A", "-o", "wide"),
        *(("describe", "pods", "-n", namespace) for namespace in (NAMESPACE, AGENT_NAMESPACE)),
        ("logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator", "--tail=30"),
        *(("logs", "-n", one, "-l", agents, "--tail=30") for one in (NAMESPACE, AGENT_NAMESPACE)),
    ):
        say(f"$ kubectl {' '.join(command)}\n{kubectl(*command, check=False)}")


def clean_up() -> None:
    """Removes what a run left, passed or not. What was there before it is not among that: see `inspect_cluster`."""
    for command in (
        # Kubernetes takes the agents down, if need be when it has heard of the definition.
        ("kubectl", "delete", "httpstatistics", "--all", "--cascade=foreground", "--timeout=60s"),
        ("helm", "uninstall", RELEASE, "-n", NAMESPACE),
        ("kubectl", "delete", "namespace", NAMESPACE, AGENT_NAMESPACE, SHOP, "--ignore-not-found"),
        ("kubectl", "delete", "crd", CRD, "--ignore-not-found"),
        ("kubectl", "delete", "clusterroles,clusterrolebindings,roles,rolebindings", "-A", "-l", OURS),
    ):
        try:
            run(*command, check=False)
        except Failure as failure:
            warn(f"not cleaned up: {failure}")
