"""What stands and moves in varied streets: the classes of `assets`, with windows, wheels, lamps, crowns and rails."""

import numpy as np

from letocc_core.data.simulator.assets import Asset, Part
from letocc_core.data.simulator.solids import Solid, box, gable, joined, loft, lump, ring, wheels

# Paints of vehicles and their shares
_METALS = np.array([(0.9, 0.9, 0.9), (0.7, 0.71, 0.72), (0.42, 0.43, 0.45), (0.13, 0.13, 0.14), (0.16, 0.24, 0.42)])
_METALS = np.concatenate([_METALS, [(0.55, 0.1, 0.1), (0.32, 0.28, 0.22), (0.2, 0.36, 0.26), (0.75, 0.6, 0.2)]])
_METAL_SHARES = np.array([0.22, 0.19, 0.18, 0.18, 0.08, 0.06, 0.04, 0.03, 0.02])
_SKINS = ((0.85, 0.68, 0.58), (0.66, 0.47, 0.36), (0.42, 0.29, 0.22))


def metal(rng: np.random.Generator) -> tuple[float, float, float]:
    """Colour of a vehicle."""
    colour = _METALS[rng.choice(len(_METALS), p=_METAL_SHARES)] * rng.uniform(0.85, 1.1) + rng.normal(0, 0.015, 3)
    return tuple(np.clip(colour, 0.04, 0.95))


def car(rng: np.random.Generator) -> Asset:
    """A hatchback, saloon, estate or off-roader."""
    kind = rng.choice(["hatchback", "saloon", "estate", "off-roader"], p=[0.3, 0.3, 0.15, 0.25])
    length = rng.uniform(*{"hatchback": (3.6, 4.3), "saloon": (4.4, 5.0)}.get(kind, (4.3, 4.9)))
    tall = kind == "off-roader"
    width, height = rng.uniform(1.7, 1.9), rng.uniform(1.62, 1.8) if tall else rng.uniform(1.4, 1.52)
    half, side, clear = length / 2, width / 2, 0.26 if tall else 0.18
    belt, lamp, radius = height * 0.63, height * 0.45, rng.uniform(0.33, 0.38) if tall else rng.uniform(0.29, 0.34)
    bonnet = rng.uniform(0.21, 0.27) * length
    boot = {"saloon": 0.17 * length, "hatchback": 0.06}.get(kind, 0.05)
    axles = (half - 0.19 * length, -half + 0.19 * length)
    shell = (half, side, *axles, radius, lamp)
    body = loft(
        [
            ring(-half + 0.15, half - 0.15, side - 0.08, clear),
            ring(-half, half, side - 0.01, 0.26 * height),
            ring(-half + 0.02, half - 0.02, side, 0.42 * height),
            ring(-half + 0.05, half - 0.14, side, 0.5 * height),
            ring(-half + 0.05 + 0.5 * boot, half - 0.45 * bonnet, side - 0.03, belt - 0.06),
            ring(-half + boot, half - bonnet, side - 0.05, belt),
        ],
        "body",
        None,
        shell,
    )
    rake = 0.55 * (height - belt) + 0.28
    back = {"saloon": 0.5, "hatchback": 0.3}.get(kind, 0.22)
    roof = (-half + boot + back, half - bonnet - rake)
    pillars = (roof[0] + 0.52 * (roof[1] - roof[0]), roof[0] + 0.1)
    cabin = loft(
        [
            ring(-half + boot, half - bonnet, side - 0.06, belt - 0.02),
            ring(*roof, 0.78 * side, height - 0.05, 0.25),
            ring(roof[0] + 0.15, roof[1] - 0.2, 0.66 * side, height, 0.25),
        ],
        "glass",
        None,
        (height - 0.03, belt, *pillars),
    )
    return Asset("car", (body, cabin, _wheels(axles, side, radius)), metal(rng))


def van(rng: np.random.Generator) -> Asset:
    """A delivery van."""
    length, width, height = rng.uniform(4.8, 6.2), rng.uniform(1.9, 2.1), rng.uniform(1.95, 2.7)
    half, side, radius = length / 2, width / 2, rng.uniform(0.32, 0.37)
    axles = (half - 0.9, -half + 1.0)
    shell = (half, side, *axles, radius, 0.85)
    body = loft(
        [
            ring(-half + 0.1, half - 0.12, side - 0.06, 0.25),
            ring(-half, half, side, 0.5),
            ring(-half, half - 0.08, side, 0.95),
            ring(-half, half - 0.55, side, 1.2),
            ring(-half + 0.03, half - 1.25, side - 0.06, height - 0.12),
            ring(-half + 0.15, half - 1.4, side - 0.2, height),
        ],
        "body",
        None,
        shell,
    )
    top = min(height - 0.2, 1.85)
    share = (top - 1.2) / (height - 1.32)
    pane = loft(
        [
            ring(half - 1.8, half - 0.53, side + 0.01, 1.2, 0.1),
            ring(half - 1.8, half - 0.53 - 0.7 * share, side + 0.01 - 0.06 * share, top, 0.1),
        ],
        "glass",
        None,
        (top + 0.2, 1.2, half - 1.75, half - 1.1),
    )
    return Asset("car", (body, pane, _wheels(axles, side, radius)), metal(rng))


def lorry(rng: np.random.Generator) -> Asset:
    """A lorry with a box, or a bus."""
    return _bus(rng) if rng.random() < 0.35 else _box_lorry(rng)


def _box_lorry(rng: np.random.Generator) -> Asset:
    length, width, height = rng.uniform(6.0, 9.5), rng.uniform(2.2, 2.5), rng.uniform(2.9, 3.7)
    half, side, radius = length / 2, width / 2, 0.48
    axles = (half - 1.2, -half + 1.6)
    cab = loft(
        [
            ring(half - 2.1, half, side - 0.04, 0.45),
            ring(half - 2.1, half, side - 0.02, 1.5),
            ring(half - 2.1, half - 0.25, side - 0.08, 2.5),
            ring(half - 2.05, half - 0.45, side - 0.2, 2.7),
        ],
        "body",
        None,
        (half, side, *axles, radius, 0.8),
    )
    pane = loft(
        [ring(half - 1.5, half + 0.01, side - 0.01, 1.55, 0.1), ring(half - 1.5, half - 0.2, side - 0.06, 2.3, 0.1)],
        "glass",
        None,
        (2.6, 1.5, half - 1.5, half - 0.6),
    )
    band = tuple(rng.uniform(0.05, 0.9, 3))
    style = (rng.uniform(0.3, 1.2), rng.choice([0.0, 0.3, 0.6]), rng.uniform(1.6, 2.6), *band)
    cargo = box(
        (-half, -side, 0.95),
        (half - 2.25, side, height),
        "cargo",
        tuple(rng.uniform(0.3, 0.95) + rng.uniform(-0.1, 0.1, 3)),
        style,
    )
    chassis = Part("box", (-0.3, 0, 0.75), (length - 1.0, width * 0.7, 0.35), "plain", (0.1, 0.1, 0.1))
    return Asset("lorry", (cab, pane, cargo, chassis, _wheels(axles, side, radius)), metal(rng))


def _bus(rng: np.random.Generator) -> Asset:
    length, width, height = rng.uniform(9, 11.5), 2.5, rng.uniform(2.9, 3.2)
    half, side, radius = length / 2, width / 2, 0.48
    axles = (half - 2.5, -half + 2.8)
    outline = [(0.1, 0.05, 0.35), (0.0, 0.0, 0.6), (0.02, 0.0, 2.6), (0.15, 0.06, height - 0.1), (0.4, 0.25, height)]
    body = loft(
        [ring(-half + a, half - a, side - b, z, 0.25) for a, b, z in outline],
        "body",
        None,
        (half, side, *axles, radius, 0.75),
    )
    pane = loft(
        [ring(-half + 0.4, half + 0.01, side + 0.01, 1.15, 0.25), ring(-half + 0.4, half, side + 0.01, 2.4, 0.25)],
        "glass",
        None,
        (3.5, 1.1, 0.3 * half, -0.3 * half),
    )
    return Asset("lorry", (body, pane, _wheels(axles, side, radius)), metal(rng))


def _wheels(axles: tuple[float, float], side: float, radius: float) -> Solid:
    centres = [(x, s * (side - 0.11), radius) for x in axles for s in (-1, 1)]
    return wheels(centres, radius, 0.24, (*axles, radius))


def pedestrian(rng: np.random.Generator) -> Asset:
    """Legs, coat, arms and head."""
    h = rng.uniform(1.5, 1.9)
    skin, coat, trousers = _SKINS[rng.integers(3)], _cloth(rng), _cloth(rng, 0.5)
    stride = rng.uniform(0.05, 0.16)
    legs = [
        Part("cylinder", (s * stride, s * 0.09, 0.24 * h), (0.15, 0.15, 0.48 * h), "plain", trousers) for s in (-1, 1)
    ]
    torso = Part("ellipsoid", (0, 0, 0.65 * h), (0.27, 0.44, 0.44 * h), "plain", coat)
    arms = [Part("cylinder", (-s * stride, s * 0.24, 0.62 * h), (0.1, 0.1, 0.36 * h), "plain", coat) for s in (-1, 1)]
    head = Part("ellipsoid", (0.02, 0, 0.94 * h), (0.21, 0.18, 0.25), "plain", skin)
    return Asset("pedestrian", (*legs, torso, *arms, head), coat)


def cyclist(rng: np.random.Generator) -> Asset:
    """Two wheels, a frame and a rider."""
    coat, trousers = _cloth(rng), _cloth(rng, 0.5)
    tyres = wheels([(x, 0, 0.34) for x in (-0.52, 0.52)], 0.34, 0.05, (0.52, -0.52, 0.34))
    frame = Part("box", (0, 0, 0.62), (0.9, 0.05, 0.42), "plain", tuple(rng.uniform(0.05, 0.8, 3)))
    bars = Part("box", (0.45, 0, 1.02), (0.08, 0.55, 0.06), "plain", (0.1, 0.1, 0.1))
    legs = [Part("cylinder", (0.05 + s * 0.1, s * 0.11, 0.62), (0.16, 0.16, 0.75), "plain", trousers) for s in (-1, 1)]
    torso = Part("ellipsoid", (0.02, 0, 1.25), (0.5, 0.42, 0.66), "plain", coat)
    head = Part("ellipsoid", (0.2, 0, 1.66), (0.24, 0.2, 0.27), "plain", _SKINS[rng.integers(3)])
    return Asset("cyclist", (tyres, frame, bars, *legs, torso, head), coat)


def _cloth(rng: np.random.Generator, dark: float = 1.0) -> tuple[float, float, float]:
    grey = rng.uniform(0.08, 0.8) * dark
    return tuple(np.clip(grey + rng.normal(0, 0.12, 3), 0.04, 0.9))


def house(rng: np.random.Generator, kind: str, colour: np.ndarray) -> Asset:
    """A building; `kind` is "town", "villa" or "hall"."""
    length = rng.uniform(*{"town": (8, 22), "villa": (8, 14), "hall": (18, 45)}[kind])
    depth = rng.uniform(*{"town": (9, 14), "villa": (7, 11), "hall": (14, 25)}[kind])
    floor = rng.uniform(4.2, 5.5) if kind == "hall" else rng.uniform(2.7, 3.4)
    floors = {"town": rng.integers(2, 7), "villa": rng.integers(1, 3), "hall": rng.integers(1, 3)}[kind]
    height = floor * floors + rng.uniform(0.3, 1.2)
    pitch = rng.uniform(4, 7) if kind == "hall" else rng.uniform(1.6, 3.2)
    bands = rng.random() < 0.2 and kind == "town"
    style = (
        floor,
        pitch,
        pitch * (0.9 if bands else rng.uniform(0.35, 0.65)),
        rng.uniform(0.8, 1.4) if kind == "hall" else floor * rng.uniform(0.4, 0.6),
        floor * rng.uniform(0.26, 0.34),
        2.0 if kind == "hall" else float(bands),
        float(rng.random() < (0.8 if colour[0] > 1.4 * colour[2] and colour[1] < 0.5 else 0.08)),
        float(kind == "town" and rng.random() < 0.45),
    )
    base = 1.5  # m below the ground, for slopes
    parts: list[Part | Solid] = [
        Part("box", (0, 0, (height - base) / 2), (length, depth, height + base), "facade", None, style)
    ]
    if kind == "villa" or (kind == "town" and rng.random() < 0.3):
        tiles = (rng.uniform(0.35, 0.6), rng.uniform(0.24, 0.36), rng.uniform(0.2, 0.34))
        parts.append(gable(length, depth, height - 0.05, rng.uniform(1.5, 3.5), tiles, rng.choice([0.3, 2.5])))
    elif rng.random() < 0.5:
        parts.append(Part("box", (0, 0, height + 0.15), (length + 0.3, depth + 0.3, 0.3), "plain"))
    if rng.random() < 0.4:  # a bay or a porch breaks the front
        bay, top = rng.uniform(1.5, length / 2), floor * int(rng.integers(1, floors + 1))
        x, out = rng.uniform(-length / 4, length / 4), rng.uniform(0.8, 2)
        parts.append(Part("box", (x, 0, (top - base) / 2), (bay, depth + out, top + base), "facade", None, style))
    return Asset(
        "building", tuple(parts), tuple(np.clip(colour * rng.uniform(0.85, 1.1) + rng.normal(0, 0.012, 3), 0.1, 0.95))
    )


def tree(rng: np.random.Generator) -> Asset:
    """A trunk and a crown of several lumps of leaves, or a conifer."""
    hue = np.array([rng.uniform(0.28, 0.48), rng.uniform(0.4, 0.54), rng.uniform(0.14, 0.27)]) * rng.uniform(0.75, 1.1)
    bark = tuple(np.array([0.36, 0.3, 0.25]) * rng.uniform(0.6, 1.1))
    if rng.random() < 0.15:
        height, radius = rng.uniform(5, 11), rng.uniform(1.0, 1.9)
        tiers = np.linspace(0.7, height, 7)
        rings = []
        for k, z in enumerate(tiers):
            r = max(radius * (1 - k / 6.2), 0.08) * (1 + 0.25 * rng.uniform(-1, 1, 12))
            angle = np.arange(12) * (np.pi / 6)
            rings.append(np.stack([r * np.cos(angle), r * np.sin(angle), np.full(12, z)], 1))
        return Asset("vegetation", (_trunk(0.8, 0.3, bark), loft(rings, "leaves", tuple(0.8 * hue))), tuple(hue))
    trunk, crown, wide = rng.uniform(1.7, 3.4), rng.uniform(2.2, 5.5), rng.uniform(2.2, 5.5)
    lumps = []
    for _ in range(rng.integers(5, 9)):
        at = rng.normal(0, 1, 3)
        at *= rng.uniform(0.25, 0.6) / np.linalg.norm(at)
        size = np.array([wide, wide, crown]) * rng.uniform(0.4, 0.65)
        centre = at * (wide, wide, crown) * 0.8 + (0, 0, trunk + 0.45 * crown)
        centre[2] = max(centre[2], trunk + 0.35 * size[2])
        lumps.append(lump(rng, centre, size, "leaves", tuple(np.clip(hue * rng.uniform(0.85, 1.15), 0.03, 0.8))))
    middle = lump(rng, (0, 0, trunk + 0.45 * crown), np.array([wide, wide, crown]) * 0.6, "leaves", tuple(0.8 * hue))
    return Asset("vegetation", (_trunk(trunk + 0.3 * crown, rng.uniform(0.2, 0.45), bark), middle, *lumps), tuple(hue))


def _trunk(height: float, diameter: float, colour: tuple[float, float, float]) -> Part:
    return Part("cylinder", (0, 0, (height - 0.5) / 2), (diameter, diameter, height + 0.5), "bark", colour)


def bush(rng: np.random.Generator) -> Asset:
    """A few low lumps of leaves."""
    hue = (rng.uniform(0.28, 0.45), rng.uniform(0.38, 0.52), rng.uniform(0.14, 0.27))
    lumps = []
    for _ in range(rng.integers(1, 4)):
        size = rng.uniform(0.7, 1.8, 3)
        lumps.append(lump(rng, (*rng.uniform(-0.6, 0.6, 2), 0.35 * size[2]), size, "leaves", hue))
    return Asset("vegetation", tuple(lumps), hue)


def hedge(rng: np.random.Generator) -> Asset:
    """A cut hedge along the street."""
    length, height, wide = rng.uniform(3, 9), rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.0)
    part = Part("box", (0, 0, (height - 0.4) / 2), (length, wide, height + 0.4), "leaves")
    return Asset("vegetation", (part,), (rng.uniform(0.24, 0.4), rng.uniform(0.38, 0.5), rng.uniform(0.14, 0.24)))


def wall(rng: np.random.Generator) -> Asset:
    """A garden wall of bricks or blocks."""
    length, height = rng.uniform(5, 14), rng.uniform(0.8, 2.4)
    style = (0.08, 0.24) if rng.random() < 0.6 else (0.4, 0.8)
    colour = ((0.55, 0.36, 0.28), (0.62, 0.6, 0.56))[style[0] > 0.1]
    part = Part("box", (0, 0, (height - 0.8) / 2), (length, 0.25, height + 0.8), "wall", None, style)
    return Asset("building", (part,), tuple(np.array(colour) * rng.uniform(0.75, 1.15)))


def fence(rng: np.random.Generator) -> Asset:
    """Planks, or rails that one sees through."""
    length, height = rng.uniform(4, 9), rng.uniform(1.0, 2.0)
    if rng.random() < 0.5:
        panel = Part(
            "box", (0, 0, (height - 0.4) / 2), (length, 0.06, height + 0.4), "planks", None, (rng.uniform(0.1, 0.2),)
        )
        return Asset("building", (panel,), tuple(np.array([0.5, 0.42, 0.33]) * rng.uniform(0.6, 1.3)))
    pitch = rng.uniform(0.14, 0.3)
    bars = [box((x - 0.02, -0.02, -0.4), (x + 0.02, 0.02, height)) for x in np.arange(-length / 2, length / 2, pitch)]
    rails = [box((-length / 2, -0.025, z), (length / 2, 0.025, z + 0.05)) for z in (0.15, height - 0.2)]
    return Asset("building", (joined([*bars, *rails]),), (rng.uniform(0.08, 0.3),) * 3)


def lamp(rng: np.random.Generator) -> Asset:
    """A street lamp whose arm reaches to the right."""
    height, reach = rng.uniform(4, 9), rng.uniform(0.6, 2.0)
    post = Part("cylinder", (0, 0, (height - 0.5) / 2), (0.16, 0.16, height + 0.5))
    arm = Part("box", (0, -reach / 2, height), (0.1, reach, 0.1))
    head = Part("box", (0, -reach, height - 0.06), (0.2, 0.6, 0.12), "lamp", (0.85, 0.85, 0.8))
    return Asset("pole", (post, arm, head), (rng.uniform(0.25, 0.6),) * 3)


def mast(rng: np.random.Generator) -> Asset:
    """A wooden mast with cross-arms."""
    height = rng.uniform(7, 10)
    post = Part("cylinder", (0, 0, (height - 0.5) / 2), (0.3, 0.3, height + 0.5), "bark")
    arms = [Part("box", (0, 0, height - z), (0.12, 2.2, 0.12)) for z in (0.5, 1.4)]
    return Asset("pole", (post, *arms), tuple(np.array([0.4, 0.33, 0.27]) * rng.uniform(0.7, 1.1)))


def signals(rng: np.random.Generator) -> Asset:
    """Traffic lights on a post."""
    head = Part("box", (0, 0, 2.9), (0.22, 0.3, 0.85), "plain", (0.1, 0.1, 0.1))
    lamps = Part("ellipsoid", (-0.12, 0, 2.9 + rng.choice([-0.27, 0.27])), (0.1, 0.2, 0.2), "lamp", (0.3, 0.8, 0.4))
    post = Part("cylinder", (0, 0, 1.2), (0.12, 0.12, 3.4))
    return Asset("pole", (post, head, lamps), (rng.uniform(0.2, 0.5),) * 3)


def sign(rng: np.random.Generator) -> Asset:
    """A round sign on a post."""
    height, radius = rng.uniform(2.1, 2.7), rng.uniform(0.28, 0.4)
    angle = np.arange(12) * (np.pi / 6)
    disc = np.stack([np.zeros(12), np.cos(angle) * radius, np.sin(angle) * radius + height], 1)
    plate = loft([disc - np.array((0.03, 0, 0)), disc + np.array((0.03, 0, 0))], "sign", None, (height, 0.75 * radius))
    colours = ((0.75, 0.1, 0.1), (0.1, 0.25, 0.6), (0.85, 0.7, 0.15), (0.1, 0.45, 0.3))
    post = Part("cylinder", (0, 0, height / 2 - 0.3), (0.09, 0.09, height + 0.6), "plain", (0.5, 0.5, 0.5))
    return Asset("sign", (post, plate), colours[rng.integers(4)])


def clutter(rng: np.random.Generator) -> Asset:
    """A bollard, a bin or a cabinet."""
    kind = rng.integers(3)
    colour = tuple(rng.uniform(0.15, 0.5) + rng.uniform(-0.06, 0.06, 3))
    if kind == 0:
        height = rng.uniform(0.7, 1.1)
        return Asset("pole", (Part("cylinder", (0, 0, (height - 0.3) / 2), (0.2, 0.2, height + 0.3)),), colour)
    if kind == 1:
        height = rng.uniform(0.9, 1.2)
        return Asset("pole", (Part("cylinder", (0, 0, (height - 0.3) / 2), (0.55, 0.55, height + 0.3)),), colour)
    size = (rng.uniform(0.6, 1.4), rng.uniform(0.35, 0.6), rng.uniform(0.9, 1.5))
    return Asset("building", (Part("box", (0, 0, (size[2] - 0.3) / 2), (*size[:2], size[2] + 0.3)),), colour)
