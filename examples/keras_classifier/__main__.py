"""Train a Keras model and export it with named input and output, images -> exports/keras_classifier/<version>/.

    python -m examples.keras_classifier --data_dir data/mnist
    python -m examples.keras_classifier --ask http://127.0.0.1:8501

Keras's `.keras` files are for Keras alone. `keras.export.ExportArchive` writes a SavedModel, which a server can load.
"""

import contextlib
import os
import time

from examples.keras_classifier.ask import ask
from rnn_serving import command_line, dataset, publish, saved_model
from rnn_serving.dataset import IMAGE_SHAPE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

# Keras can write a SavedModel with the TensorFlow backend only; a keras.json in the home directory may name another.
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras

MODEL_NAME = "keras_classifier"
INPUT_KEY, OUTPUT_KEY = "images", "probabilities"
BATCH_SIZE = 128
# Images that --ask sends.
NUM_QUESTIONS = 5


def create_model():
    """Return a small convolutional network, float32 images (N, 28, 28) to probabilities (N, 10)."""
    return keras.Sequential(
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


def train(split, epochs, seed):
    """Return a model trained on a `Split`."""
    keras.utils.set_random_seed(seed)
    model = create_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    started = time.perf_counter()
    model.fit(split.images, split.labels, BATCH_SIZE, epochs, verbose=0)
    print(f"{epochs} epochs in {time.perf_counter() - started:.1f} s")
    return model


def write_saved_model(model, directory):
    """Write a SavedModel whose default signature is `images` -> `probabilities`."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(  # the first endpoint becomes the default signature
        "serve",
        # The keys of the dict name the outputs, the TensorSpec names the input.
        lambda images: {OUTPUT_KEY: model(images, training=False)},
        input_signature=[tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, INPUT_KEY)],
    )
    archive.write_out(str(directory), verbose=False)


def check_saved_model(directory, images, expected):
    """Return the largest difference between the probabilities of Keras and SavedModel; UserError above 1e-5."""
    with contextlib.closing(saved_model.load(directory)) as loaded:
        exported = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({INPUT_KEY: images})[OUTPUT_KEY]
    return publish.check_outputs(expected, exported, "Keras's model")


def main(argv=None):
    """Train and export, or ask; return the exit status."""
    args = parse_arguments(argv)
    if args.ask is not None:
        ask(args.ask, MODEL_NAME, dataset.load_test_images(args.data_dir).first(NUM_QUESTIONS))
    else:
        train_and_export(args)
    return 0


def train_and_export(args):
    """Publish a newly trained model as one version."""
    data = dataset.load(args.data_dir)
    # A number that is taken fails here, not after the training.
    publish.destination(args.export_base_path).check_version_free(args.model_version, args.overwrite)
    model = train(data.train, args.epochs, args.seed)
    probabilities = model.predict(data.test.images, BATCH_SIZE, verbose=0)
    accuracy = float((probabilities.argmax(axis=1) == data.test.labels).mean())
    examples = [publish.ExampleInputs(saved_model.DEFAULT_SIGNATURE, {INPUT_KEY: data.test.images})]
    warmup = publish.blank_predictions(saved_model.DEFAULT_SIGNATURE, INPUT_KEY, IMAGE_SHAPE)
    target = (args.export_base_path, args.model_version, origin(args, data, model, accuracy))
    with publish.publish(*target, examples, warmup, args.overwrite) as version:
        write_saved_model(model, version.staging)
        difference = check_saved_model(version.staging, data.test.images[:1000], probabilities[:1000])
        publish.print_signature(version.staging)
    print(f"Largest difference between Keras and SavedModel: {difference:g}")
    print(f"Testing Accuracy: {accuracy:.4f}")
    print(f"Exported to {version.directory}")


def origin(args, data, model, accuracy):
    """Return where the model comes from, for the version's model.json."""
    return {
        "dataset": data.describe(),
        "testing_accuracy": accuracy,
        "step": int(model.optimizer.iterations),
        "flags": vars(args),
    }


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--epochs", type=command_line.positive_int, default=2, help="passes over the training set")
    parser.add_argument("--seed", type=command_line.seed, default=0, help="seed of the weights and of the data order")
    parser.add_argument("--ask", metavar="URL", help="ask the server at this REST address, http://HOST:PORT, instead")
    publish.add_flags(parser, base_path=f"exports/{MODEL_NAME}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
