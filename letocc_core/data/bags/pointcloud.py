"""`sensor_msgs/PointCloud2` payloads <-> numpy, without ROS."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from letocc_core.errors import DataError

# sensor_msgs/PointField datatypes
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
MAX_STEP = 2**16  # bytes a point
NUMBERS = {np.dtype(name): number for number, name in DATATYPES.items()}


@runtime_checkable
class Field(Protocol):
    """What is read of a `sensor_msgs/PointField`."""

    name: str
    offset: int  # bytes from the start of a point
    datatype: int  # key of `DATATYPES`
    count: int


@runtime_checkable
class Cloud(Protocol):
    """What is read of a `sensor_msgs/PointCloud2`."""

    height: int
    width: int
    fields: Sequence[Field]
    is_bigendian: bool
    point_step: int  # bytes a point
    row_step: int  # bytes a row of `width` points
    data: np.ndarray


def to_structured(cloud: Cloud, source: str) -> np.ndarray:
    """The cloud as a structured array [height * width] with one entry a field, in the recording's own types.

    A driver that leaves `row_step` at 0 packs its rows; a cloud without points may lack everything else as well.

    Raises `DataError`, naming `source` (the topic), for unknown types, a field named twice or outside the point, points of
    no or absurd size, and too few bytes.
    """
    if not cloud.height or not cloud.width:
        names = list(dict.fromkeys(field.name for field in cloud.fields))
        return np.zeros(0, [(name, np.float32) for name in names])
    if not 1 <= cloud.point_step <= MAX_STEP:
        raise DataError(f"{source}: points of {cloud.point_step} bytes, expected 1 to {MAX_STEP}")
    order = ">" if cloud.is_bigendian else "<"
    names, formats, offsets = [], [], []
    for field in cloud.fields:
        if field.datatype not in DATATYPES:
            raise DataError(f"{source}: field '{field.name}' has datatype {field.datatype}, expected 1 to 8")
        kind = np.dtype(order + DATATYPES[field.datatype])
        if field.offset + kind.itemsize * max(field.count, 1) > cloud.point_step:
            raise DataError(
                f"{source}: field '{field.name}' ends at byte {field.offset + kind.itemsize * max(field.count, 1)} "
                f"of a point of {cloud.point_step} bytes"
            )
        if field.name in names:
            raise DataError(f"{source}: field '{field.name}' appears twice")
        names.append(field.name)
        formats.append(kind if field.count <= 1 else (kind, field.count))
        offsets.append(field.offset)
    kind = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": cloud.point_step})
    row_step = cloud.row_step or cloud.width * cloud.point_step
    expected = row_step * cloud.height
    if row_step < cloud.width * cloud.point_step or len(cloud.data) < expected:
        raise DataError(
            f"{source}: {len(cloud.data)} bytes with rows of {row_step}, expected {cloud.height} rows of at "
            f"least {cloud.width} points of {cloud.point_step} bytes"
        )
    rows = np.frombuffer(cloud.data, np.uint8)[:expected].reshape(cloud.height, row_step)
    return np.ascontiguousarray(rows[:, : cloud.width * cloud.point_step]).reshape(-1).view(kind)


def to_xyz(cloud: Cloud, source: str) -> np.ndarray:
    """Returns [P, 3] float32 (m) in the sensor's frame, without the rows of NaN that stand for missing returns."""
    points = to_structured(cloud, source)
    if not len(points):
        return np.zeros((0, 3), np.float32)
    missing = [axis for axis in "xyz" if axis not in (points.dtype.names or ())]
    if missing:
        raise DataError(f"{source}: no field {', '.join(missing)}; fields found: {', '.join(points.dtype.names or ())}")
    xyz = np.stack([points[axis] for axis in "xyz"], axis=-1).astype(np.float32)
    return xyz[np.isfinite(xyz).all(axis=-1)]


def pack(columns: Mapping[str, np.ndarray]) -> tuple[list[tuple[str, int, int]], int, np.ndarray]:
    """Columns of equal length [P] -> (fields as (name, offset, datatype), bytes a point, payload uint8)."""
    kind = np.dtype([(name, np.asarray(column).dtype.newbyteorder("<")) for name, column in columns.items()])
    points = np.empty(len(next(iter(columns.values()))), kind)
    for name, column in columns.items():
        points[name] = column
    placed: Mapping[str, Any] = kind.fields or {}
    fields = [(name, placed[name][1], NUMBERS[np.dtype(kind[name].str[1:])]) for name in columns]
    return fields, kind.itemsize, np.frombuffer(points.tobytes(), np.uint8)
