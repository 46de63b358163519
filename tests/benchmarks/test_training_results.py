import json

import pytest

from benchmarks import training_results
from benchmarks.recipe_run import CurvePoint, RecipeRun


class FakeRun:
    """A run that has a curve of (step, seconds, accuracy) and nothing to train."""

    def __init__(self, name, seed, *curve):
        self.name, self.seed, self.steps, self.seconds = name, seed, curve[-1][0], curve[-1][1]
        self.curve = [CurvePoint(step, seconds, 2 * seconds, accuracy) for step, seconds, accuracy in curve]
        self.reached = lambda accuracy: RecipeRun.reached(self, accuracy)


@pytest.fixture
def runs():
    """The article's run, two of the default recipe, three of the accurate one."""
    return [
        FakeRun("article", 0, (5000, 100.0, 0.7), (10000, 200.0, 0.86)),
        FakeRun("default", 0, (100, 2.0, 0.91), (1500, 30.0, 0.9898)),
        FakeRun("default", 1, (100, 2.0, 0.90), (1500, 32.0, 0.9901)),
        *(FakeRun("accurate", seed, (9, 9.0, 0.992 + seed / 1000)) for seed in range(3)),
    ]


def test_an_accuracy_is_reached_at_the_first_evaluation_that_has_it(runs):
    assert runs[1].reached(0.906).step == 100
    assert runs[2].reached(0.906).step == 1500
    assert runs[1].reached(0.99) is None


def test_the_table_has_steps_and_seconds_to_each_accuracy_or_says_never(runs):
    lines = training_results.runs_table(runs).splitlines()
    assert lines[0] == "| recipe | seed | 90.6 % | 98.5 % | 99.0 % | all steps | CPU s | ends at |"
    assert lines[2] == "| article | 0 | never | never | never | 10,000 steps, 200.0 s | 400 | 86.00 % |"
    assert lines[3].startswith("| default | 0 | 100 steps, 2.0 s | 1,500 steps, 30.0 s | never | 1,500 steps, 30.0 s |")


def test_an_aim_goes_by_the_median_of_the_seeds_and_names_each(runs):
    to_article, to_98_5, accuracy = training_results.evaluate_aims(runs)
    assert to_article["values"] == [2.0 / 200, 32.0 / 200]
    assert to_article["measured"] == pytest.approx(0.085)
    assert not to_article["met"]
    assert to_98_5["met"]
    assert accuracy["measured"] == pytest.approx(0.993)
    assert accuracy["met"]
    assert "0.0850 (missed) | 0.0100, 0.1600 |" in training_results.aims_table([to_article])


def test_what_is_never_reached_is_a_miss_and_no_number(runs):
    runs[1].curve.pop()
    runs[2].curve.pop()
    _, to_98_5, _ = training_results.evaluate_aims(runs)
    assert to_98_5["values"] == [None, None]
    assert to_98_5["measured"] is None
    assert not to_98_5["met"]
    assert "never (missed) | never, never |" in training_results.aims_table([to_98_5])
    json.dumps(to_98_5, allow_nan=False)


@pytest.mark.parametrize(("recipes", "count"), [(["default"], 0), (["article"], 0), (["accurate"], 1)])
def test_only_recipes_that_ran_are_judged(runs, recipes, count):
    assert len(training_results.evaluate_aims([run for run in runs if run.name in recipes])) == count


def test_the_curve_is_the_median_of_the_seeds_with_their_range(runs, tmp_path):
    from matplotlib import pyplot

    axis = pyplot.figure().add_subplot()
    end = training_results._draw_recipe(axis, "accurate", runs[3:])
    assert end[:2] == pytest.approx((9.0, 0.7))
    assert end[2] == "accurate, 99.30 %"
    low, high = axis.collections[0].get_datalim(axis.transData).intervaly
    assert (low, high) == pytest.approx((0.6, 0.8))
    training_results.plot(runs, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
