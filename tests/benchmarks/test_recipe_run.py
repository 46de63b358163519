from types import SimpleNamespace

import train_lstm
from benchmarks.recipe_run import RECIPES, RecipeRun
from rnn_serving import dataset


def test_every_recipe_is_a_command_line_of_train_lstm():
    flags = {name: train_lstm.parse_arguments(line.split()) for name, line in RECIPES.items()}
    assert flags["article"].training_steps == 10_000
    assert vars(flags["default"]) == vars(train_lstm.parse_arguments([]))


def test_a_run_trains_up_to_each_step_and_grades_the_model(data_dir):
    args = SimpleNamespace(data_dir=str(data_dir), quick=True, evaluations=2)
    run = RecipeRun("default", 0, args, dataset.load(data_dir))
    assert run.steps == 30
    run.advance(2)
    run.advance(30)
    first, last = run.curve
    assert (first.step, last.step) == (2, 30)
    assert 0 < first.seconds < last.seconds == run.seconds
    assert first.testing_accuracy < last.testing_accuracy == run.report()["testing_accuracy"]
    assert run.reached(last.testing_accuracy) == last
