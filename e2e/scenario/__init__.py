"""The scenario: what a user does, in this order.

Each step but the first finds an agent that serves, or nothing of ours, and leaves one of the two. So `checks.txt` may
leave out any step between an installation and its removal, or both ends along with all between.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .. import checks
from ..stage import Step
from .change import change_live, roll_out, take_back_a_bad_image
from .installation import KEPT_DEFINITION, install, uninstall, use
from .loss import grow_up, kill, reboot
from .preparation import prepare
from .removal import apply_and_delete, delete_resource, wait_for_pods
from .security import VALUES as CAPABILITIES
from .security import require_capabilities
from .upgrade import roll_back, upgrade_agents, upgrade_operator

if TYPE_CHECKING:
    from ..checks import Depth
    from ..stage import Stage

REMOVE_ALL = ("--set", "crds.keep=false")
INSTALLED = ("first_number", "finalizer", "ready")


def _install_privileged(stage: Stage) -> None:
    install(stage, "helm")
    use(stage, "helm", "after the installation")


def _install_with_capabilities(stage: Stage) -> None:
    install(stage, "helm3", *CAPABILITIES, *REMOVE_ALL)
    require_capabilities(stage)
    use(stage, "helm3", "without privileges")


def _install_to_take_back(stage: Stage) -> None:
    install(stage, "helm3", *REMOVE_ALL)


def _operator_upgrade(mode: str, helm: str, *values: str) -> Step:
    return Step(f"{mode}.operator_upgrade", lambda stage: upgrade_operator(stage, helm, *values), ("agent_stays",))


def _agent_upgrade(mode: str, helm: str, *values: str) -> Step:
    return Step(f"{mode}.agent_upgrade", lambda stage: upgrade_agents(stage, helm, *values), ("no_gap", "counting"))


def _rollback(mode: str, helm: str) -> Step:
    return Step(f"{mode}.rollback", lambda stage: roll_back(stage, helm), ("no_gap", "counting"))


def _manifest(step: str, name: str) -> Step:
    return Step(step, lambda stage: apply_and_delete(stage, name), ("counting", "nothing_left"))


STEPS: tuple[Step, ...] = (
    Step("preparation", prepare, ("world", "images")),
    # Helm 4, with the chart's own values.
    Step("privileged.install", _install_privileged, (*INSTALLED, "counting", "helm_test")),
    Step("privileged.live_change", change_live, ("no_restart",)),
    Step("privileged.rolling_change", roll_out, ("no_gap", "counting")),
    Step("privileged.bad_image", take_back_a_bad_image, ("no_gap",)),
    Step("privileged.kill", kill, ("counting",)),
    Step("privileged.reboot", reboot, ("counting",)),
    _operator_upgrade("privileged", "helm"),
    # Two minutes after the installation. By now they have passed, and the operator has been started anew meanwhile.
    Step("privileged.youth", grow_up, ("finalizer_gone",)),
    _agent_upgrade("privileged", "helm"),
    _rollback("privileged", "helm"),
    Step("privileged.delete_resource", delete_resource, ("nothing_left",)),
    Step("privileged.uninstall", partial(uninstall, helm="helm", kept=[KEPT_DEFINITION]), ("nothing_left",)),
    # Helm 3, without privileges.
    Step("capabilities.install", _install_with_capabilities, (*INSTALLED, "security", "counting", "helm_test")),
    Step("capabilities.kill", kill, ("counting",)),
    _operator_upgrade("capabilities", "helm3", *CAPABILITIES, *REMOVE_ALL),
    _agent_upgrade("capabilities", "helm3", *CAPABILITIES, *REMOVE_ALL),
    _rollback("capabilities", "helm3"),
    Step("capabilities.uninstall", partial(uninstall, helm="helm3", kept=[]), ("nothing_left",)),
    # While the resource is young it must wait for the garbage collector.
    Step("taken_back.install", _install_to_take_back, INSTALLED),
    Step("taken_back.uninstall", partial(uninstall, helm="helm3", kept=[]), ("nothing_left",)),
    # Without Helm.
    _manifest("operator_manifest", "operator.yaml"),
    _manifest("agent_manifest", "agent-daemonset.yaml"),
    Step("end", wait_for_pods, ("pods_gone",)),
)


def select(depth: Depth, *, on_node: bool) -> list[Step]:
    """The steps of a run. Fails if the list of checks and the scenario differ."""
    listed = checks.parse(checks.FILE.read_text(encoding="utf-8"))
    checks.compare(listed, [identifier for step in STEPS for identifier in step.ids()])
    applies = {check.id: check.applies(depth, on_node=on_node) for check in listed}
    for step in STEPS:
        if len({applies[identifier] for identifier in step.ids()}) != 1:
            raise checks.ListError(f"{step.name}: a step is made as a whole or not at all, so its checks need the same")
    return [step for step in STEPS if applies[step.ids()[0]]]
