"""Two sources in one training: as many clips of each as wanted, and each with what it teaches."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from model_cases import frames

from letocc_core.cues.votes import VotesConfig
from letocc_core.data.clips import Clips, MixedClips
from letocc_core.data.config import BagData, DataConfig, SimulatorData
from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import Clip, FlowCue, InputConfig
from letocc_core.losses.objective import StaticStageConfig
from letocc_core.model.let_occ_flow import ModelConfig
from letocc_core.training.config import StageConfig, TrainConfig


class Numbered(Clips):
    """`count` clips with stamps from `first` on, each with a flow cue."""

    def __init__(self, count: int, first: int, cameras: tuple[str, ...]):
        self.count, self.offset, self.cameras = count, first, cameras

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Clip:
        assert 0 <= index < self.count
        shown = frames()[0]
        cue = FlowCue(
            shown.stamp, shown.K, shown.T_ego_cam, shown.T_world_ego, shown.images[:, :, :2], shown.images[:, :, 0] > 0
        )
        alone = Clip(shown, (), (shown,), (cue,))._with_tensors(lambda x: x[0])
        return replace(alone, current=replace(alone.current, stamp=torch.tensor(self.offset + index)))


@pytest.mark.parametrize(("recorded", "each"), [(3, [10, 10, 10]), (4, [8, 8, 7, 7]), (50, [1] * 30 + [0] * 20)])
def test_a_share_of_the_clips_is_of_the_second_source(recorded: int, each: list[int]):
    """90 streets and a quarter beside them: 30 of 120."""
    mixed = MixedClips(Numbered(90, 0, ("front",)), Numbered(recorded, 1000, ("other",)), 0.25)
    stamps = Counter(int(mixed[i].current.stamp) for i in range(len(mixed)))
    assert len(mixed) == 120 and mixed.cameras == ("front",)
    assert [stamps[i] for i in range(90)] == [1] * 90
    assert [stamps[1000 + i] for i in range(recorded)] == each


def test_flow_is_that_of_the_first_source_alone():
    streets = Numbered(2, 0, ())
    mixed = MixedClips(streets, Numbered(1, 10, ()), 0.5)
    assert all(not mixed[i].cues for i in range(len(mixed))) and mixed.with_flow() is streets
    assert streets.with_flow() is streets and streets[0].cues


def test_a_source_without_clips_is_named():
    with pytest.raises(DataError, match=r"data\.beside"):
        MixedClips(Numbered(2, 0, ()), Numbered(0, 0, ()), 0.5)


def test_each_source_needs_votes_where_queries_learn():
    streets = DataConfig(simulator=SimulatorData(), votes=VotesConfig(), beside=DataConfig(bag=BagData(bags=())))
    stages = (StageConfig(objective=StaticStageConfig(queries=0.5)),)
    with pytest.raises(ConfigError, match=r"data\.beside\.votes"):
        TrainConfig(ModelConfig(), InputConfig(), streets, stages)
    beside = DataConfig(bag=BagData(bags=(), cue="dis"), votes=VotesConfig())
    config = TrainConfig(ModelConfig(), InputConfig(), replace(streets, beside=beside), stages)
    needed = config.needed_data()
    assert needed.beside.bag.cue == "none" and needed.beside.votes is not None
    with pytest.raises(ConfigError, match="beside_share"):
        replace(streets, beside_share=1.0)
