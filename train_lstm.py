"""Step 1: train a static-unrolled LSTM to read handwritten digits, images -> checkpoint.

    python train_lstm.py --data_dir data/mnist

If it is killed, the same command resumes from the last checkpoint.
"""

import numpy as np

from rnn_serving import command_line, dataset, model_flags
from rnn_serving.model import INPUT_SPEC
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.training_run import TrainingRun


def train(model, optimizer, run):
    """Minimize the cross-entropy of the labels, one batch at a time."""
    train_step = compile_train_step(model, optimizer)
    for images, labels in run.batches():  # float32 (batch_size, 28, 28), int32 (batch_size,)
        loss, accuracy = train_step(images, labels)
        run.record(loss, accuracy)  # prints, appends to the history, saves a checkpoint


def compile_train_step(model, optimizer):
    """Return `train_step(images, labels) -> (loss, accuracy)`, which updates the model by one batch."""

    # Python runs this body once, to trace it into a graph for batches of any size; TensorFlow runs the graph.
    @tf.function(input_signature=[INPUT_SPEC, LABELS_SPEC], autograph=False)
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            logits, probabilities = model(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        is_correct = tf.equal(tf.argmax(probabilities, 1, output_type=tf.int32), labels)
        return loss, tf.reduce_mean(tf.cast(is_correct, tf.float32))

    return train_step


LABELS_SPEC = tf.TensorSpec((None,), tf.int32, "Input_Y")
OPTIMIZERS = {
    "adam": tf.keras.optimizers.Adam,
    "rmsprop": tf.keras.optimizers.RMSprop,
    "sgd": tf.keras.optimizers.SGD,
}


def learning_rate(args):
    """Return a constant, or a schedule: a linear warm-up over a tenth of the steps, at most 100, then half a cosine."""
    if args.schedule == "constant":
        return args.learning_rate
    warmup = min(100, args.training_steps // 10)
    return tf.keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else args.learning_rate,
        decay_steps=args.training_steps - warmup,
        warmup_target=args.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def evaluate(model, data):
    """Return the accuracies on all training and test images, and on the test images of each digit."""
    is_correct = predict(model, data.test.images) == data.test.labels
    digits = np.unique(data.test.labels)
    return {
        "testing_accuracy": float(is_correct.mean()),
        "training_accuracy": float((predict(model, data.train.images) == data.train.labels).mean()),
        "accuracy_by_digit": {str(digit): float(is_correct[data.test.labels == digit].mean()) for digit in digits},
    }


def predict(model, images, batch_size=1000):
    """Return the predicted digits, int (N,), of images, float32 (N, 28, 28)."""
    classify = tf.function(lambda batch: tf.argmax(model(batch)[0], 1), [INPUT_SPEC], autograph=False)
    starts = range(0, len(images), batch_size)
    return np.concatenate([classify(images[start : start + batch_size]).numpy() for start in starts])


def main(argv=None):
    """Train and grade one model; return the exit status."""
    args = parse_arguments(argv)
    data = dataset.load(args.data_dir)
    model = model_flags.create_model(vars(args))
    optimizer = OPTIMIZERS[args.optimizer](learning_rate(args))
    with TrainingRun(args, data, model, optimizer) as run:
        train(model, optimizer, run)
        return run.finish(lambda: evaluate(model, data))


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    add, positive_int = parser.add_argument, command_line.positive_int
    add("--checkpoint_dir", help="directory of the run (default: checkpoints/<name of the data set>)")
    add("--training_steps", type=positive_int, default=1500, help="optimizer steps")
    add("--batch_size", type=positive_int, default=128, help="images in a step")
    add("--learning_rate", type=command_line.positive_float, default=0.008, help="peak learning rate")
    add(
        "--schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="learning rate: warm-up and decay, or fixed",
    )
    add("--optimizer", choices=sorted(OPTIMIZERS), default="adam", help="update rule")
    model_flags.add_flags(parser)
    add("--augment", action="store_true", help="shift, rotate, zoom and shear the images of every batch at random")
    add("--display_step", type=positive_int, default=200, help="steps between printed lines")
    add("--save_step", type=positive_int, default=200, help="steps between checkpoints")
    add("--seed", type=command_line.seed, default=0, help="seed of initial weights, data order and augmentation")
    add("--init_from", help="checkpoint, or directory of one, whose weights to start from")
    add("--restart", action="store_true", help="delete the run in the checkpoint directory and start over")
    add("--min_accuracy", type=command_line.fraction, default=0.0, help="exit with 1 below this testing accuracy")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
