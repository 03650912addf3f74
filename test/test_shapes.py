"""The shapes in the annotations are checked while the tests run (`conftest.py`)."""

import jaxtyping
import pytest
import torch

from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.losses.hessian import hessian


def test_a_right_shape_passes():
    assert hessian(torch.zeros(2, 1, 4, 4, 4), 0.4) == 0


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 2, 4, 4, 4)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(jaxtyping.TypeCheckError, match="sdf"):
        hessian(torch.zeros(shape), 0.4)


def test_an_axis_has_one_size_in_a_whole_call():
    grid = GridSpec((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), 0.5)
    with pytest.raises(jaxtyping.TypeCheckError):
        sample_volume(torch.zeros(2, 1, 4, 4, 4), grid, torch.ones(3, 5, 3))  # batches of 2 and 3
