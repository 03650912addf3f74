"""YAML into dataclasses. Defaults live in the dataclass; an unknown key at any depth is an error that names the nearest one.

A value on the command line (`key.sub=value`) beats the YAML file, which beats the default. Files of earlier versions hold
keys that are no more: the class variable `REMOVED` of a dataclass maps each to the one value that still means what the code
does, or to `...` where none makes a difference; it is read over, any other value is an error. The class variable `RENAMED`
maps the former name of a key to the one it has now.
"""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml

from letocc_core.errors import ConfigError

T = TypeVar("T")
SHORT = reprlib.Repr()  # how values are shown: a few bytes of YAML can stand for gigabytes
SHORT.maxlevel = 2


def load(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a YAML file into the dataclass `cls`, then apply `overrides` such as `train.steps=10`.

    Raises `ConfigError` for a missing file, bad YAML, an unknown key, or a value of the wrong type.
    """
    data = read(path)
    for item in overrides:
        override(data, item)
    return from_dict(cls, data, str(path))


def read(path: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file; raises `ConfigError` for a missing file, bad YAML, or something else than a mapping."""
    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(f"{path}: no such configuration file; YAML files in that folder: {known}")
    try:
        data = _parse(path.read_text("utf-8-sig")) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no text, or a date that cannot be
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys at the top, found {type(data).__name__}")
    return data


def _parse(text: str) -> Any:
    """YAML by the safe loader; raises `yaml.YAMLError` or `ValueError`."""
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def from_dict(cls: type[T], data: Any, source: str, prefix: str = "") -> T:
    """Build the dataclass `cls` from nested mappings; `source` (a file or topic) heads the messages of `ConfigError`."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: '{prefix}' is {SHORT.repr(data)}, expected a mapping of keys")
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    removed, renamed, values = getattr(cls, "REMOVED", {}), getattr(cls, "RENAMED", {}), {}
    for key, value in data.items():
        if renamed.get(key) in data:
            raise ConfigError(f"{source}: '{prefix}{key}' is called '{prefix}{renamed[key]}' now, and both are given")
        key = renamed.get(key, key)
        name = f"{prefix}{key}"
        if key in removed:
            if not _means_the_same(_plain(value), removed[key]):
                raise ConfigError(f"{source}: '{name}' is {SHORT.repr(value)}; only {removed[key]} is supported now")
            continue
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
            raise ConfigError(
                f"{source}: unknown key '{name}'; did you mean '{prefix}{near[0]}'? Known here: {', '.join(known)}"
            )
        values[key] = _convert(known[key], value, source, name)
    try:
        return cls(**values)
    except TypeError as error:
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in values and _required(f)]  # type: ignore[arg-type]
        raise ConfigError(
            f"{source}: {prefix.removesuffix('.') or 'top level'} lacks {', '.join(missing) or error}"
        ) from error


def _means_the_same(value: Any, only: Any) -> bool:
    """Whether a value of a removed key is the only one that is left; of a section, every key that is given."""
    if isinstance(only, Mapping) and isinstance(value, Mapping):
        return all(key in only and value[key] == only[key] for key in value)
    return only is ... or value == only


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionary of a configuration, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(config))


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Fields in which two plain configurations differ, as `key: a != b` lines."""
    out = []
    for key in sorted({*a, *b}):
        left, right = a.get(key, "absent"), b.get(key, "absent")
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            out += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            out.append(f"{prefix}{key}: {left} != {right}")
    return out


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def override(data: dict, item: str) -> None:
    """Set `key.sub.0.name=value` in nested mappings and lists, adding mappings that are not there.

    Raises `ConfigError` for an item of another form, or a key below a value.
    """
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{item}': expected key=value, for example train.steps=100")
    *parents, last = key.split(".")
    here: dict | list = data
    for parent in parents:
        here = here.setdefault(parent, {}) if isinstance(here, dict) else here[_position(here, parent, item)]
        if not isinstance(here, (dict, list)):
            raise ConfigError(f"override '{item}': '{parent}' holds a value, not a group of keys")
    if isinstance(here, dict):
        here[last] = _value(item, text)
    else:
        here[_position(here, last, item)] = _value(item, text)


def _value(item: str, text: str) -> Any:
    try:
        return _parse(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"override '{item}': '{text}' is not valid YAML: {error}") from error


def _position(values: list, text: str, item: str) -> int:
    if not text.isdigit() or int(text) >= len(values):
        raise ConfigError(
            f"override '{item}': '{text}' is not a position in a list of {len(values)}, which counts from 0"
        )
    return int(text)


def _convert(kind: Any, value: Any, source: str, name: str) -> Any:
    """Check `value` against a type hint and convert YAML's lists and mappings to tuples and dataclasses."""

    def wrong(expected: str) -> ConfigError:
        shown = SHORT.repr(value)
        return ConfigError(f"{source}: '{name}' is {shown} ({type(value).__name__}), expected {expected}")

    origin, args = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        for option in options:
            try:
                return _convert(option, value, source, name)
            except ConfigError:
                continue
        return _convert(max(options, key=lambda option: _likeness(option, value)), value, source, name)
    if origin is Literal:
        if isinstance(value, bool) and str(value).lower() in args:  # YAML reads the word true as a truth value
            return str(value).lower()
        if value not in args:
            raise wrong(f"one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise wrong("a list")
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(value) != len(args):
            raise wrong(f"a list of {len(args)}")
        return tuple(_convert(a, v, source, f"{name}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong("a mapping")
        return {k: _convert(args[1], v, source, f"{name}.{k}") for k, v in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise wrong("a mapping of keys")
        return from_dict(kind, value, source, f"{name}.")
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return _number(value, wrong)  # of text, too: YAML 1.1 reads 1e-4 as text
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise wrong(getattr(kind, "__name__", str(kind)))


def _likeness(kind: Any, value: Any) -> float:
    """How much a mapping of keys looks like one of a class: the more of them it knows, or nearly knows."""
    if not (dataclasses.is_dataclass(kind) and isinstance(value, Mapping)):
        return 0.0
    known = [f.name for f in dataclasses.fields(kind)]
    return sum(max(difflib.SequenceMatcher(None, str(key), name).ratio() for name in known) for key in value)


def _number(value: int | float | str, wrong: Callable[[str], ConfigError]) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise wrong("a number") from None
