"""A Keras 3 model to a SavedModel with named input and output, and a question to the server that has it.

    python examples/keras_classifier.py --data_dir data/mnist
    scripts/serve_tfserving.sh --port=8500 --model_name=keras_classifier --model_base_path=exports/keras_classifier &
    python examples/keras_classifier.py --ask http://127.0.0.1:8501

Keras's own `.keras` file is for Keras. What a server loads is written by `keras.export.ExportArchive`: a SavedModel
with an endpoint whose input and output have names of your choice.
"""

import contextlib
import os
import time
from pathlib import Path

import requests

from rnn_serving import command_line, dataset, exporting, exports, latency, saved_model
from rnn_serving.command_line import UserError, request_failure
from rnn_serving.dataset import IMAGE_SHAPE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

# Only with TensorFlow beneath it can Keras write a SavedModel; a keras.json in the home directory may say otherwise.
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras

MODEL_NAME = "keras_classifier"
INPUT_KEY, OUTPUT_KEY = "images", "probabilities"
BATCH_SIZE = 128
# What --ask sends, and the seconds it waits.
NUM_QUESTIONS, TIMEOUT_S = 5, 10


def main(argv=None):
    """Train and export, or ask; return the exit status."""
    args = parse_arguments(argv)
    if args.ask is not None:
        return ask(args.ask, dataset.load_test_images(args.data_dir, NUM_QUESTIONS))
    data = dataset.load(args.data_dir)
    version = exports.free_version(args.export_base_path, args.model_version, args.overwrite)
    model = train(data.train, args.epochs, args.seed)
    probabilities = model.predict(data.test.images, BATCH_SIZE, verbose=0)
    accuracy = float((probabilities.argmax(axis=1) == data.test.labels).mean())
    with exports.publishing(args.export_base_path, version, args.overwrite) as staging:
        write_version(staging, args, version, model, data, accuracy)
        difference = largest_difference(staging, data.test.images[:1000], probabilities[:1000])
    target = Path(args.export_base_path) / str(version)
    exporting.print_signature(target)
    print(f"Largest difference between Keras and SavedModel: {difference:g}")
    print(f"Testing Accuracy: {accuracy:.4f}")
    print(f"Exported to {target}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--epochs", type=command_line.positive_int, default=2, help="times through the training set")
    parser.add_argument("--seed", type=command_line.seed, default=0, help="seed of weights and order")
    parser.add_argument("--ask", metavar="URL", help="ask the server at its REST address instead, http://HOST:PORT")
    exporting.add_flags(parser, base_path=f"exports/{MODEL_NAME}")
    return parser.parse_args(argv)


def train(split, epochs, seed):
    """Return a small convolutional network, float32 (N, 28, 28) to probabilities (N, 10), that has learned a Split."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            keras.layers.Reshape((*IMAGE_SHAPE, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(NUM_CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    started = time.perf_counter()
    model.fit(split.images, split.labels, BATCH_SIZE, epochs, verbose=0)
    print(f"{epochs} epochs in {time.perf_counter() - started:.1f} s")
    return model


def write_version(staging, args, version, model, data, accuracy):
    """Write the SavedModel and what goes with it into the staging directory."""
    origin = {
        "dataset": {"name": data.name, "hash": data.content_hash, "train": len(data.train), "test": len(data.test)},
        "testing_accuracy": accuracy,
        "step": int(model.optimizer.iterations),
        "flags": vars(args),
    }
    warmup = exporting.blank_predictions(saved_model.DEFAULT_SIGNATURE, INPUT_KEY, IMAGE_SHAPE)
    with exporting.writing(staging):
        write_saved_model(model, staging)
        exporting.write_warmup_requests(staging, args.export_base_path, warmup)
        exporting.write_provenance(staging, args.export_base_path, version, origin)


def write_saved_model(model, directory):
    """Write the SavedModel; its first endpoint is the default signature."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        # The key of a dict that it returns is the name of an output, the TensorSpec's name that of the input.
        lambda images: {OUTPUT_KEY: model(images, training=False)},
        input_signature=[tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, INPUT_KEY)],
    )
    archive.write_out(str(directory), verbose=False)


def largest_difference(directory, images, expected):
    """Return the largest difference between Keras's probabilities and those that the SavedModel answers."""
    with contextlib.closing(saved_model.load(directory)) as loaded:
        exported = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({INPUT_KEY: images})[OUTPUT_KEY]
    return exporting.largest_difference(expected, exported, "Keras's model")


def ask(server, split):
    """Ask the server for the digits on a few images, print what it says, and return the exit status."""
    url = f"{server.rstrip('/')}/v1/models/{MODEL_NAME}:predict"
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy stands between a client and a server on the same machine
            answer = session.post(url, json={"instances": split.images.tolist()}, timeout=TIMEOUT_S)
    except (requests.RequestException, ValueError) as error:
        raise UserError(f"{url}: {request_failure(error)}; expected the REST address of a server") from error
    if answer.status_code != 200:
        raise UserError(f"{url}: {latency.status_of(answer)}; expected 200")
    for label, probabilities in zip(split.labels, answer.json()["predictions"]):
        digit = max(range(NUM_CLASSES), key=lambda digit: probabilities[digit])
        print(f"The image of a {label} is a {digit} with probability {probabilities[digit]:.4f}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
