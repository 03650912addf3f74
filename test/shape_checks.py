"""How the annotations are checked while the tests run: shapes by jaxtyping, all other types by beartype."""

import ast
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype

PACKAGES = ("letocc_core", "letocc_ros")
STOOD_IN_FOR = {"rclpy"}  # tests stand in for nodes and publishers, which do not live without a middleware
_checked = beartype(
    conf=BeartypeConf(is_pep484_tower=True)
)  # a whole number may stand for a float, as for type checkers


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked, but for types of rclpy and those that its module imports for type
    checkers only.
    """
    unknown = STOOD_IN_FOR | _only_for_type_checkers(getattr(sys.modules.get(function.__module__), "__file__", None))
    hints = getattr(function, "__annotations__", {})
    for name, hint in hints.items():
        if unknown & set(re.findall(r"\w+", hint if isinstance(hint, str) else repr(hint))):
            hints[name] = Any
    return _checked(function)


@cache
def _only_for_type_checkers(file: str | None) -> frozenset[str]:
    """Names that a module imports `if TYPE_CHECKING`."""
    if file is None or not file.endswith(".py"):
        return frozenset()
    guarded = [
        node
        for node in ast.walk(ast.parse(Path(file).read_text()))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    imports = (item for node in guarded for item in node.body if isinstance(item, ast.Import | ast.ImportFrom))
    return frozenset(alias.asname or alias.name for item in imports for alias in item.names)


def checked_modules(repository: Path) -> list[str]:
    """The modules whose annotations hold: not those with functions that numba compiles, which cannot be wrapped."""
    files = sorted(file for package in PACKAGES for file in (repository / package).rglob("*.py"))
    left_out = {file for file in files if "from numba import" in file.read_text()}
    # the name of a package stands for all that is in it
    mixed = {folder for file in left_out for folder in file.parents}
    plain = [file for file in files if file not in left_out and not (file.stem == "__init__" and file.parent in mixed)]
    return [".".join(file.relative_to(repository).with_suffix("").parts).removesuffix(".__init__") for file in plain]
