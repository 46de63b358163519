"""Step 1: train a static-unrolled LSTM to read handwritten digits, images -> checkpoint.

    python train_lstm.py --data_dir data/mnist

Killed at any point, the same command goes on from the last checkpoint. Beside the checkpoints stand run.json
(flags, data, results), history.csv and training.png.
"""

import contextlib
import csv
import fcntl
import functools
import io
import math
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rnn_serving import checkpoint, command_line, dataset, environment, files
from rnn_serving.command_line import UserError, first_line
from rnn_serving.dataset import IMAGE_SIZE
from rnn_serving.model import INPUT_SPEC, OUTPUT_INITS, LSTMClassifier
from rnn_serving.quiet_tensorflow import tf

OPTIMIZERS = {
    "adam": tf.keras.optimizers.Adam,
    "rmsprop": tf.keras.optimizers.RMSprop,
    "sgd": tf.keras.optimizers.SGD,
}
# The flags that decide what the weights become: a directory holds a run with one set of them.
WEIGHT_FLAGS = (
    "training_steps",
    "batch_size",
    "learning_rate",
    "schedule",
    "optimizer",
    "num_hidden",
    "output_init",
    "augment",
    "seed",
    "init_from",
)
# How far --augment moves an image at most: pixels, degrees, and shares of its size and of its slant.
MAX_SHIFT, MAX_TURN, MAX_ZOOM, MAX_SHEAR = 2.0, 10.0, 0.1, 0.1
EVALUATION_BATCH = 1000
HISTORY_COLUMNS = ("step", "loss", "training_accuracy", "learning_rate", "seconds")


def main(argv=None):
    """Train, test and write down one model; return the exit status."""
    args = parse_arguments(argv)
    data = dataset.load(args.data_dir)
    directory = Path(args.checkpoint_dir or f"checkpoints/{data.name}")
    with locked(directory):
        if args.restart:
            check_init_from(args, directory)
            remove_run(directory)
        run = begin_run(directory, args, data)
        if "testing_accuracy" in run:
            print(f"{directory}: finished at step {run['step']} ({summary(run)}); --restart trains it anew")
            return exit_status(run, args.min_accuracy)
        training = Training(args, data.train, directory)
        files.write_json(directory / checkpoint.RUN_FILE, run)
        history = training.run()
        run |= results(training, data, history)
        plot(history, directory / "training.png")
        files.write_json(directory / checkpoint.RUN_FILE, run)
        print_results(run, directory)
        return exit_status(run, args.min_accuracy)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--checkpoint_dir", help="where checkpoints go (default: checkpoints/<name of the data set>)")
    parser.add_argument("--training_steps", type=command_line.positive_int, default=1500, help="optimizer steps")
    parser.add_argument("--batch_size", type=command_line.positive_int, default=128, help="images a step")
    parser.add_argument("--learning_rate", type=command_line.positive_float, default=0.008, help="peak learning rate")
    parser.add_argument(
        "--schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="learning rate over the run: a linear warm-up, then half a cosine down to 0; or always the same",
    )
    parser.add_argument("--optimizer", choices=sorted(OPTIMIZERS), default="adam", help="the update rule")
    parser.add_argument("--num_hidden", type=command_line.positive_int, default=128, help="units of the LSTM")
    parser.add_argument(
        "--output_init",
        choices=OUTPUT_INITS,
        default="glorot",
        help="first weights of the output layer: scaled to its width, or N(0, 1) as in the article",
    )
    parser.add_argument(
        "--augment", action="store_true", help="shift, turn, zoom and shear each image a little, anew in every epoch"
    )
    parser.add_argument("--display_step", type=command_line.positive_int, default=200, help="steps between two lines")
    parser.add_argument("--save_step", type=command_line.positive_int, default=200, help="steps between checkpoints")
    parser.add_argument("--seed", type=command_line.seed, default=0, help="of weights and data order")
    parser.add_argument("--init_from", help="checkpoint (or directory of one) whose weights to start with")
    parser.add_argument("--restart", action="store_true", help="drop what the checkpoint directory holds")
    parser.add_argument(
        "--min_accuracy", type=command_line.fraction, default=0.0, help="testing accuracy below which to exit with 1"
    )
    return parser.parse_args(argv)


@contextlib.contextmanager
def locked(directory):
    """Keep a second training out of the checkpoint directory meanwhile."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror}; expected a directory for checkpoints") from error
    with open(directory / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{directory}: another training is running there; expected one at a time") from error
        yield


def check_init_from(args, directory):
    """Raise UserError before a restart deletes what the new run would start with, or if that is not there."""
    if args.init_from:
        prefix = Path(checkpoint.latest(args.init_from))
        if prefix.parent.resolve() == directory.resolve():
            raise UserError(f"--init_from {args.init_from} is what --restart deletes; expected another directory")


def remove_run(directory):
    """Delete what an earlier run wrote, and nothing else; run.json goes first, so that none stands alone."""
    for pattern in (checkpoint.RUN_FILE, "checkpoint", "ckpt-*", "history.csv", "training.png"):
        for path in directory.glob(pattern):
            # TensorFlow leaves a directory behind where it was killed while it wrote a checkpoint.
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def begin_run(directory, args, data):
    """Return what run.json says of the run in `directory`, or what it will say of a new one.

    Raises: UserError if the directory holds a run with other flags or other data.
    """
    run = {
        "flags": vars(args),
        "dataset": {"name": data.name, "hash": data.content_hash, "train": len(data.train), "test": len(data.test)},
        "versions": environment.versions(),
        "machine": environment.machine(),
    }
    if not (directory / checkpoint.RUN_FILE).exists():
        if checkpoint.newest(directory):
            raise UserError(
                f"{directory} has a checkpoint but no {checkpoint.RUN_FILE}; expected both, or use --restart"
            )
        return run
    found = checkpoint.read_run(directory)
    differences = configuration_differences(found, run)
    if differences:
        raise UserError(
            f"{directory} holds a run with {', '.join(differences)}; expected the same configuration, "
            "another --checkpoint_dir, or --restart"
        )
    return found


def configuration_differences(found, asked):
    """Describe each weight-changing flag, and the data, in which two runs differ."""
    before = {"augment": False} | found["flags"]  # a run.json may be older than the flag
    differences = [
        f"--{name} {before.get(name)} (asked: {asked['flags'][name]})"
        for name in WEIGHT_FLAGS
        if before.get(name) != asked["flags"][name]
    ]
    if found["dataset"]["hash"] != asked["dataset"]["hash"]:
        differences.append(f"other data: {found['dataset']['name']} (asked: {asked['dataset']['name']}, by content)")
    return differences


class Training:
    """One run: the model, its optimizer and its place in the data, all of which a checkpoint holds."""

    def __init__(self, args, split, directory):
        """Start from random weights, from `--init_from`, or from the last checkpoint in `directory`."""
        self.args, self.split, self.directory = args, split, directory
        self.model = LSTMClassifier(args.num_hidden, args.output_init, args.seed)
        self.logits = tf.function(self.model, [INPUT_SPEC], autograph=False)
        self.optimizer = OPTIMIZERS[args.optimizer](learning_rate(args))
        self.optimizer.build(self.model.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.images_drawn = tf.Variable(0, dtype=tf.int64)
        state = tf.train.Checkpoint(
            model=self.model, optimizer=self.optimizer, step=self.step, images_drawn=self.images_drawn
        )
        self.manager = tf.train.CheckpointManager(state, str(directory), max_to_keep=3)
        last = checkpoint.newest(directory)
        if last:
            try:
                state.restore(last).assert_consumed()
            except (*checkpoint.READ_ERRORS, AssertionError) as error:
                raise checkpoint.unreadable(last, error) from error
            print(f"{directory}: going on from step {self.step.numpy()} of {args.training_steps}")
        elif args.init_from:
            checkpoint.restore(self.model, checkpoint.latest(args.init_from))

    def run(self):
        """Train to `--training_steps`; return the history, one row of `HISTORY_COLUMNS` for each printed line."""
        args, first = self.args, int(self.step.numpy())
        history = read_history(self.directory / "history.csv", first)
        started = time.perf_counter() - (history[-1]["seconds"] if history else 0)
        # disable=None: no bar where stderr is no terminal, the printed lines say how far it is.
        for step in tqdm(
            range(first + 1, args.training_steps + 1), initial=first, total=args.training_steps, disable=None
        ):
            batch = self.next_batch()
            loss, accuracy = (float(value) for value in self.train_step(*batch))
            self.step.assign(step)
            if not math.isfinite(loss):
                raise self.diverged(step, f"the loss is {loss}")
            last = step == args.training_steps
            if step % args.display_step == 0 or last:
                rate = float(self.optimizer.learning_rate)
                row = (step, loss, accuracy, rate, round(time.perf_counter() - started, 3))
                history.append(dict(zip(HISTORY_COLUMNS, row)))
                tqdm.write(
                    f"Step {step}, Minibatch Loss= {loss:.4f}, Training Accuracy= {accuracy:.3f}", file=sys.stdout
                )
            if step % args.save_step == 0 or last:
                self.save(step, history, batch)
        return history

    @tf.function(input_signature=[INPUT_SPEC, tf.TensorSpec((None,), tf.int32, "Input_Y")], autograph=False)
    def train_step(self, images, labels):
        """Make one optimizer step; return the minibatch's loss and accuracy before it, float32 scalars."""
        with tf.GradientTape() as tape:
            logits, prediction = self.model(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(losses, name="loss")
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        correct = tf.equal(tf.argmax(prediction, 1, output_type=tf.int32), labels)
        return loss, tf.reduce_mean(tf.cast(correct, tf.float32))

    def next_batch(self):
        """Return the next images, float32 (batch_size, 28, 28), and labels, int32 (batch_size,).

        Every epoch is a permutation of its own that the seed decides, so the number of images drawn is all that has
        to be remembered. A batch may span two epochs.
        """
        drawn, count = int(self.images_drawn.numpy()), len(self.split)
        wanted = range(drawn, drawn + self.args.batch_size)
        indices = np.array([permutation(self.args.seed, number // count, count)[number % count] for number in wanted])
        self.images_drawn.assign_add(self.args.batch_size)
        images = self.split.images[indices]
        if self.args.augment:
            images = moved(images, np.random.default_rng((self.args.seed, drawn, 1)))
        return images, self.split.labels[indices].astype(np.int32)

    def save(self, step, history, batch):
        """Write the history, then the checkpoint that it leads up to, if the weights still make sense of `batch`."""
        logits, _ = self.logits(batch[0])
        if not np.isfinite(logits).all():
            raise self.diverged(step, "the logits are not finite")
        write_history(self.directory / "history.csv", history)
        try:
            self.manager.save(checkpoint_number=step)
        except tf.errors.OpError as error:
            raise UserError(f"{self.directory}: {first_line(error)}; expected to write a checkpoint") from error

    def diverged(self, step, what):
        """Return the error that stops a run which cannot get better."""
        kept = checkpoint.newest(self.directory) or "none yet"
        return UserError(
            f"step {step}: {what}; expected a finite number, try a lower --learning_rate. Last good checkpoint: {kept}"
        )


def learning_rate(args):
    """Return the learning rate as a constant or as Keras's schedule: warm-up over a tenth, at most 100 steps."""
    if args.schedule == "constant":
        return args.learning_rate
    warmup = min(100, args.training_steps // 10)
    return tf.keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else args.learning_rate,
        decay_steps=args.training_steps - warmup,
        warmup_target=args.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


@functools.lru_cache(maxsize=2)
def permutation(seed, epoch, count):
    """Return the order of `count` images in one epoch, int (count,)."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def moved(images, rng):
    """Return images, float32 (N, 28, 28), each shifted, turned, zoomed and sheared at random about its middle."""
    count, middle = len(images), (IMAGE_SIZE - 1) / 2
    turn, shear = rng.uniform(-1, 1, (2, count)) * [[math.radians(MAX_TURN)], [MAX_SHEAR]]
    zoom = rng.uniform(1 - MAX_ZOOM, 1 + MAX_ZOOM, (2, count))
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, (2, count))
    # Where a pixel (x, y) comes from: (a x + b y + left, c x + d y + top).
    a, b = zoom[0] * np.cos(turn), zoom[0] * (shear * np.cos(turn) - np.sin(turn))
    c, d = zoom[1] * np.sin(turn), zoom[1] * (shear * np.sin(turn) + np.cos(turn))
    left, top = middle - (a + b) * middle + shift[0], middle - (c + d) * middle + shift[1]
    transforms = np.stack([a, b, left, c, d, top, np.zeros(count), np.zeros(count)], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images[..., np.newaxis],
        transforms=transforms.astype(np.float32),
        output_shape=images.shape[1:],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[..., 0]


def read_history(path, last_step):
    """Return the rows of history.csv up to a step; later ones were lost with the checkpoint they led up to."""
    if not path.exists() or last_step == 0:
        return []
    with open(path, encoding="utf-8", newline="") as lines:
        try:
            rows = [{name: float(row[name]) for name in HISTORY_COLUMNS} for row in csv.DictReader(lines)]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: damaged ({error}); expected what training wrote, delete it or --restart"
            ) from error
    return [row | {"step": int(row["step"])} for row in rows if row["step"] <= last_step]


def write_history(path, history):
    """Write the rows of a history as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write_text(path, text.getvalue())


def results(training, data, history):
    """Grade the trained model on all images; return what run.json says of it."""
    predicted, labels = predict(training.model, data.test.images), data.test.labels
    right = predicted == labels
    by_digit = {str(digit): float(right[labels == digit].mean()) for digit in np.unique(labels)}
    return {
        "step": int(training.step.numpy()),
        "seconds": history[-1]["seconds"] if history else None,
        "testing_accuracy": float(right.mean()),
        "training_accuracy": float((predict(training.model, data.train.images) == data.train.labels).mean()),
        "accuracy_by_digit": by_digit,
    }


def predict(model, images):
    """Return the predicted digits, int (N,), of images, float32 (N, 28, 28)."""
    classify = tf.function(lambda batch: tf.argmax(model(batch)[0], 1), [INPUT_SPEC], autograph=False)
    batches = range(0, len(images), EVALUATION_BATCH)
    return np.concatenate([classify(images[start : start + EVALUATION_BATCH]).numpy() for start in batches])


def plot(history, path):
    """Draw loss and minibatch accuracy over the steps."""
    # Imported here: matplotlib takes a second to load, which a mistyped flag should not have to wait for.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [row["step"] for row in history]
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 5), layout="constrained")
    above.plot(steps, [row["loss"] for row in history], marker=".")
    above.set(ylabel="minibatch loss", yscale="log", title="train_lstm.py")
    below.plot(steps, [row["training_accuracy"] for row in history], marker=".")
    below.set(ylabel="minibatch accuracy", xlabel="step")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def summary(run):
    """Return the accuracies of a finished run in one line."""
    return f"Testing Accuracy: {run['testing_accuracy']:.4f}, training accuracy: {run['training_accuracy']:.4f}"


def print_results(run, directory):
    """Print how well the model reads the test set, as a whole and digit by digit."""
    print(summary(run))
    print("By digit:", "  ".join(f"{digit}: {value:.3f}" for digit, value in run["accuracy_by_digit"].items()))
    seconds = "unknown time" if run["seconds"] is None else f"{run['seconds']:.1f} s"
    print(f"{run['step']} steps in {seconds}; checkpoint, history and plot are in {directory}")


def exit_status(run, min_accuracy):
    """Return 1, and say so, if the testing accuracy is below the one asked for."""
    if run["testing_accuracy"] < min_accuracy:
        return command_line.fail(f"testing accuracy {run['testing_accuracy']:.4f}; expected at least {min_accuracy}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
