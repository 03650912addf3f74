"""Configuration: YAML into dataclasses, and what the user reads when it does not fit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from letocc_core import config
from letocc_core.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    size: tuple[int, int] = (1, 2)
    kind: Literal["a", "b", "true"] = "a"


@dataclass(frozen=True)
class Outer:
    steps: int
    inner: Inner = field(default_factory=Inner)
    stages: tuple[Inner, ...] = ()
    path: Path | None = None


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_values_defaults_and_overrides(tmp_path):
    path = write(tmp_path, "steps: 3\ninner: {rate: 1e-4, size: [3, 4]}\nstages: [{kind: b}]\npath: x/y\n")
    read = config.load(Outer, path, ["inner.rate=2", "stages.0.rate=7"])
    assert read == Outer(3, Inner(2.0, (3, 4)), (Inner(7.0, kind="b"),), Path("x/y"))
    assert config.load(Outer, path, ["inner.kind=true"]).inner.kind == "true"  # which YAML reads as a truth value
    assert config.load(Outer, path).inner.rate == 1e-4  # YAML 1.1 reads 1e-4 as text
    assert config.from_dict(Outer, config.to_dict(read), "again") == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", r"c\.yaml: unknown key 'stepz'; did you mean 'steps'"),
        ("steps: 3\ninner: {rat: 1}", r"unknown key 'inner\.rat'; did you mean 'inner\.rate'"),
        ("steps: 3\nstages: [{kynd: a}]", r"unknown key 'stages\[0\]\.kynd'; did you mean 'stages\[0\]\.kind'"),
        ("steps: three", r"'steps' is 'three' \(str\), expected int"),
        ("steps: true", r"'steps' is True"),
        ("steps: 1\ninner: {kind: c}", r"'inner\.kind' is 'c' \(str\), expected one of a, b, true"),
        ("steps: 1\ninner: {size: [1]}", r"expected a list of 2"),
        ("inner: {}", r"lacks steps"),
        ("[1, 2]", r"expected a mapping"),
        ("steps: [", r"not valid YAML"),
    ],
)
def test_wrong_files_name_the_place_and_the_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        config.load(Outer, write(tmp_path, text))


@dataclass(frozen=True)
class Younger:
    steps: int = 1

    REMOVED: ClassVar = {"gone": [1, 2], "idle": ...}
    RENAMED: ClassVar = {"rounds": "steps"}


def test_a_key_that_is_no_more_is_read_over_where_it_changes_nothing(tmp_path):
    assert config.load(Younger, write(tmp_path, "steps: 3\ngone: [1, 2]\nidle: {a: b}")) == Younger(3)
    assert config.to_dict(Younger()) == {"steps": 1}
    with pytest.raises(ConfigError, match=r"c\.yaml: 'gone' is \[1, 3\]; only \[1, 2\] is supported now"):
        config.load(Younger, write(tmp_path, "gone: [1, 3]"))


def test_a_key_by_its_former_name_is_the_one_of_now(tmp_path):
    assert config.load(Younger, write(tmp_path, "rounds: 3")) == Younger(3)
    for text in ("rounds: 3\nsteps: 4", "steps: 4\nrounds: 3"):
        with pytest.raises(ConfigError, match="'rounds' is called 'steps' now, and both are given"):
            config.load(Younger, write(tmp_path, text))
    with pytest.raises(ConfigError, match=r"'rounds' is called 'steps' now"):
        config.load(Younger, write(tmp_path, "steps: 4"), ["rounds=3"])


def test_missing_file_lists_its_neighbours(tmp_path):
    write(tmp_path, "steps: 1")
    with pytest.raises(ConfigError, match=r"no such configuration file; .*c\.yaml"):
        config.load(Outer, tmp_path / "d.yaml")


@pytest.mark.parametrize("item", ["steps", "=3", "steps.x=1", "stages.5.rate=1", "stages.x.rate=1"])
def test_wrong_overrides(tmp_path, item):
    with pytest.raises(ConfigError):
        config.load(Outer, write(tmp_path, "steps: 3\nstages: [{}]"), [item])


def test_differences_name_every_field():
    a, b = {"x": 1, "m": {"y": [1, 2], "z": 0}}, {"x": 1, "m": {"y": [1, 3]}}
    assert config.differences(a, b) == ["m.y: [1, 2] != [1, 3]", "m.z: 0 != absent"]


@dataclass(frozen=True)
class Fruit:
    residual: int = 0
    nearest: int = 0


@dataclass(frozen=True)
class Tool:
    detector: str = ""
    device: str = ""


@dataclass(frozen=True)
class Choice:
    masks: Fruit | Tool | None = None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{residul: 2}", "masks.residul'; did you mean 'masks.residual'"),
        ("{detektor: x}", "masks.detektor'; did you mean 'masks.detector'"),
        (
            "{nearest: 1, devise: x, residual: 1}",
            "masks.devise'; did you mean 'masks.residual'|masks.devise'; did you mean",
        ),
        ("{residual: [1]}", r"masks.residual' is \[1\]"),
    ],
)
def test_of_several_classes_the_most_like_one_reports(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        config.load(Choice, write(tmp_path, f"masks: {text}"))
    assert config.load(Choice, write(tmp_path, "masks: {device: cpu}")).masks == Tool(device="cpu")
