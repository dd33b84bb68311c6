"""What runs beside the product: a web server, whose log is the truth, its client, and a way to look at the node."""

from __future__ import annotations

import subprocess
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Self

from .cluster import PATIENCE, Failure, Json, Refusal, apply, get, kubectl, only_pod, until
from .settings import SHOP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from .settings import Settings

DEPLOYMENTS = ("web", "client", "node")
BUSYBOX = "/bin/busybox"
CURL = "/usr/bin/curl --silent --output /dev/null"
PULL_FAILURES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")


class World:
    """The pods in the namespace `SHOP`."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is there before `apply`."""
        self.settings = settings
        self._pinned_before: set[str] = set()

    # To make it.

    def apply(self) -> None:
        """Makes all of it; `wait` waits."""
        # The pod that looks at the node is privileged.
        labels = {"pod-security.kubernetes.io/enforce": "privileged"}
        apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP, "labels": labels}},
            self._deployment("web", {"containers": [self._web()]}),
            self._deployment("client", {"containers": [self._idle("client")]}),
            self._deployment("node", self._node()),
        )

    def wait(self) -> None:
        """Until each of its pods can be used."""
        for name in DEPLOYMENTS:
            self.wait_for(name, partial(self._has_rolled_out, name))
            kubectl("exec", "-n", SHOP, f"deployment/{name}", "--", BUSYBOX, "true")

    def wait_for(self, name: str, is_there: Callable[[], bool]) -> None:
        """Until something in the namespace is there; refuses a node that cannot pull an image."""

        def ask() -> bool:
            for pod in get("pods", "-n", SHOP)["items"]:
                self._refuse_pull_failure(pod["status"])
            return is_there()

        until(f"{name} runs", ask)

    def _has_rolled_out(self, name: str) -> bool:
        return bool(kubectl("rollout", "status", f"deployment/{name}", "-n", SHOP, "--timeout=1s"))

    def _refuse_pull_failure(self, status: Json) -> None:
        for container in status.get("containerStatuses", []):
            waiting = container["state"].get("waiting", {})
            if waiting.get("reason") in PULL_FAILURES:
                raise Refusal(
                    f"the node cannot pull {container['image']}: {waiting.get('message')}. "
                    f"Push it: E2E_REGISTRY={self.settings.registry} .ci/e2e push"
                )

    def _container(self, name: str) -> Json:
        return {"name": name, "image": self.settings.web_image, "imagePullPolicy": self.settings.pull_policy}

    def _web(self) -> Json:
        return {**self._container("web"), "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}

    def _idle(self, name: str) -> Json:
        return {**self._container(name), "command": [BUSYBOX, "sleep", "1000000"]}

    def _node(self) -> Json:
        container = {
            **self._idle("node"),
            "securityContext": {"privileged": True},
            "volumeMounts": [{"name": "host", "mountPath": "/host"}],
        }
        volume = {"name": "host", "hostPath": {"path": "/var/run"}}
        return {"hostPID": True, "containers": [container], "volumes": [volume]}

    def _deployment(self, name: str, pod: Json) -> Json:
        labels = {"app.kubernetes.io/name": f"e2e-{name}"}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "strategy": {"type": "Recreate"},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"terminationGracePeriodSeconds": 1, **pod},
                },
            },
        }

    # The web server and its client.

    def web_pod(self) -> Json:
        """The web server."""
        return only_pod(SHOP, "app.kubernetes.io/name=e2e-web")

    def web_uid(self) -> str:
        """By which the agent knows the web server."""
        uid: str = self.web_pod()["metadata"]["uid"]
        return uid

    def request(self, counts: Mapping[str, int]) -> None:
        """Asks the web server for each path so many times, over a connection for each path."""
        address = self.web_pod()["status"]["podIP"]
        commands = [f"{CURL} 'http://{address}:8080{path}?[1-{count}]'" for path, count in counts.items()]
        self.in_client("sh", "-c", " && ".join(commands))

    def log(self) -> Counter[str]:
        """How many responses the web server has logged by their codes, and in all under `requests`."""
        codes = kubectl("logs", "-n", SHOP, "deployment/web").split()
        return Counter(codes) + Counter({"requests": len(codes)})

    def in_client(self, *command: str) -> str:
        """Runs a command of busybox in the client."""
        return kubectl("exec", "-n", SHOP, "deployment/client", "--", BUSYBOX, *command)

    # The node.

    def on_node(self, *command: str) -> str:
        """Runs a command of busybox that sees the node's processes, and its `/var/run` as `/host`."""
        return kubectl("exec", "-n", SHOP, "deployment/node", "--", BUSYBOX, *command)

    def plugin_directories(self) -> str:
        """What has our name below the node's `/var/run`."""
        found = self.on_node("find", "/host/scope").splitlines()
        return " ".join(path for path in found if "http-statistics" in path)

    def remember_pinned(self) -> None:
        """Remembers what others keep in the node's kernel."""
        self._pinned_before = self._pinned()

    def newly_pinned(self) -> set[str]:
        """What is kept in the node's kernel since then."""
        return self._pinned() - self._pinned_before

    def _pinned(self) -> set[str]:
        # The node's first process sees its bpf file system.
        return set(self.on_node("ls", "/proc/1/root/sys/fs/bpf").split())


class Load:
    """A client that does not stop until the block is left."""

    def __init__(self, world: World) -> None:
        """Nothing is sent before the block is entered."""
        self._world = world

    def __enter__(self) -> Self:
        """Starts it."""
        address = self._world.web_pod()["status"]["podIP"]
        self._world.in_client("rm", "-f", "/stop")
        loop = f"while [ ! -e /stop ]; do {CURL} http://{address}:8080/; {BUSYBOX} sleep 0.1; done"
        self._process = subprocess.Popen(
            ["kubectl", "exec", "-n", SHOP, "deployment/client", "--", BUSYBOX, "sh", "-c", loop],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it; after a failure without waiting for it."""
        if error is not None:
            self._process.kill()
            return
        self._world.in_client("touch", "/stop")
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired as timeout:
            raise Failure(f"the client does not stop: {timeout}") from timeout
