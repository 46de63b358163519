"""What every answer is checked against: the bare model, called in this process.

TensorFlow is imported inside functions: the processes that benchmarks start import this module before they need it.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.protocols import MODEL_NAME
from rnn_serving import exports
from rnn_serving.command_line import UserError

# By kind of answer, how far it may be from the bare model's: the size of a batch changes the last bits of float32.
TOLERANCES = {"images": 0.0, "probabilities": 1e-5, "logits": 1e-3}


def are_close(kind, scores, expected):
    """Return whether scores of a kind have the shape and, within the tolerance of the kind, the values expected."""
    return scores.shape == expected.shape and np.allclose(scores, expected, rtol=0, atol=TOLERANCES[kind])


def copy_newest(model_path, directory):
    """Copy the newest version under `model_path` to a base of its own, so that all servers serve it; return the base.

    Raises: exports.ExportError if there is none.
    """
    source = exports.newest(model_path)
    base = Path(directory) / MODEL_NAME
    shutil.copytree(source, base / str(exports.version_number(exports.version_path(source))))
    return base


def open_model(stack, model_path):
    """Return (a base of its own with the newest version under `model_path`, its `ServedModel` in this process).

    `stack`, an ExitStack, removes and closes them. Raises: UserError if it is not the LSTM that takes the images.
    """
    from rnn_serving.saved_model import ServedModel

    base = copy_newest(model_path, stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
    model = stack.enter_context(ServedModel(base))
    check_signature(model)
    return base, model


def check_signature(model):
    """Raise UserError unless a `ServedModel` is the LSTM that takes the images."""
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY

    found = [*model.signature.inputs, *model.signature.outputs]
    if found != [INPUT_KEY, OUTPUT_KEY]:
        raise UserError(f"model {model.name}: the signature has {found}; expected {[INPUT_KEY, OUTPUT_KEY]}")


class Answers:
    """The images to send, float32 (N, 28, 28), and by kind what the bare model answers: `expected`, float32 (N, 10)."""

    def __init__(self, model, images):
        """Call a `ServedModel` for its answers to all images."""
        from flask_server import softmax
        from rnn_serving.model import INPUT_KEY, OUTPUT_KEY

        self.images = images
        self.call_model = lambda batch: model.predict({INPUT_KEY: batch})[OUTPUT_KEY]
        logits = self.call_model(images)
        self.expected = {"images": images, "logits": logits, "probabilities": softmax(logits)}

    def batches(self, size):
        """Return [(indexes, images)], `size` of each, that have every image at least once."""
        count = len(self.images)
        indexes = [np.arange(start, start + size) % count for start in range(0, count, size)]
        return [(chosen, self.images[chosen]) for chosen in indexes]

    def check(self, name, kind, indexes, scores):
        """Raise UserError unless scores, float32 (n, 10), are what the model answers to the images with n indexes."""
        if not are_close(kind, scores, self.expected[kind][indexes]):
            which = f"{indexes[0]} and the {len(indexes) - 1} after it"
            raise UserError(f"{name}: another answer to image {which}; expected the bare model's {kind}")
