"""The shapes in the annotations are checked while the tests run (`conftest.py`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from shape_checks import checked, checked_modules

from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.losses.hessian import hessian

if TYPE_CHECKING:
    from pathlib import PurePath

REPOSITORY = Path(__file__).resolve().parents[1]


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


def test_modules_with_compiled_functions_are_left_out_and_all_others_of_a_package_are_in():
    names = checked_modules(REPOSITORY)
    assert "letocc_core.metrics" in names and "letocc_core.geometry.grid" in names
    assert not {"letocc_core.geometry", "letocc_core.geometry.ray_casting", "letocc_core.compiled"} & set(names)


def test_types_that_only_type_checkers_import_are_passed_over():
    hints = {k: v for k, v in checked(_with_a_type_for_checkers).__annotations__.items() if k != "return"}
    assert hints == {"number": int, "path": Any}
    with pytest.raises(BeartypeCallHintParamViolation):
        checked(_with_a_type_for_checkers)("one", "anywhere")


def _with_a_type_for_checkers(number: int, path: "PurePath") -> None:
    """`PurePath` is known to type checkers alone."""
