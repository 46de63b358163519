"""Softmax regression on MNIST, exported with two signatures: pixels -> scores, and tf.Examples -> labels with scores.

    python examples/softmax_regression.py --data_dir data/mnist
    scripts/serve_tfserving.sh --model_name=softmax_regression --model_base_path=exports/softmax_regression &
    python tfserving_client.py --model_name softmax_regression --method classify

One model may offer several ways to be asked. `predict_images` takes a tensor of pixels. `serving_default` takes what
a data pipeline has at hand, serialized tf.Examples, and answers the names of the classes: parsing and naming are part
of the graph, so that no client needs to know how.
"""

import contextlib
import time
from pathlib import Path

import numpy as np

from rnn_serving import command_line, dataset, exporting, exports, saved_model
from rnn_serving.dataset import IMAGE_SIZE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import classification_pb2, prediction_log_pb2

NUM_PIXELS = IMAGE_SIZE**2
IMAGES_SIGNATURE, IMAGES_KEY, SCORES_KEY = "predict_images", "images", "scores"
# The feature of an Example that holds the pixels.
FEATURE = "x"
LABELS = [str(digit) for digit in range(NUM_CLASSES)]

# Plain gradient descent on the sum over a batch, as the classic tutorials have it.
BATCH_SIZE, LEARNING_RATE = 50, 0.01


def main(argv=None):
    """Train, export as one version, and return the exit status."""
    args = parse_arguments(argv)
    data = dataset.load(args.data_dir)
    version = exports.free_version(args.export_base_path, args.model_version, args.overwrite)
    model = train(data.train, args.training_iteration, args.seed)
    scores = model(flat(data.test.images)).numpy()
    error_rate = float(np.mean(scores.argmax(axis=1) != data.test.labels))
    with exports.publishing(args.export_base_path, version, args.overwrite) as staging:
        write_version(staging, args, version, model, data, error_rate)
        difference = largest_difference(staging, data.test.images[:1000], scores[:1000])
    target = Path(args.export_base_path) / str(version)
    for name in (IMAGES_SIGNATURE, saved_model.DEFAULT_SIGNATURE):
        exporting.print_signature(target, name)
    print(f"Largest difference between model and SavedModel, both signatures: {difference:g}")
    print(f"Error rate on {len(data.test):,} test images: {100 * error_rate:.4g} %")
    print(f"Exported to {target}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument(
        "--training_iteration", type=command_line.positive_int, default=1000, help="batches of 50 images to train on"
    )
    parser.add_argument("--seed", type=command_line.seed, default=0, help="seed of the order of the images")
    exporting.add_flags(parser, base_path="exports/softmax_regression")
    return parser.parse_args(argv)


class SoftmaxRegression(tf.Module):
    """One weight for each pixel and class: float32 images (N, 784) to scores (N, 10), which add up to 1."""

    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(tf.zeros((NUM_PIXELS, NUM_CLASSES)), name="weights")
        self.biases = tf.Variable(tf.zeros(NUM_CLASSES), name="biases")

    def logits(self, images):
        """Return what the scores are the softmax of."""
        return tf.matmul(images, self.weights) + self.biases

    def __call__(self, images):
        """Return the scores."""
        return tf.nn.softmax(self.logits(images))


def train(split, iterations, seed):
    """Return a model that has seen `iterations` batches of the images, in a new order after each time through."""
    model, optimizer = SoftmaxRegression(), tf.optimizers.SGD(LEARNING_RATE)

    @tf.function(autograph=False)
    def step(images, labels):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model.logits(images))
            loss = tf.reduce_sum(losses)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    batches = tf.data.Dataset.from_tensor_slices((flat(split.images), split.labels.astype(np.int32)))
    batches = batches.shuffle(len(split), seed).repeat().batch(BATCH_SIZE)
    started = time.perf_counter()
    for images, labels in batches.take(iterations):
        step(images, labels)
    print(f"{iterations} iterations in {time.perf_counter() - started:.1f} s")
    return model


def flat(images):
    """Return images, float32 (N, 28, 28), as rows of pixels, (N, 784)."""
    return images.reshape(-1, NUM_PIXELS)


def write_version(staging, args, version, model, data, error_rate):
    """Write the SavedModel and what goes with it into the staging directory."""
    origin = {
        "dataset": {"name": data.name, "hash": data.content_hash, "train": len(data.train), "test": len(data.test)},
        "testing_accuracy": 1 - error_rate,
        "step": args.training_iteration,
        "flags": vars(args),
    }
    warmup = exporting.blank_predictions(IMAGES_SIGNATURE, IMAGES_KEY, (NUM_PIXELS,))
    with exporting.writing(staging):
        write_saved_model(model, staging)
        exporting.write_warmup_requests(staging, args.export_base_path, [*warmup, blank_classification()])
        exporting.write_provenance(staging, args.export_base_path, version, origin)


def write_saved_model(trained, directory):
    """Build a graph with both signatures around the trained weights, and save it with the table's initializer."""
    values = [variable.numpy() for variable in trained.variables]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = SoftmaxRegression()
        images = tf.compat.v1.placeholder(tf.float32, (None, NUM_PIXELS), IMAGES_KEY)
        serialized = tf.compat.v1.placeholder(tf.string, (None,), "tf_example")
        signatures = {
            IMAGES_SIGNATURE: tf.compat.v1.saved_model.predict_signature_def(
                {IMAGES_KEY: images}, {SCORES_KEY: model(images)}
            ),
            saved_model.DEFAULT_SIGNATURE: tf.compat.v1.saved_model.classification_signature_def(
                serialized, *classify(model, serialized)
            ),
        }
        for variable, value in zip(model.variables, values):
            variable.load(value, session)
        # The builder wants to make the last directory itself.
        directory.rmdir()
        builder = tf.compat.v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            session,
            [saved_model.SERVE_TAG],
            signature_def_map=signatures,
            # A server runs this after it has restored the variables: without it, the table of labels is empty.
            main_op=tf.compat.v1.tables_initializer(),
            strip_default_attrs=True,
        )
        builder.save()


def classify(model, serialized):
    """Return labels, string (N, 10), and their scores, float32 (N, 10), best first, of serialized Examples, (N,)."""
    features = {FEATURE: tf.io.FixedLenFeature((NUM_PIXELS,), tf.float32)}
    scores, indices = tf.math.top_k(model(tf.io.parse_example(serialized, features)[FEATURE]), NUM_CLASSES)
    numbers = tf.range(NUM_CLASSES, dtype=tf.int64)
    labels = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(numbers, tf.constant(LABELS)), "unknown")
    return labels.lookup(tf.cast(indices, tf.int64)), scores


def example_of(pixels):
    """Return a tf.Example of one image's 784 pixels."""
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=pixels))
    return tf.train.Example(features=tf.train.Features(feature={FEATURE: feature}))


def blank_classification():
    """Return a PredictionLog that asks for the labels of a blank image."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = saved_model.DEFAULT_SIGNATURE
    request.input.example_list.examples.append(example_of(np.zeros(NUM_PIXELS)))
    return prediction_log_pb2.PredictionLog(classify_log=prediction_log_pb2.ClassifyLog(request=request))


def largest_difference(directory, images, expected):
    """Return the largest difference between the trained model's scores and those that the SavedModel answers."""
    examples = np.array([example_of(pixels).SerializeToString() for pixels in flat(images)], object)
    with contextlib.closing(saved_model.load(directory)) as loaded:
        by_images = loaded.signatures[IMAGES_SIGNATURE]({IMAGES_KEY: flat(images)})
        by_examples = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({"inputs": examples})
    labels = by_examples["classes"].astype(int)
    exported = np.stack([by_images[SCORES_KEY], np.take_along_axis(by_examples["scores"], labels.argsort(axis=1), 1)])
    return exporting.largest_difference(expected, exported, "model")


if __name__ == "__main__":
    command_line.run(main)
