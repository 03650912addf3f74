"""`OccFlowGrid` for nodes that use it: messages to arrays and back, and the questions that robots ask.

    from letocc_ros import grid

    def on_message(message):                                  # letocc_ros/OccFlowGrid
        answer = grid.from_message(message)
        answer.probability                                    # float32 [X, Y, Z], in [0, 1]
        answer.occupied, answer.observed                      # bool [X, Y, Z]
        answer.seen, answer.hidden                            # bool: by the cameras; behind a surface (believed only)
        answer.velocity                                       # float32 [X, Y, Z, 2], m/s; 0 where not occupied
        answer.grid.centres_of(np.argwhere(answer.occupied))  # [n, 3] m, in the header's frame
        points = grid.occupied_points(answer, lowest=0.3)     # .centres, .velocity, .probability, .speed, .distance
        states = grid.states_of(answer, [[5.0, 0.0, 0.5]])    # .known, .occupied, .free, .probability, .velocity
        seconds = grid.time_to_collision(answer, path, times, radius=1.0)
        grid.occupied_points(answer.believed())               # hidden matter counts only if asked for, like this

Everything is in the header's frame (base_link: x forward, y left, z up) at the header's stamp.
"""

import numpy as np
from jaxtyping import Float

from letocc_core.stream.consumers.query import (
    OccupiedPoints,
    PointStates,
    occupied_points,
    states_of,
    time_to_collision,
)
from letocc_core.stream.types import OccFlow
from letocc_ros.conversions import from_grid_message as from_message
from letocc_ros.conversions import to_grid_message as to_message

__all__ = [
    "OccFlow",
    "OccupiedPoints",
    "PointStates",
    "centres",
    "from_message",
    "occupied_points",
    "states_of",
    "time_to_collision",
    "to_message",
]


def centres(answer: OccFlow) -> Float[np.ndarray, "X Y Z 3"]:
    """Centres (m, the header's frame) of all voxels."""
    return answer.grid.centres_of(np.stack(np.indices(answer.grid.shape), axis=-1))
