"""Stamps of messages, as `std_msgs/Header` has them."""

from letocc_core.errors import DataError


def require_stamp(stamp_ns: int, source: str) -> int:
    """The stamp (ns) itself; raises `DataError`, headed by `source` (a topic), for the zero of a header left empty."""
    if stamp_ns <= 0:
        raise DataError(f"{source}: stamped {stamp_ns} ns; its publisher must fill header.stamp")
    return stamp_ns
