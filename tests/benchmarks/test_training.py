import json
import math
from types import SimpleNamespace

import pytest
from conftest import run_script

from benchmarks import training


def test_the_article_runs_once_and_ours_for_each_seed():
    runs = training.chosen_runs(training.parse_arguments(["--seeds", "2"]))
    assert runs == [("article", 0), ("default", 0), ("default", 1), ("accurate", 0), ("accurate", 1)]


def test_all_runs_take_turns_by_the_same_fraction_of_their_steps():
    turns = []
    runs = [
        SimpleNamespace(steps=steps, advance=lambda last, name=name: turns.append((name, last)))
        for name, steps in (("long", 90), ("short", 10))
    ]
    training.take_turns(runs, 3)
    assert turns == [("long", 30), ("short", 3), ("long", 60), ("short", 6), ("long", 90), ("short", 10)]


@pytest.mark.slow
def test_recipes_are_trained_graded_and_drawn(data_dir, tmp_path):
    flags = ("--data_dir", data_dir, "--quick", "--plot", tmp_path / "plots" / "curve.png", "--json", tmp_path / "json")
    ended = run_script("-m", "benchmarks.training", *flags, timeout_s=600)
    assert ended.returncode == 0, ended.stderr
    for name in ("| article | 0 |", "| default | 0 |", "| accurate | 0 |", "(missed)"):
        assert name in ended.stdout
    assert (tmp_path / "plots" / "curve.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "json").read_text())
    assert [run["recipe"] for run in report["runs"]] == ["article", "default", "accurate"]
    for run in report["runs"]:
        curve = run["curve"]
        assert len(curve) == report["evaluations"]
        assert run["testing_accuracy"] == curve[-1]["testing_accuracy"]
        for name in ("step", "seconds", "cpu_seconds"):
            values = [point[name] for point in curve]
            assert values == sorted(set(values))
            assert all(math.isfinite(value) and value > 0 for value in values)
