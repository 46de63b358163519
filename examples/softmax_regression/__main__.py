"""Train softmax regression, and export it with two signatures, images -> exports/softmax_regression/<version>/.

    python -m examples.softmax_regression --data_dir data/mnist

`predict_images` maps pixels to scores. `serving_default` maps serialized tf.Examples to labels with scores: parsing and
labelling are part of the graph, so a client needs to know neither.
"""

import contextlib

import numpy as np

from examples.softmax_regression import tf_examples
from examples.softmax_regression.model import NUM_PIXELS, SoftmaxRegression, flatten, train
from rnn_serving import command_line, dataset, publish, saved_model
from rnn_serving.clients.signature import CLASSIFY_CLASSES, CLASSIFY_INPUT, CLASSIFY_SCORES, FEATURE
from rnn_serving.dataset import NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

IMAGES_SIGNATURE, IMAGES_KEY, SCORES_KEY = "predict_images", "images", "scores"
LABELS = [str(digit) for digit in range(NUM_CLASSES)]


def write_saved_model(trained, directory):
    """Build a graph with both signatures on placeholders, load the trained weights into it, and save it."""
    weights = [variable.numpy() for variable in trained.variables]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = SoftmaxRegression()
        images = tf.compat.v1.placeholder(tf.float32, (None, NUM_PIXELS), IMAGES_KEY)
        serialized = tf.compat.v1.placeholder(tf.string, (None,), "tf_example")
        # Two ways to call one model: a tensor for Predict, tf.Examples for Classify.
        signatures = {
            IMAGES_SIGNATURE: tf.compat.v1.saved_model.predict_signature_def(
                {IMAGES_KEY: images}, {SCORES_KEY: model(images)}
            ),
            saved_model.DEFAULT_SIGNATURE: tf.compat.v1.saved_model.classification_signature_def(
                serialized, *classify(model, serialized)
            ),
        }
        for variable, value in zip(model.variables, weights):
            variable.load(value, session)
        directory.rmdir()  # the builder creates it
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
    """Return labels, string (N, 10), and scores, float32 (N, 10), best first, of serialized tf.Examples, (N,)."""
    # Parsing: the feature "x" of each Example has the pixels.
    features = tf.io.parse_example(serialized, {FEATURE: tf.io.FixedLenFeature((NUM_PIXELS,), tf.float32)})
    scores, indices = tf.math.top_k(model(features[FEATURE]), NUM_CLASSES)
    # Labelling: a table from class numbers to names.
    numbers = tf.range(NUM_CLASSES, dtype=tf.int64)
    labels = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(numbers, tf.constant(LABELS)), "unknown")
    return labels.lookup(tf.cast(indices, tf.int64)), scores


def check_saved_model(directory, images, expected):
    """Return the largest difference between the model's scores and those of both signatures; UserError above 1e-5."""
    with contextlib.closing(saved_model.load(directory)) as loaded:
        predicted = loaded.signatures[IMAGES_SIGNATURE]({IMAGES_KEY: flatten(images)})
        classified = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({CLASSIFY_INPUT: tf_examples.serialize(images)})
    by_label = classified[CLASSIFY_CLASSES].astype(int).argsort(axis=1)
    scores = np.take_along_axis(classified[CLASSIFY_SCORES], by_label, axis=1)
    return publish.check_outputs(expected, np.stack([predicted[SCORES_KEY], scores]), "model")


def main(argv=None):
    """Train, export as one version, and return the exit status."""
    args = parse_arguments(argv)
    data = dataset.load(args.data_dir)
    # A number that is taken fails here, not after the training.
    publish.destination(args.export_base_path).check_version_free(args.model_version, args.overwrite)
    model = train(data.train, args.training_iteration, args.seed)
    scores = model(flatten(data.test.images)).numpy()
    error_rate = float(np.mean(scores.argmax(axis=1) != data.test.labels))
    target = (args.export_base_path, args.model_version, origin(args, data, error_rate))
    with publish.publish(*target, example_inputs(data.test), warmup_requests(), args.overwrite) as version:
        write_saved_model(model, version.staging)
        difference = check_saved_model(version.staging, data.test.images[:1000], scores[:1000])
        for name in (IMAGES_SIGNATURE, saved_model.DEFAULT_SIGNATURE):
            publish.print_signature(version.staging, name)
    print(f"Largest difference between model and SavedModel, both signatures: {difference:g}")
    print(f"Error rate on {len(data.test):,} test images: {100 * error_rate:.4g} %")
    print(f"Exported to {version.directory}")
    return 0


def origin(args, data, error_rate):
    """Return where the model comes from, for the version's model.json."""
    return {
        "dataset": data.describe(),
        "testing_accuracy": 1 - error_rate,
        "step": args.training_iteration,
        "flags": vars(args),
    }


def example_inputs(split):
    """Return the inputs by which the signatures are shown to treat rows independently."""
    images = split.first(publish.CHECKED_ROWS).images
    return [
        publish.ExampleInputs(IMAGES_SIGNATURE, {IMAGES_KEY: flatten(images)}),
        publish.ExampleInputs(saved_model.DEFAULT_SIGNATURE, {CLASSIFY_INPUT: tf_examples.serialize(images)}),
    ]


def warmup_requests():
    """Return the PredictionLogs that a server sends to both signatures before the version goes live."""
    predictions = publish.blank_predictions(IMAGES_SIGNATURE, IMAGES_KEY, (NUM_PIXELS,))
    return [*predictions, tf_examples.blank_classification()]


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument(
        "--training_iteration", type=command_line.positive_int, default=1000, help="batches of 50 images to train on"
    )
    parser.add_argument("--seed", type=command_line.seed, default=0, help="seed of the order of the images")
    publish.add_flags(parser, base_path="exports/softmax_regression")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
