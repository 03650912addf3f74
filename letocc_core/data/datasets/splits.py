"""Official splits of the data sets, as numbers of their scenes, sequences and frames.

nuScenes publishes its split as lists of scene names. Its scenes are numbered, and every scene of the validation split
lies in one of a few ranges of numbers that no training scene lies in; v1.0-trainval holds the scenes of both splits and
no others, so that those outside of the ranges are the 700 to train on.
"""

import re

NUSCENES_VAL = (
    (3, 3), (12, 18), (35, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346), (519, 524), (552, 565),
    (625, 638), (770, 784), (794, 802), (904, 931), (962, 972), (1059, 1073),
)  # fmt: skip
NUSCENES_MINI_VAL = ((103, 103), (916, 916))  # of the ten scenes of v1.0-mini

# SemanticKITTI; Let Occ Flow, Appendix A
KITTI_ODOMETRY = {"train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"), "val": ("08",)}

# Let Occ Flow, Appendix A: (folder of the benchmark, sequences). Left out: a standing vehicle, or little that moves.
KITTI_TRACKING = {
    "train": ("training", tuple(f"{i:04d}" for i in range(21) if i not in (12, 13, 17))),
    "val": ("testing", tuple(f"{i:04d}" for i in range(15))),
}

# KITTI raw: the 697 frames of 28 drives on which Eigen et al. (NIPS 2014) measure depth, as runs (first, last, step).
EIGEN_TEST = {
    "2011_09_26_drive_0002": ((0, 63, 3), (69, 75, 3)),
    "2011_09_26_drive_0009": ((0, 176, 16), (196, 388, 16)),
    "2011_09_26_drive_0013": ((0, 10, 5), (20, 30, 10), (35, 50, 5), (60, 70, 5), (80, 140, 5)),
    "2011_09_26_drive_0020": ((0, 21, 3), (27, 33, 6), (36, 42, 6), (45, 78, 3), (84, 84, 1)),
    "2011_09_26_drive_0023": ((18, 216, 18), (252, 468, 18)),
    "2011_09_26_drive_0027": ((0, 98, 7), (112, 147, 7), (161, 182, 7)),
    "2011_09_26_drive_0029": ((0, 196, 14), (268, 296, 28), (310, 408, 14)),
    "2011_09_26_drive_0036": ((0, 704, 32), (768, 800, 32)),
    "2011_09_26_drive_0046": ((0, 120, 5),),
    "2011_09_26_drive_0048": ((0, 21, 1),),
    "2011_09_26_drive_0052": ((0, 22, 2), (26, 32, 2), (36, 52, 2)),
    "2011_09_26_drive_0056": ((11, 121, 11), (143, 286, 11)),
    "2011_09_26_drive_0059": ((0, 154, 14), (182, 238, 14), (274, 372, 14)),
    "2011_09_26_drive_0064": ((0, 110, 22), (154, 550, 22)),
    "2011_09_26_drive_0084": ((49, 153, 13), (179, 374, 13)),
    "2011_09_26_drive_0086": ((7, 520, 27), (574, 682, 27)),
    "2011_09_26_drive_0093": ((0, 256, 16), (305, 417, 16)),
    "2011_09_26_drive_0096": ((0, 456, 19),),
    "2011_09_26_drive_0101": ((80, 216, 34), (284, 930, 34)),
    "2011_09_26_drive_0106": ((15, 35, 20), (43, 219, 8)),
    "2011_09_26_drive_0117": ((0, 494, 26), (546, 650, 26)),
    "2011_09_28_drive_0002": ((0, 12, 3), (18, 24, 3), (30, 39, 3), (45, 63, 3), (72, 78, 6), (81, 90, 3)),
    "2011_09_29_drive_0071": ((0, 612, 36), (735, 807, 36), (879, 951, 36), (1054, 1054, 1)),
    "2011_09_30_drive_0016": ((0, 88, 11), (110, 275, 11)),
    "2011_09_30_drive_0018": ((0, 214, 107), (428, 2247, 107), (2419, 2740, 107)),
    "2011_09_30_drive_0027": ((0, 656, 41), (753, 958, 41), (1040, 1081, 41)),
    "2011_10_03_drive_0027": ((0, 543, 181), (734, 2001, 181), (2363, 4535, 181)),
    "2011_10_03_drive_0047": ((0, 224, 32), (288, 800, 32)),
}
# The other 33 drives of the categories city, residential and road, by date.
EIGEN_TRAIN = {
    "2011_09_26": (1, 5, 11, 14, 15, 17, 18, 19, 22, 28, 32, 35, 39, 51, 57, 60, 61, 70, 79, 87, 91, 95, 104, 113),
    "2011_09_28": (1,),
    "2011_09_29": (4, 26),
    "2011_09_30": (20, 28, 33, 34),
    "2011_10_03": (34, 42),
}


def nuscenes_split(scene: str, version: str) -> str:
    """`train`, `val` or `test`: where a scene such as `scene-0061` belongs in a version such as `v1.0-mini`."""
    number = re.fullmatch(r"scene-(\d+)", scene)
    if version.endswith("test"):
        return "test"
    held_out = NUSCENES_MINI_VAL if version.endswith("mini") else NUSCENES_VAL
    return "val" if number and any(a <= int(number[1]) <= b for a, b in held_out) else "train"


def eigen_test_frames(drive: str) -> list[int]:
    """Frames of a drive such as `2011_09_26_drive_0002` that the Eigen split measures; none of a training drive."""
    return [i for first, last, step in EIGEN_TEST.get(drive, ()) for i in range(first, last + 1, step)]


def eigen_drives(split: str) -> list[str]:
    """Drives of the Eigen split, `train` or `val`, named as in `2011_09_26_drive_0001`."""
    if split == "val":
        return list(EIGEN_TEST)
    return [f"{date}_drive_{number:04d}" for date, numbers in EIGEN_TRAIN.items() for number in numbers]
