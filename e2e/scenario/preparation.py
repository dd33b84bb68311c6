"""Whether the cluster is fit for it, before anything is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cluster import Failure, Json, Refusal, apply, get, kubectl, names
from ..settings import AGENT_NAMESPACE, CRD, NAMESPACE, OURS, PLUGIN, SHOP
from ..world import BUSYBOX

if TYPE_CHECKING:
    from ..settings import Settings
    from ..stage import Stage

PROGRAMS = ("agent", "operator")
REVISIONS = ("N", "N+1")


def inspect_cluster() -> None:
    """Refuses a cluster where something of ours runs, which the test would remove; and one that it cannot judge."""
    try:
        nodes = get("nodes", "-l", "kubernetes.io/os=linux")["items"]
        definition = names("crd", CRD, "--ignore-not-found")
        namespaces = names("namespaces", NAMESPACE, AGENT_NAMESPACE, SHOP, "--ignore-not-found")
        kinds = "deployments,daemonsets,clusterroles,clusterrolebindings,roles,rolebindings"
        ours = names(kinds, "-A", "-l", OURS)
    except Failure as failure:
        reason = str(failure).splitlines()[-1]
        raise Refusal(f"the cluster of E2E_KUBECONFIG does not answer, or not to you: {reason}") from failure
    if len(nodes) != 1:
        raise Refusal(
            f"the cluster has {len(nodes)} Linux nodes. Take one that has one, as kind, minikube and k3s make them"
        )
    if definition or ours:
        raise Refusal(
            "Scope HTTP Statistics is installed there, and the test would remove it: "
            f"{', '.join(definition + ours)}. Take another cluster, or uninstall it (README.md, Uninstall)"
        )
    if namespaces:
        raise Refusal(
            f"the test would remove what is in {', '.join(namespaces)}. Is it left by an earlier run? "
            "Then kubectl delete it"
        )


def prepare(stage: Stage) -> None:
    """Makes the world, and has the node pull and start each image that is to come."""
    versions = [stage.settings.version(revision) for revision in REVISIONS]
    containers = _image_containers(stage.settings)
    stage.world.apply()
    # It starts while the world does.
    apply(_image_pod(containers))
    stage.world.wait()
    stage.held("world", "a web server, a client")
    _inspect_node(stage)
    stage.world.wait_for("images", lambda: _have_started(containers))
    kubectl("delete", "pod", "images", "-n", SHOP, "--wait=false")
    stage.held("images", f"images of {' and '.join(versions)}, of {stage.settings.registry}, start on the node")


def _inspect_node(stage: Stage) -> None:
    """Refuses a node with an agent that no object of the cluster's tells of."""
    found = stage.world.on_node("sh", "-c", f"{BUSYBOX} ls /host/scope/plugins 2>/dev/null || true")
    if "http-statistics" in found:
        raise Refusal(f"the node has {PLUGIN}: stop the agent that it is of, and if there is none, remove it")
    stage.world.remember_pinned()


def _image_containers(settings: Settings) -> list[Json]:
    return [
        {
            "name": f"{program}-{number}",
            "image": settings.image(program, revision),
            "imagePullPolicy": settings.pull_policy,
            "command": [f"scope-http-statistics-{program}", "--version"],
        }
        for number, revision in enumerate(REVISIONS)
        for program in PROGRAMS
    ]


def _image_pod(containers: list[Json]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "images", "namespace": SHOP},
        "spec": {"restartPolicy": "Never", "containers": containers},
    }


def _have_started(containers: list[Json]) -> bool:
    """Whether all containers have ended well; refuses if one has not."""
    status = get("pod", "images", "-n", SHOP)["status"]
    if status["phase"] == "Failed":
        images = {one["name"]: one["image"] for one in containers}
        ends = {images[one["name"]]: one["state"].get("terminated", {}) for one in status["containerStatuses"]}
        reasons = [
            f"{image}: {end.get('message') or end.get('reason')}" for image, end in ends.items() if end.get("exitCode")
        ]
        raise Refusal(f"an image does not start on the node: {'; '.join(reasons)}")
    return bool(status["phase"] == "Succeeded")
