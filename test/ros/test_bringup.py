"""The bring-up of a robot in examples/: it gives the launch file arguments that exist, and brings the node up."""

import ast
import os
import stat
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BRINGUP = ROOT / "examples" / "bringup.launch.py"
LAUNCH_FILE = ROOT / "launch" / "occ_flow.launch.py"
# Stands in for Nav2's, which comes with Nav2 alone: what it asks of the nodes that it was given, without the bonds.
MANAGER = """#!{python}
import sys
import time
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
rclpy.init()
node = rclpy.create_node("unnamed")
for name, value in (("node_names", [""]), ("autostart", False), ("bond_timeout", 4.0)):
    node.declare_parameter(name, value)
assert node.get_parameter("autostart").value and node.get_parameter("bond_timeout").value == 0.0
assert node.get_parameter("use_sim_time").value
for name in node.get_parameter("node_names").value:
    client = node.create_client(ChangeState, name + "/change_state")
    assert client.wait_for_service(60)
    time.sleep(1.0)  # for the node to know of this client as well, or its answer is lost
    for step in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        answer = client.call_async(ChangeState.Request(transition=Transition(id=step)))
        rclpy.spin_until_future_complete(node, answer, timeout_sec=120)
        assert answer.result().success
print(node.get_fully_qualified_name() + ": managed nodes are active", flush=True)
"""


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Calls of a function by its plain name."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name]


def constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Names that the module assigns -> what."""
    return {n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign)}


def test_it_gives_arguments_that_the_launch_file_declares():
    tree = ast.parse(BRINGUP.read_text())
    declared = {call.args[0].value: call.args[1] for call in calls(ast.parse(LAUNCH_FILE.read_text()), "argument")}
    own = ast.literal_eval(constants(tree)["ARGUMENTS"])
    (fixed,) = (n.value for n in ast.walk(tree) if isinstance(n, ast.AugAssign))
    values = {k.value: v.value for k, v in zip(fixed.keys, fixed.values, strict=True) if isinstance(v, ast.Constant)}
    assert values["autostart"] == "false"  # the manager starts it
    assert {"bag", "rviz"} <= set(own)
    assert set(own) | {k.value for k in fixed.keys} <= set(declared)
    assert not set(own) & {k.value for k in fixed.keys}
    assert {name: default for name, (default, _) in own.items()} == {name: declared[name].value for name in own}


def test_the_manager_is_the_one_of_the_page():
    """Nav2's, with the parameters that docs/nav2.md gives; Nav2 is no dependency, and package.xml says so."""
    tree = ast.parse(BRINGUP.read_text())
    (node,) = calls(tree, "Node")
    given = {k.arg: k.value for k in node.keywords}
    assert (given["package"].value, given["executable"].value) == ("nav2_lifecycle_manager", "lifecycle_manager")
    (parameters,) = given["parameters"].elts
    found = {k.value: v for k, v in zip(parameters.keys, parameters.values, strict=True)}
    page = (ROOT / "docs" / "nav2.md").read_text()
    block = page[: page.index("`examples/bringup.launch.py`")].rsplit("```yaml", 1)[1].split("```")[0]
    ((name, settings),) = yaml.safe_load(block).items()
    settings = settings["ros__parameters"]
    assert name == given["name"].value
    assert {k: found[k].value for k in ("autostart", "bond_timeout")} == {
        k: settings[k] for k in found if k in settings and k != "node_names"
    }
    assert [e.id for e in found["node_names"].elts] == ["NODE"]
    manifest = (ROOT / "package.xml").read_text()
    needed = {e.text for e in ElementTree.fromstring(manifest).iter("exec_depend")}
    assert "nav2_lifecycle_manager" not in needed and "nav2_lifecycle_manager" in manifest


def ament_package(prefix: Path, name: str, executable: str, script: str) -> None:
    """A package with one executable, as an install folder has it."""
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    for folder in (index, prefix / "share" / name, prefix / "lib" / name):
        folder.mkdir(parents=True)
    (index / name).touch()
    program = prefix / "lib" / name / executable
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("namespace", ["", "/robot1"])
def test_brought_up_with_a_bag_it_answers_and_ends(namespace: str, tmp_path: Path):
    """Launched for real, with a stand-in for Nav2's manager."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
    pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")
    pytest.importorskip(
        "launch_ros.actions", reason="ROS's launch is not installed here; it comes with a ROS installation"
    )
    import ros_rig as rig
    from test_ros_launch import command

    rig.isolate_ros()
    ament_package(
        tmp_path / "nav2", "nav2_lifecycle_manager", "lifecycle_manager", MANAGER.format(python=sys.executable)
    )
    checkpoint, bag = rig.write_checkpoint(tmp_path / "tiny.safetensors"), rig.write_bag(tmp_path / "drive", 4)
    arguments = [f"bag:={bag}", f"checkpoint:={checkpoint}", f"cameras:={','.join(rig.CAMERAS)}"]
    if namespace:
        arguments.append(f"namespace:={namespace}")
    before = os.environ["AMENT_PREFIX_PATH"]
    os.environ["AMENT_PREFIX_PATH"] = f"{tmp_path / 'nav2'}:{before}"
    try:
        launched = rig.NodeProcess(command=command(BRINGUP, *arguments))
        try:
            launched.wait_for(f"{namespace}/lifecycle_manager_occ_flow: managed nodes are active")
            launched.wait_for(f"active: images from {namespace}/camera_front/image_raw/compressed", 5)
        finally:
            status = launched.stop()
    finally:
        os.environ["AMENT_PREFIX_PATH"] = before
    assert (status, "Traceback" in launched.output) == (0, False), launched.output
