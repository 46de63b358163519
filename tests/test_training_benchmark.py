import json
import math
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_script

import train_lstm


@pytest.fixture
def training(monkeypatch):
    """benchmarks/training.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import training

    return training


class FakeRun:
    """A run that has a curve of (step, seconds, accuracy) and nothing to train."""

    def __init__(self, training, name, seed, *curve):
        self.name, self.seed, self.steps, self.seconds = name, seed, curve[-1][0], curve[-1][1]
        self.curve = [training.Point(step, seconds, 2 * seconds, accuracy) for step, seconds, accuracy in curve]
        self.reached = lambda accuracy: training.Run.reached(self, accuracy)


@pytest.fixture
def runs(training):
    """The article's run, two of the default recipe, three of the accurate one."""
    return [
        FakeRun(training, "article", 0, (5000, 100.0, 0.7), (10000, 200.0, 0.86)),
        FakeRun(training, "default", 0, (100, 2.0, 0.91), (1500, 30.0, 0.9898)),
        FakeRun(training, "default", 1, (100, 2.0, 0.90), (1500, 32.0, 0.9901)),
        *(FakeRun(training, "accurate", seed, (9, 9.0, 0.992 + seed / 1000)) for seed in range(3)),
    ]


def test_an_accuracy_is_reached_at_the_first_evaluation_that_has_it(training, runs):
    assert runs[1].reached(0.906).step == 100
    assert runs[2].reached(0.906).step == 1500
    assert runs[1].reached(0.99) is None


def test_the_table_has_steps_and_seconds_to_each_accuracy_or_says_never(training, runs):
    lines = training.runs_table(runs).splitlines()
    assert lines[0] == "| recipe | seed | 90.6 % | 98.5 % | 99.0 % | all steps | CPU s | ends at |"
    assert lines[2] == "| article | 0 | never | never | never | 10,000 steps, 200.0 s | 400 | 86.00 % |"
    assert lines[3].startswith("| default | 0 | 100 steps, 2.0 s | 1,500 steps, 30.0 s | never | 1,500 steps, 30.0 s |")


def test_an_aim_goes_by_the_median_of_the_seeds_and_names_each(training, runs):
    to_article, to_98_5, accuracy = training.judged(runs)
    assert to_article["values"] == [2.0 / 200, 32.0 / 200]
    assert to_article["measured"] == pytest.approx(0.085)
    assert not to_article["met"]
    assert to_98_5["met"]
    assert accuracy["measured"] == pytest.approx(0.993)
    assert accuracy["met"]
    assert "0.0850 (missed) | 0.0100, 0.1600 |" in training.aims_table([to_article])


def test_what_is_never_reached_is_a_miss_and_no_number(training, runs):
    runs[1].curve.pop()
    runs[2].curve.pop()
    _, to_98_5, _ = training.judged(runs)
    assert to_98_5["values"] == [None, None]
    assert to_98_5["measured"] is None
    assert not to_98_5["met"]
    assert "never (missed) | never, never |" in training.aims_table([to_98_5])
    json.dumps(to_98_5, allow_nan=False)


@pytest.mark.parametrize(("recipes", "count"), [(["default"], 0), (["article"], 0), (["accurate"], 1)])
def test_only_recipes_that_ran_are_judged(training, runs, recipes, count):
    assert len(training.judged([run for run in runs if run.name in recipes])) == count


def test_the_article_runs_once_and_ours_for_each_seed(training):
    runs = training.chosen(training.parse_arguments(["--seeds", "2"]))
    assert runs == [("article", 0), ("default", 0), ("default", 1), ("accurate", 0), ("accurate", 1)]


def test_every_recipe_is_a_command_line_of_train_lstm(training):
    flags = {name: train_lstm.parse_arguments(line.split()) for name, line in training.RECIPES.items()}
    assert flags["article"].training_steps == 10_000
    assert vars(flags["default"]) == vars(train_lstm.parse_arguments([]))


def test_all_runs_take_turns_by_the_same_fraction_of_their_steps(training):
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
    ended = run_script("benchmarks/training.py", *flags, timeout_s=600)
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
