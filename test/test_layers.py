"""Who may import whom: every package of the library has its layer, no module imports itself by a detour."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROS = {"rclpy", "rosidl_runtime_py", "launch", "launch_ros", "cv_bridge", "tf2_ros", "tf_transformations", "letocc_ros"}
COMMON = {
    "errors",
    "config",
    "ending",
    "frame",
    "processes",
    "versions",
}  # modules at the top that every package may import
LAYERS = {  # package or module of letocc_core: what else it may import
    "errors": set(),
    "config": set(),
    "ending": set(),
    "frame": set(),
    "processes": {"ray_tasks"},
    "ray_tasks": set(),
    "versions": set(),
    "compiled": set(),
    "geometry": {"compiled"},
    "model": {"geometry", "compiled"},
    "checkpoint": {"model"},
    "engines": {"model"},
    "stream": {"geometry", "model", "engines", "checkpoint"},
    "rendering": {"geometry"},
    "cues": {"geometry", "model"},
    "losses": {"geometry", "rendering"},
    "data": {"geometry", "stream", "cues"},
    "viz": {"compiled", "geometry", "stream", "rendering"},
    "metrics": {"geometry", "stream", "losses", "data"},
    "training": {"geometry", "model", "checkpoint", "rendering", "losses", "cues", "data", "viz"},
    "evaluation": {
        *("compiled", "geometry", "model", "checkpoint", "stream", "rendering"),
        *("cues", "data", "viz", "metrics", "training"),
    },
    "export": {"model", "engines", "checkpoint", "stream", "evaluation"},
    "bench": {
        *("compiled", "geometry", "model", "engines", "checkpoint", "stream"),
        *("rendering", "losses", "metrics", "training"),
    },
    "cli": {"bench", "export", "model", "cues", "data", "viz", "training", "evaluation"},
}
NODE = {
    "geometry",
    "model",
    "engines",
    "checkpoint",
    "stream",
}  # what the ROS package may import; bags in BAG_MODULES alone
BAG_MODULES = {"player.py", "recorder.py", "node.py"}
MOST_FILES = 14  # of one folder
MOST_AT_THE_TOP = 8  # modules of letocc_core outside its packages


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def imports(file: Path) -> tuple[str, ...]:
    """Absolute names of all that a file imports, at any depth of its code."""
    return tuple(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute in this project"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts(names: Iterable[str]) -> set[str]:
    """First-level packages and modules of letocc_core among imported names."""
    split = (name.split(".") for name in names)
    return {p[1] for p in split if p[0] == "letocc_core" and len(p) > 1 and not p[1].startswith("__")}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def module_graph() -> dict[str, set[str]]:
    """Modules of both packages, and the modules that each imports anywhere in its code."""
    files = {module_of(file): file for folder in ("letocc_core", "letocc_ros") for file in sources(folder)}

    def target(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    return {module: {target(n) for n in imports(file)} & files.keys() - {module} for module, file in files.items()}


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Nodes that lead back to the first of them; empty if there is no such way."""
    done: set[str] = set()

    def visit(node: str, way: list[str]) -> list[str]:
        if node in way:
            return way[way.index(node) :]
        if node in done:
            return []
        found = next(filter(None, (visit(other, [*way, node]) for other in sorted(graph.get(node, ())))), [])
        done.add(node)
        return found

    return next(filter(None, (visit(node, []) for node in sorted(graph))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_itself_by_a_detour():
    graph = module_graph()
    assert len(graph) > 100 and any(graph.values())
    assert not circle(graph)


def test_layers_allow_no_circle_of_packages():
    assert not circle(LAYERS)


@pytest.mark.parametrize("part", LAYERS)
def test_dependencies_point_one_way(part: str):
    place = ROOT / "letocc_core" / part
    files = sources(f"letocc_core/{part}") if place.is_dir() else [place.with_suffix(".py")]
    for file in files:
        forbidden = parts(imports(file)) - LAYERS[part] - COMMON - {part}
        assert not forbidden, f"{file.relative_to(ROOT)} imports {sorted(forbidden)}"


def test_every_package_has_its_layer():
    top = (ROOT / "letocc_core").iterdir()
    found = {p.stem for p in top if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert found - {"__init__"} == LAYERS.keys()


def test_the_core_imports_no_ros():
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in sources("letocc_core")
        for name in imports(file)
        if name.split(".")[0] in ROS or name.split(".")[0].endswith("_msgs")
    }
    assert not found


def test_the_node_imports_nothing_of_training():
    """Bag player and recorder read and write recordings, `letocc play` is a command, and `letocc bench` measures; no other may."""
    for file in sources("letocc_ros"):
        allowed = NODE | COMMON | ({"data"} if file.name in BAG_MODULES else set())
        allowed |= {"cli", "viz"} if file.name == "command.py" else set()
        allowed |= {"viz"} if file.parent.name == "view" else set()
        allowed |= {"bench"} if file.name == "bench.py" else set()
        assert parts(imports(file)) <= allowed, file


def test_no_folder_is_crowded():
    folders = {file.parent for package in ("letocc_core", "letocc_ros") for file in sources(package)}
    crowded = {str(f.relative_to(ROOT)): n for f in folders if (n := len(list(f.glob("*.py")))) > MOST_FILES}
    assert not crowded
    top = [p.stem for p in (ROOT / "letocc_core").glob("*.py") if p.stem != "__init__"]
    assert len(top) <= MOST_AT_THE_TOP, top
