"""The page of results: figures come from result files alone."""

from pathlib import Path

import pytest

from letocc_core.errors import ConfigError, DataError
from letocc_core.evaluation.results_page import render_page, write_page
from letocc_core.metrics import results

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = """
title: Results
text: Measured here.
sections:
- heading: Streets
  text: Eight of them.
  groups: [depth, ray_iou]
  rows:
  - {label: ours, file: ours.json}
  - {label: flat, file: ours.json, baseline: flat_road}
  goals:
  - {text: abs rel, file: ours.json, key: depth.abs_rel, wanted: 0.2, is_at: most}
  - {text: against the road, file: ours.json, key: ray_iou.2m, over: baselines.flat_road.ray_iou.2m, wanted: 5, is_at: least}
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    found = {
        "depth": {"abs_rel": 0.1234, "rmse": 2.5},
        "ray_iou": {"2m": 0.4},
        "iou": {"mean": 0.3},
        "spread": {"depth": {"abs_rel": 0.02}},
        "baselines": {"flat_road": {"ray_iou": {"2m": 0.1}}},
        "scenes": 2,
        "frames": 4,
        "versions": {},
        "config": {"stages": [{"name": "static", "steps": 300, "batch_size": 2}]},
    }
    results.write_results(tmp_path / "ours.json", found)
    path = tmp_path / "page.yaml"
    path.write_text(PAGE)
    return path


def test_tables_and_goals_come_from_the_files(page: Path):
    lines = write_page(page).read_text().splitlines()
    assert lines[0] == "# Results" and "## Streets" in lines
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert cells[0] == ["", "RayIoU@2", "abs rel", "RMSE (m)"]  # not IoU: not among the groups
    assert cells[2:4] == [["ours", "0.400", "0.123 ± 0.020", "2.50"], ["flat", "0.100", "", ""]]
    assert cells[-2:] == [
        ["abs rel", "at most 0.2", "0.123", "met"],
        ["against the road", "at least 5", "4", "missed"],
    ]


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("baseline: flat_road", "baseline: zero_velocity", DataError, "has no baseline 'zero_velocity'; row 'flat'"),
        ("key: depth.abs_rel", "key: depth.sq_rel", DataError, "ours.json: has no figure 'depth.sq_rel'"),
        ("heading: Streets", "headline: Streets", ConfigError, "headline"),
    ],
)
def test_what_is_not_there_is_named(page: Path, old: str, new: str, error: type, message: str):
    page.write_text(page.read_text().replace(old, new, 1))
    with pytest.raises(error, match=message):
        render_page(page)


def test_what_was_not_run_has_no_figure(page: Path):
    text = PAGE.replace(
        "- {label: flat, file: ours.json", "- {label: later, file: later.json}\n  - {label: flat, file: later.json"
    )
    page.write_text(text.replace("file: ours.json, key: ray", "file: ours.json, over_file: later.json, key: ray"))
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in render_page(page).splitlines() if "|" in line]
    assert cells[3:5] == [["later", "not run", "", ""], ["flat", "not run", "", ""]]
    assert cells[-1] == ["against the road", "at least 5", "not run", ""]


def test_rows_of_different_budgets_are_told_apart(page: Path):
    page.write_text(PAGE.replace("  groups:", "  budget: true\n  groups:"))
    one_stage = "trained for 300 steps (static), scored on 4 image sets of 2 sequences"
    assert f"Budget of every row that was run: {one_stage}." in render_page(page)
    found = results.read_results(page.with_name("ours.json"))
    found["trained"] = {"static": 300, "motion": 100}
    results.write_results(page.with_name("longer.json"), found)
    page.write_text(page.read_text().replace("  goals:", "  - {label: longer, file: longer.json}\n  goals:"))
    both = f"ours: {one_stage}. longer: {one_stage.replace('),', ') + 100 steps (motion),')}."
    assert f"Budgets differ. {both}" in render_page(page)


def test_the_order_of_a_paper_is_compared_with_what_two_seeds_differ_by(page: Path):
    figures = {"ray_iou": {"mean": 0.5}, "depth": {"abs_rel": 0.2}, "motion": {"mave": 4.0}, "flow2d": {"epe_fg": 6.0}}
    other = {"ray_iou": {"mean": 0.4}, "depth": {"abs_rel": 0.1}, "motion": {"mave": 4.5}, "flow2d": {"epe_fg": 6.1}}
    seed = {"ray_iou": {"mean": 0.48}, "depth": {"abs_rel": 0.25}, "motion": {"mave": 4.7}, "flow2d": {"epe_fg": 6.2}}
    for name, values in (("ours", figures), ("none", other), ("seed", seed)):
        results.write_results(page.with_name(f"{name}.json"), {**values, "scenes": 1, "frames": 1, "versions": {}})
    orders = "  orders: [{ahead: ours, of: none}, {ahead: ours, of: later}]\n  seeds: [ours.json, seed.json]\n"
    rows = "".join(f"  - {{label: {name}, file: {name}.json}}\n" for name in ("ours", "none", "later"))
    page.write_text(PAGE.split("  rows:")[0] + "  rows:\n" + rows + orders)
    lines = render_page(page).splitlines()
    assert lines[-2] == "| ours | none | +0.100 | -0.100 | (+0.500) | (+0.100) |"
    assert lines[-1].count("not run") == 4
    page.write_text(page.read_text().replace("of: none", "of: nothing"))
    with pytest.raises(ConfigError, match="Streets: orders name 'nothing'; rows: ours, none, later"):
        render_page(page)


def test_spread_is_the_deviation_over_scenes():
    scenes = [{"depth": {"abs_rel": 0.1}}, {"depth": {"abs_rel": 0.3}, "iou": {"mean": 0.5}}]
    assert results.spread(scenes) == {"depth": {"abs_rel": pytest.approx(0.1414, abs=1e-4)}}


def test_the_page_of_this_repository_is_what_its_result_files_give():
    path = REPOSITORY / "docs/results.yaml"
    assert path.with_suffix(".md").read_text() == render_page(path), "run: letocc results docs/results.yaml"
