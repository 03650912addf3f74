"""docs/nav2.md: every key is one that Nav2's and STVL's sources declare, every topic and height is the node's."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

from nav_msgs.msg import OccupancyGrid

from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.assembler import AssemblerConfig
from letocc_core.stream.consumers.costmap import free_ends
from letocc_core.stream.types import OccFlow
from letocc_ros.conversions import to_costmap
from letocc_ros.parameters import NodeParameters, defaults

GRID = GridSpec()  # of the street checkpoint
FREE = np.zeros(GRID.shape, np.float32)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "nav2.md").read_text()
# What each plugin declares, and of which type; a source's parameters have the source's name before them.
SOURCE = {"topic": str, "data_type": str, "marking": bool, "clearing": bool}
SOURCE |= {"min_obstacle_height": float, "max_obstacle_height": float}
FRUSTUM = dict.fromkeys(("min_z", "max_z", "vertical_fov_angle", "vertical_fov_padding", "horizontal_fov_angle"), float)
DECLARED = {
    "nav2_costmap_2d::StaticLayer": {
        "plugin": str,
        "enabled": bool,
        "map_topic": str,
        "map_subscribe_transient_local": bool,
        "subscribe_to_updates": bool,
    },
    "nav2_costmap_2d::ObstacleLayer": {
        "plugin": str,
        "enabled": bool,
        "combination_method": int,
        "observation_sources": str,
        "occ_flow": SOURCE | {"obstacle_max_range": float, "raytrace_max_range": float},
        "occ_flow_clearing": SOURCE | {"obstacle_max_range": float, "raytrace_max_range": float},
    },
    "spatio_temporal_voxel_layer/SpatioTemporalVoxelLayer": {
        "plugin": str,
        "enabled": bool,
        "voxel_size": float,
        "voxel_decay": float,
        "decay_model": int,
        "track_unknown_space": bool,
        "mark_threshold": int,
        "combination_method": int,
        "observation_sources": str,
        "occ_flow": SOURCE | {"obstacle_range": float, "filter": str, "clear_after_reading": bool},
        "occ_flow_clearing": SOURCE
        | {"clear_after_reading": bool, "model_type": int, "decay_acceleration": float}
        | FRUSTUM,
    },
    "nav2_costmap_2d::InflationLayer": {"plugin": str, "inflation_radius": float, "cost_scaling_factor": float},
}


def blocks() -> dict:
    """All YAML on the page."""
    return {k: v for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for k, v in yaml.safe_load(text).items()}


@pytest.fixture(scope="module")
def costmap() -> dict:
    """The parameters of the local costmap on the page."""
    return blocks()["local_costmap"]["local_costmap"]["ros__parameters"]


@pytest.fixture(scope="module")
def layers(costmap: dict) -> dict[str, dict]:
    """Its layers by plugin."""
    return {value["plugin"]: value for value in costmap.values() if isinstance(value, dict)}


def check(found: dict, declared: dict) -> None:
    for key, value in found.items():
        if isinstance(declared[key], dict):
            check(value, declared[key])
        else:
            assert type(value) is declared[key], key  # ROS takes no int for a double


def test_every_key_is_declared_with_its_type(layers: dict[str, dict]):
    assert layers.keys() == DECLARED.keys()
    for plugin, values in layers.items():
        check(values, DECLARED[plugin])


def test_layers_that_may_be_chosen_exist(costmap: dict):
    others = re.findall(r"# plugins: \[(.*?)\]", PAGE)
    chosen = [costmap["plugins"], *(line.split(", ") for line in others)]
    assert len(chosen) == 3
    for names in chosen:
        assert names[-1] == "inflation_layer"
        assert all(isinstance(costmap[name], dict) for name in names)


def test_the_costmap_is_read_as_it_is_published(costmap: dict, layers: dict[str, dict]):
    assert layers["nav2_costmap_2d::StaticLayer"]["map_topic"] == "/occ_flow_node/costmap"
    assert not layers["nav2_costmap_2d::StaticLayer"]["map_subscribe_transient_local"]  # the node's is volatile
    assert costmap["track_unknown_space"]
    assert costmap["unknown_cost_value"] == -1 % 256  # compared as an unsigned byte
    assert costmap["lethal_cost_threshold"] == 100
    assert costmap["global_frame"] == AssemblerConfig.fixed_frame
    assert costmap["robot_base_frame"] == AssemblerConfig.base_frame


def test_the_layers_of_points_cut_where_the_costmap_does(layers: dict[str, dict]):
    for plugin in ("nav2_costmap_2d::ObstacleLayer", "spatio_temporal_voxel_layer/SpatioTemporalVoxelLayer"):
        marks, clears = (layers[plugin][name] for name in layers[plugin]["observation_sources"].split())
        assert (marks["topic"], marks["data_type"]) == ("/occ_flow_node/points", "PointCloud2")
        assert (clears["topic"], clears["data_type"]) == ("/occ_flow_node/clearing", "PointCloud2")
        assert (marks["marking"], marks["clearing"], clears["marking"], clears["clearing"]) == (
            True,
            False,
            False,
            True,
        )
        for source in (marks, clears) if "min_obstacle_height" in clears else (marks,):
            heights = source["min_obstacle_height"], source["max_obstacle_height"]
            assert heights == (NodeParameters.costmap_min_height, NodeParameters.costmap_max_height)


def test_rays_that_clear_pass_the_height_filter_and_reach_as_far_as_marks(layers: dict[str, dict]):
    clears = layers["nav2_costmap_2d::ObstacleLayer"]["occ_flow_clearing"]
    ends = free_ends(
        OccFlow(0, GRID, FREE, np.zeros((*GRID.shape, 2), np.float32), np.ones(GRID.shape, bool), 0.5),
        NodeParameters().bands["costmap"],
        NodeParameters.clearing_blind_range,
    )
    assert len(ends) > 100
    assert (clears["min_obstacle_height"] < ends[:, 2]).all() and (ends[:, 2] < clears["max_obstacle_height"]).all()
    assert np.linalg.norm(ends[:, :2], axis=1).max() < clears["raytrace_max_range"]


def updated_ahead(message: OccupancyGrid, robot_x: float, costmap: dict) -> float:
    """m, of the 20 ahead, that a rolling costmap takes from a static layer, by Nav2's arithmetic before 1.3.12.

    `StaticLayer::updateBounds` gives the corners of the map in the map's own frame, and `LayeredCostmap::updateMap` takes
    them for coordinates of `global_frame`, which it cuts at the window around the robot.
    """
    info, half = message.info, costmap["width"] / 2
    lowest = max(info.origin.position.x, robot_x - half)
    highest = min(info.origin.position.x + info.width * info.resolution, robot_x + half)
    return max(0.0, min(highest, robot_x + 20) - max(lowest, robot_x))


@pytest.mark.parametrize(("x", "in_base_frame"), [(0.0, 20.0), (5.0, 15.0), (10.0, 10.0), (30.0, 0.0), (50.0, 0.0)])
def test_the_whole_window_is_updated_however_far_the_vehicle_has_come(costmap: dict, x: float, in_base_frame: float):
    free = np.zeros((*GRID.shape, 2), np.float32)
    answer = OccFlow(0, GRID, FREE, free, np.ones(GRID.shape, bool), 0.5)
    pose, band = np.eye(4), NodeParameters().bands["costmap"]
    pose[0, 3] = x
    assert NodeParameters.costmap_frame == "fixed_frame"
    assert updated_ahead(to_costmap(answer, "odom", band, None, pose), x, costmap) == pytest.approx(20.0)
    assert updated_ahead(to_costmap(answer, "base_link", band), x, costmap) == pytest.approx(in_base_frame)


def test_voxels_last_for_two_answers_at_the_measured_rate(layers: dict[str, dict]):
    """The soak on the page of the node: so many answers in 20 minutes on a CPU."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "node.md").read_text()
    (answers,) = re.findall(r"\| sets complete, answered, superseded \| \d+, (\d+), \d+ \|", page)
    period = 20 * 60 / int(answers)
    assert layers["spatio_temporal_voxel_layer/SpatioTemporalVoxelLayer"]["voxel_decay"] >= 2 * period


def test_the_node_has_a_lifecycle_manager_of_its_own():
    manager = blocks()["lifecycle_manager_occ_flow"]["ros__parameters"]
    assert manager == {"autostart": True, "bond_timeout": 0.0, "node_names": ["occ_flow_node"]}


def test_parameters_on_the_page_are_the_nodes():
    named = set(re.findall(r"-p (\w+):=", PAGE)) | set(re.findall(r"`(\w+):=\w+`", PAGE))
    assert named == {"points_min_height", "autostart", "publish_objects", "costmap_moving", "costmap_frame"}
    assert named <= set(defaults())
