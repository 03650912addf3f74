"""Proposes masks of the vehicle's own body: what stays where it is in the picture, and not where the road would be.

Between two pictures a vehicle's length apart, each pixel below the horizon is compared with the same pixel before, and with
the pixel in which the road there was seen before. The body is where the former is the more alike, over the whole drive.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from letocc_core.data.bags.recording import Recording
from letocc_core.errors import DataError, show
from letocc_core.geometry import body_masks, lens
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.camera import scale_intrinsics

STEP = 0.5  # m driven between two pictures that are compared
LEAST = 8  # comparisons of a camera, with fewer of which nothing can be told
WIDTH = 320  # px to which pictures are shrunk
REACH = 30.0  # m along a ray, to which the road is looked for
NOISE = 1.0  # grey levels of difference that mean nothing
RATIO = 0.5  # of the road's difference: less is the body
SPREAD = 2.0  # px over which differences are averaged
BOTTOM = 0.9  # of the picture's height: what reaches so far down reaches its end
LEAST_SHARE = 0.002  # of the picture, that a mask covers at least


@dataclass
class _Evidence:
    """Of one camera: sums of the differences from the same pixel and from the road, [h, w], and how many there are."""

    size: tuple[int, int]  # of the raw image
    first: np.ndarray
    same: np.ndarray
    road: np.ndarray
    shown: np.ndarray  # how often the road of a pixel was seen before
    count: int = 0


def propose(recording: Recording) -> dict[str, np.ndarray]:
    """bool [h, w] by camera, of the raw images: True where the body seems to be. All False where nothing seems so.

    It is a proposal, for a person to look at and to edit.

    Raises `DataError` if the vehicle drives too little to tell.
    """
    return {name: _mask(evidence) for name, evidence in _gather(recording).items()}


def write_masks(recording: Recording, out: Path) -> list[Path]:
    """Propose masks and write them into `out`, a PNG a camera, and pictures with them in red into `out/look`."""
    gathered = _gather(recording)
    masks = {name: _mask(evidence) for name, evidence in gathered.items()}
    paths = body_masks.save(out, masks)
    look = Path(out) / "look"
    look.mkdir(exist_ok=True)
    for name, evidence in gathered.items():
        red = np.where(masks[name][..., None], evidence.first // 2 + np.array([127, 0, 0]), evidence.first)
        file = cv2.imencode(".png", cv2.cvtColor(red.astype(np.uint8), cv2.COLOR_RGB2BGR))[1]
        (look / body_masks.file_name(name)).write_bytes(file.tobytes())
    return paths


def _gather(recording: Recording) -> dict[str, _Evidence]:
    found: dict[str, _Evidence] = {}
    before: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # by camera: picture and T_world_cam
    for item in _apart(recording):
        frames = item.frame_set
        for i, name in enumerate(recording.cameras):
            image, calibration = frames.images[i], frames.calibrations[i]
            if image is None:
                continue
            grey = _small(image)
            if name not in found:
                zeros = np.zeros(grey.shape)
                found[name] = _Evidence(image.shape[:2], image, zeros, zeros.copy(), zeros.copy())
            T_world_cam = frames.T_world_ego @ frames.T_ego_cam[i]
            if name in before:
                _compare(found[name], grey, calibration, frames.T_ego_cam[i], T_world_cam, *before[name])
            before[name] = grey, T_world_cam
    few = {name: e.count for name, e in found.items() if 0 < e.count < LEAST}
    if few or not any(e.count for e in found.values()):
        raise DataError(
            f"{show(recording.path)}: fewer than {LEAST} pairs of images {STEP:g} m apart, too few to tell the body from "
            "the road; record a longer drive"
        )
    return found


def _apart(recording: Recording) -> Iterator:
    """Sets that are `STEP` apart on the way."""
    last = None
    for item in recording:
        position = item.frame_set.T_world_ego[:3, 3]
        if last is None or np.linalg.norm(position - last) >= STEP:
            last = position
            yield item


def _small(image: np.ndarray) -> np.ndarray:
    """float32 [h, w] in grey, without its coarse shades, which change with the light."""
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    grey = cv2.cvtColor(cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    fine = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
    return fine - cv2.GaussianBlur(fine, (0, 0), 8.0)


def _compare(
    evidence: _Evidence,
    grey: np.ndarray,
    calibration: Calibration,
    T_ego_cam: np.ndarray,
    T_world_cam: np.ndarray,
    before: np.ndarray,
    T_world_before: np.ndarray,
) -> None:
    """Add the differences of a picture from the one before, where that shows the road of this one."""
    h, w = grey.shape
    K = scale_intrinsics(calibration.K, w / calibration.width, h / calibration.height)
    small = replace(calibration, K=K, width=w, height=h)
    rays = lens.directions(small)
    down = -(rays @ T_ego_cam[2, :3])  # how fast they sink towards the road
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(down > 1e-6, T_ego_cam[2, 3] / down, np.inf)
    points = rays * np.where(distance < REACH, distance, np.nan)[..., None]
    T = np.linalg.inv(T_world_before) @ T_world_cam
    pixels = lens.project(points @ T[:3, :3].T + T[:3, 3], small)
    shown = np.nan_to_num(pixels, nan=-9.0).astype(np.float32)
    road = cv2.remap(before, shown[..., 0], shown[..., 1], cv2.INTER_LINEAR, borderValue=float("nan"))
    there = np.isfinite(road) & (shown[..., 0] > -1)
    evidence.road += np.where(there, np.abs(grey - road), 0)
    evidence.same += np.where(there, np.abs(grey - before), 0)
    evidence.shown += there
    evidence.count += 1


def _mask(evidence: _Evidence) -> np.ndarray:
    """bool [h, w] at the raw image's size."""
    if not evidence.count:
        return np.zeros(evidence.size, bool)
    known = evidence.shown >= LEAST / 2
    weight = cv2.GaussianBlur(known.astype(np.float64), (0, 0), SPREAD) + 1e-9
    same, road = (
        cv2.GaussianBlur(np.where(known, x / np.maximum(evidence.shown, 1), 0), (0, 0), SPREAD) / weight
        for x in (evidence.same, evidence.road)
    )
    found = (known & (road > NOISE) & (same < RATIO * road)).astype(np.uint8)
    body = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    body = cv2.morphologyEx(body, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(body)
    kept = np.zeros(body.shape, bool)
    for part in (labels == i for i in range(1, count)):
        if part.mean() >= LEAST_SHARE and np.flatnonzero(part.any(1))[-1] >= BOTTOM * len(part):
            kept |= np.maximum.accumulate(
                part, axis=0
            )  # what is below it is the body as well, where no road was seen before
    kept = _to_the_sides(kept)
    full = cv2.resize(kept.astype(np.uint8) * 255, evidence.size[::-1], interpolation=cv2.INTER_LINEAR) > 127
    reach = max(1, evidence.size[1] // 150)
    return cv2.dilate(full.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0


def _to_the_sides(mask: np.ndarray) -> np.ndarray:
    """A body that reaches nearly to a side reaches it: there, the road is too near to have been seen before."""
    columns = np.flatnonzero(mask.any(0))
    margin = round((1 - BOTTOM) * mask.shape[1])
    out = mask.copy()
    if len(columns) and columns[0] <= margin:
        out[:, : columns[0]] |= mask[:, columns[0]][:, None]
    if len(columns) and columns[-1] >= mask.shape[1] - 1 - margin:
        out[:, columns[-1] :] |= mask[:, columns[-1]][:, None]
    return out
