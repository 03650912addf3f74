"""Parts of a computation: their own seconds, operations and bytes, by hand."""

import time
from types import SimpleNamespace

import pytest
import torch
from model_cases import model_config

from letocc_core.bench import compare
from letocc_core.bench.inference import measure
from letocc_core.bench.machine import Peak
from letocc_core.bench.parts import REST, Parts, Row, Work, rows_of
from letocc_core.bench.run import Request, table
from letocc_core.compiled import threads
from letocc_core.errors import ConfigError
from letocc_core.frame import InputConfig
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.sight import Sight


class Ticks:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_part_has_the_time_that_no_inner_part_has():
    clock = Ticks()

    def inner():
        clock.now += 2

    def outer():
        clock.now += 1
        thing.inner()
        clock.now += 4

    thing = SimpleNamespace(inner=inner, outer=outer)
    parts = Parts(clock)
    with parts.around([("inside", thing, "inner"), ("outside", thing, "outer")]):
        clock.now += 100  # before it begins
        with parts.whole():
            thing.outer()
            clock.now += 8
    assert parts.seconds == {"inside": 2, "outside": 5, REST: 8}
    assert thing.inner is inner and thing.outer is outer


def test_what_a_class_has_is_a_class_s_again():
    layer = torch.nn.Linear(2, 2)
    with Parts().around([("layer", layer, "forward")]):
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("recorded", [True, False])
def test_work_of_a_product(recorded: bool):
    """2 x 3 times 3 x 4: 24 multiply-adds; 6 + 12 numbers read, 8 written. A view moves nothing."""
    parts = Parts()
    with torch.inference_mode(not recorded):
        a, b = torch.rand(2, 3), torch.rand(4, 3)
        with Work(parts), parts.part("product"):
            torch.nn.functional.linear(a, b)
    assert parts.flops == {"product": 48} and parts.bytes == {"product": 4 * (6 + 12 + 8)}


def test_rows_are_medians_and_the_table_names_what_bounds_a_part():
    counted = Parts()
    counted.flops["product"], counted.bytes["product"] = 4e9, 1e6
    counted.bytes["copy"] = 2e9
    runs = [{"product": s, "copy": 1.0, REST: 0.5} for s in (1.0, 9.0, 2.0)]
    rows = rows_of(runs, counted)
    assert rows == [Row("product", 2.0, 4e9, 1e6), Row("copy", 1.0, 0.0, 2e9), Row(REST, 0.5)]
    text = table(rows, Peak(flops=4e9, bytes=4e9))  # the product could take 1 s, the copy half a second
    assert "| product | 2000.0 | 57.1% | 4.00 | 1.0 | 50% |" in text
    assert "| copy | 1000.0 | 28.6% | 0.00 | 2000.0 | 50% |" in text
    assert "| in no part | 500.0 | 14.3% |" in text


def test_plain_passes_end():
    assert threads.serves(torch.zeros(1))
    with threads.plain_passes():
        assert not threads.serves(torch.zeros(1))
    assert threads.serves(torch.zeros(1))


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="'rockets', expected some of: eager"):
        Request(compare=("rockets",))
    with pytest.raises(ConfigError, match="'fuel', expected some of: inference"):
        Request(subjects=("fuel",))


def test_the_least_of_the_turns_counts_and_what_takes_long_has_one():
    taken = {"ours": [2.0, 1.0, 3.0], "quick": [7.0, 8.0, 6.0], "slow": [9.0]}
    turns = {name: iter(seconds).__next__ for name, seconds in taken.items()}
    assert compare.alternate(turns, 3) == {"ours": 1.0, "quick": 6.0, "slow": 9.0}


def test_formulations_of_attention_agree():
    """`attention` itself compares each with transformers' and refuses what differs."""
    ways = compare.attention(7, 2, 12, 3, 4, Parts())
    assert list(ways) == ["compiled loops", "grid_sample, queries last", "gather", "transformers"]
    assert all(turn() > 0 for turn in ways.values())


def test_what_lies_beyond_a_map_counts_nothing_when_gathered():
    """One pixel of 3 in a map of 1 x 1: half a pixel off its centre half of it is read, two pixels off nothing."""
    locations = torch.tensor([[0.5, 0.5], [1.0, 0.5], [2.5, 0.5], [0.5, -1.5]]).view(1, 4, 1, 1, 1, 2)
    read = compare.gathered(torch.full((1, 1, 1, 1), 3.0), [(1, 1)], locations, torch.ones(1, 4, 1, 1, 1))
    assert read.flatten().tolist() == [3.0, 1.5, 0.0, 0.0]


def test_every_part_of_a_set_has_its_time():
    """With all that a set may need: plane sweep, motion branch, and rays that end."""
    model = LetOccFlow(model_config(sweep={}, motion_branch={}, surface_threshold=0.05, occupancy_threshold=0.99))
    parts = Parts(time.process_time)
    pipeline = OccFlowPipeline(model, InputConfig(image_size=(32, 56)))
    rows = {row.name: row for row in measure(pipeline, cameras=2, steps=2, parts=parts)}
    assert all(rows[name].seconds > 0 for name in ("where rays end", "what is seen and hidden", "answer as arrays"))
    assert isinstance(pipeline._sight, Sight) and "ends" not in vars(pipeline._sight)  # all is as it was
