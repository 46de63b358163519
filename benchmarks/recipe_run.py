"""One training recipe with one seed, trained by turns with others: its clocks and its curve."""

import time
from dataclasses import dataclass

import train_lstm
from rnn_serving import model_flags
from rnn_serving.batch_stream import BatchStream

RECIPES = {
    "article": "--optimizer sgd --learning_rate 0.001 --schedule constant --training_steps 10000 --output_init normal",
    "default": "",
    "accurate": "--training_steps 9000 --learning_rate 0.005 --augment",
}
ARTICLE, DEFAULT, ACCURATE = RECIPES
# Test accuracies to reach; the first is what the article reports after its 10,000 steps.
THRESHOLDS = (0.906, 0.985, 0.99)
# What --quick divides the steps of each recipe by.
QUICK_DIVISOR = 50


@dataclass
class CurvePoint:
    """One point of a curve: how far a run has come, and the share of the test set that it classifies correctly."""

    step: int
    seconds: float
    cpu_seconds: float
    testing_accuracy: float


class RecipeRun:
    """One recipe with one seed, the seconds that it has trained, and its curve so far."""

    def __init__(self, name, seed, args, data):
        """Make the model and the optimizer that the recipe's command line of train_lstm.py describes."""
        flags = train_lstm.parse_arguments([*RECIPES[name].split(), "--seed", str(seed), "--data_dir", args.data_dir])
        if args.quick:
            flags.training_steps = max(args.evaluations, flags.training_steps // QUICK_DIVISOR)
        self.name, self.seed, self.steps = name, seed, flags.training_steps
        self.step, self.seconds, self.cpu_seconds, self.curve = 0, 0.0, 0.0, []
        self._test, self._model = data.test, model_flags.create_model(vars(flags))
        self._stream = BatchStream(data.train, flags.batch_size, flags.seed, flags.augment)
        optimizer = train_lstm.OPTIMIZERS[flags.optimizer](train_lstm.learning_rate(flags))
        optimizer.build(self._model.trainable_variables)
        self._train_step = train_lstm.compile_train_step(self._model, optimizer)

    def advance(self, last_step):
        """Train up to a step, the clocks running, then grade the model on the test set."""
        wall, cpu = time.perf_counter(), time.process_time()
        while self.step < last_step:
            self._train_step(*self._stream.next_batch())
            self.step += 1
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        is_correct = train_lstm.predict(self._model, self._test.images) == self._test.labels
        self.curve.append(CurvePoint(last_step, self.seconds, self.cpu_seconds, float(is_correct.mean())))

    def reached(self, accuracy):
        """Return the first point of the curve that has a test accuracy, None if none has."""
        return next((point for point in self.curve if point.testing_accuracy >= accuracy), None)

    def report(self):
        """Return the run as JSON takes it."""
        reached = {str(accuracy): self.reached(accuracy) for accuracy in THRESHOLDS}
        return {
            "recipe": self.name,
            "flags": RECIPES[self.name],
            "seed": self.seed,
            "testing_accuracy": self.curve[-1].testing_accuracy,
            "reached": {accuracy: point and vars(point) for accuracy, point in reached.items()},
            "curve": [vars(point) for point in self.curve],
        }
