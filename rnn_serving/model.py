"""The static-unrolled LSTM, and the names that its tensors and its signature carry."""

import math
from typing import Annotated, Literal

from rnn_serving.dataset import IMAGE_SHAPE, IMAGE_SIZE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

INPUT_NAME = "Input_X"  # the placeholder; its tensor is Input_X:0
LOGITS_SCOPE = "output_layer"  # the logits are output_layer/add:0
LOGITS_NAME = f"{LOGITS_SCOPE}/add:0"
PREDICTION_NAME = "prediction"  # the probabilities are prediction:0
INPUT_KEY, OUTPUT_KEY = "x_input", "y_output"

# Added to the forget gate, so that an untrained cell keeps its state (Jozefowicz et al., 2015).
FORGET_BIAS = 1.0

INPUT_SPEC = tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, INPUT_NAME)


class LSTMClassifier(tf.Module):
    """Read an image row by row with one LSTM layer and classify it by the last hidden state.

    The 28 steps are unrolled in Python: the graph has no loop, and the same call builds it for training (in a
    `tf.function`) and for export (in a `tf.Graph`).

    To try another network, edit this class and nothing else: its constructor arguments are flags of train_lstm.py.
    """

    def __init__(
        self,
        num_hidden: Annotated[int, "units of the LSTM"] = 128,
        output_init: Annotated[
            Literal["glorot", "normal"],
            "initial output weights: scaled to the layer's width, or N(0, 1) as in the article",
        ] = "glorot",
        seed=0,
    ):
        """Create the variables, float32; the same `seed` gives the same values."""
        super().__init__(name="lstm_classifier")
        self.num_hidden = num_hidden
        gates = 4 * num_hidden
        kernels = _glorot(IMAGE_SIZE + num_hidden, gates, (seed, 0))
        self.kernel = tf.Variable(kernels[:IMAGE_SIZE], name="lstm/kernel")
        self.recurrent_kernel = tf.Variable(kernels[IMAGE_SIZE:], name="lstm/recurrent_kernel")
        self.bias = tf.Variable(tf.zeros(gates), name="lstm/bias")
        if output_init == "normal":
            weights = tf.random.stateless_normal((num_hidden, NUM_CLASSES), (seed, 1))
            biases = tf.random.stateless_normal((NUM_CLASSES,), (seed, 2))
        else:
            weights, biases = _glorot(num_hidden, NUM_CLASSES, (seed, 1)), tf.zeros(NUM_CLASSES)
        self.output_weights = tf.Variable(weights, name=f"{LOGITS_SCOPE}/weights")
        self.output_biases = tf.Variable(biases, name=f"{LOGITS_SCOPE}/biases")

    def __call__(self, images):
        """Return logits and probabilities, float32 (N, 10) each, of images, float32 (N, 28, 28)."""
        images = tf.convert_to_tensor(images)
        images.shape.assert_is_compatible_with(INPUT_SPEC.shape)
        with tf.name_scope("lstm"):
            hidden = cell = tf.zeros((tf.shape(images)[0], self.num_hidden))
            for row_gates in tf.unstack(self._input_gates(images), IMAGE_SIZE):
                hidden, cell = self._step(row_gates, hidden, cell)
        with tf.name_scope(LOGITS_SCOPE):
            logits = tf.add(tf.matmul(hidden, self.output_weights), self.output_biases, name="add")
        return logits, tf.nn.softmax(logits, name=PREDICTION_NAME)

    def _input_gates(self, images):
        """Return the contribution of every image row to the gates, (28, N, 4 * num_hidden).

        It does not depend on the state, so one matrix product computes it for all steps: a single image takes a third
        less time than with a product of row and state in each step.
        """
        rows = tf.reshape(tf.transpose(images, (1, 0, 2)), (-1, IMAGE_SIZE))
        gates = tf.nn.bias_add(tf.matmul(rows, self.kernel), self.bias)
        return tf.reshape(gates, (IMAGE_SIZE, -1, 4 * self.num_hidden))

    def _step(self, row_gates, hidden, cell):
        """Advance the state, (N, num_hidden) twice, by one image row's gates, (N, 4 * num_hidden)."""
        gates = row_gates + tf.matmul(hidden, self.recurrent_kernel)
        input_gate, candidate, forget_gate, output_gate = tf.split(gates, 4, axis=1)
        cell = cell * tf.sigmoid(forget_gate + FORGET_BIAS) + tf.sigmoid(input_gate) * tf.tanh(candidate)
        return tf.tanh(cell) * tf.sigmoid(output_gate), cell


def _glorot(rows, columns, seed):
    """Draw a (rows, columns) matrix that preserves the variance of its input (Glorot & Bengio, 2010)."""
    limit = math.sqrt(6 / (rows + columns))
    return tf.random.stateless_uniform((rows, columns), seed, -limit, limit)
