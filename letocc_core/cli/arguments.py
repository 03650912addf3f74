"""Arguments that several commands take, and how their text is read."""

import argparse

NEEDS_ROS = "'letocc {name}' needs ROS 2 ({error}); source a ROS installation or this project's scripts/env.sh"


def classes(text: str) -> dict[str, tuple[str, ...]]:
    """`vehicle=car,truck;road=road` as a mapping."""
    found = dict(part.split("=", 1) for part in text.split(";") if part.count("=") == 1)
    if not found or len(found) != len(text.split(";")):
        raise argparse.ArgumentTypeError(f"'{text}' is no list such as 'vehicle=car,truck;road=road'")
    return {name.strip(): tuple(label.strip() for label in labels.split(",")) for name, labels in found.items()}


def shard(text: str) -> tuple[int, int]:
    """`2/8`, the second of eight parts, as two numbers."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a part such as 2/8")
    return int(part), int(parts)


def seed_range(text: str) -> range:
    """`9000-9007` (inclusive), or one number, as a range."""
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a range such as 9000-9007") from None
