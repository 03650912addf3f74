"""Humble's client library has no wheels: what the node uses of rclpy is compared with what was read in its sources."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")

ROOT = Path(__file__).resolve().parents[2]
HUMBLE = yaml.safe_load((Path(__file__).parent / "humble_rclpy.yaml").read_text())
FILES = sorted((ROOT / "letocc_ros").rglob("*.py"))
MODULES = {  # where each class of the list lives
    "Clock": "clock",
    "Context": "context",
    "Duration": "duration",
    "Executor": "executors",
    "LifecycleNodeMixin": "lifecycle",
    "Node": "node",
    "Parameter": "parameter",
    "Publisher": "publisher",
    "QoSOverridingOptions": "qos_overriding_options",
    "QoSProfile": "qos",
    "SingleThreadedExecutor": "executors",
    "Subscription": "subscription",
    "Time": "time",
}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def imported(source: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of what is imported from rclpy."""
    for node in ast.walk(source):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rclpy":
            yield from ((node.module or "", alias.name) for alias in node.names)


def later_members() -> set[str]:
    """Names of members that this rclpy's classes have, and no class of Humble's."""
    known = {name for names in HUMBLE["members"].values() for name in names}
    now = {
        name
        for kind, module in MODULES.items()
        for name in dir(getattr(importlib.import_module(f"rclpy.{module}"), kind))
        if not name.startswith("_")
    }
    return now - known


def unguarded(source: ast.Module, later: set[str]) -> set[str]:
    """Members out of `later` that are used without asking whether they are there (hasattr)."""
    used = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute)}
    asked = {
        node.args[1].value
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"
    }
    return used & later - asked


def arguments_that_humble_lacks(source: ast.Module) -> set[tuple[str, str]]:
    """(function, argument by name) of calls of rclpy's functions and classes."""
    accepted: dict[str, set[str]] = {}
    for name, names in HUMBLE["arguments"].items():
        kind, _, function = name.rpartition(".")
        accepted.setdefault(kind if function in ("__init__", "__new__") else function, set()).update(names)
    ours = {name for _, name in imported(source)}
    found = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")  # of a class or function: `Clock` may be a message as well
            name = node.func.attr if isinstance(node.func, ast.Attribute) else name if name in ours else ""
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            if name in accepted and "**" not in accepted[name]:
                found |= {(name, argument) for argument in given - accepted[name]}
    return found


def test_every_import_is_there():
    uses = {use for file in FILES for use in imported(tree(file))}
    assert ("rclpy.qos", "QoSProfile") in uses and len(uses) > 15
    assert not {use for use in uses if use[1] not in HUMBLE["imports"].get(use[0], ())}


def test_what_came_later_is_asked_for_first():
    later = later_members()
    assert "publish" not in later
    assert not {(file.name, name) for file in FILES for name in unguarded(tree(file), later)}


def test_every_argument_is_accepted():
    assert not {(file.name, use) for file in FILES for use in arguments_that_humble_lacks(tree(file))}


def test_the_comparison_finds_what_humble_lacks():
    later = {"get_publisher_count"}
    plain = "from rclpy.executors import EventsExecutor\nn = s.get_publisher_count()\nnode.create_timer(1, f, autostart=False)"
    assert list(imported(ast.parse(plain))) == [("rclpy.executors", "EventsExecutor")]
    assert "EventsExecutor" not in HUMBLE["imports"]["rclpy.executors"]
    assert unguarded(ast.parse(plain), later) == later
    asked = "if hasattr(s, 'get_publisher_count'):\n    n = s.get_publisher_count()"
    assert unguarded(ast.parse(asked), later) == set()
    assert arguments_that_humble_lacks(ast.parse(plain)) == {("create_timer", "autostart")}
