"""Two LSTM layers in a list of modules, and constructor arguments of several types."""

from typing import Annotated, Literal

from rnn_serving.dataset import IMAGE_SHAPE, IMAGE_SIZE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

INPUT_NAME = "Input_X"
INPUT_KEY, OUTPUT_KEY = "x_input", "y_output"
INPUT_SPEC = tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, INPUT_NAME)


class LSTMClassifier(tf.Module):
    def __init__(
        self,
        num_hidden=16,
        layers: Annotated[int, "LSTM layers"] = 2,
        forget_bias=1.0,
        readout: Annotated[Literal["last", "mean"], "state that is classified"] = "last",
        peephole: bool = False,
        seed=0,
    ):
        super().__init__()
        sizes = [IMAGE_SIZE] + [num_hidden] * (layers - 1)
        self.layers = [LSTM(size, num_hidden, forget_bias, (seed, i)) for i, size in enumerate(sizes)]
        self.readout, self.peephole = readout, peephole
        self.dense = {"kernel": tf.Variable(tf.random.stateless_normal((num_hidden, NUM_CLASSES), (seed, 99)))}

    def __call__(self, images):
        rows = tf.unstack(tf.convert_to_tensor(images), IMAGE_SIZE, axis=1)
        for layer in self.layers:
            rows = layer(rows)
        state = rows[-1] if self.readout == "last" else tf.add_n(rows) / len(rows)
        with tf.name_scope("output_layer"):
            logits = tf.add(state @ self.dense["kernel"], tf.zeros(NUM_CLASSES), name="add")
        return logits, tf.nn.softmax(logits, name="prediction")


class LSTM(tf.Module):
    def __init__(self, inputs, units, forget_bias, seed):
        super().__init__()
        self.units, self.forget_bias = units, forget_bias
        self.kernel = tf.Variable(tf.random.stateless_normal((inputs + units, 4 * units), seed, stddev=0.2))

    def __call__(self, rows):
        hidden = cell = tf.zeros((tf.shape(rows[0])[0], self.units))
        states = []
        for row in rows:
            i, j, f, o = tf.split(tf.concat([row, hidden], 1) @ self.kernel, 4, axis=1)
            cell = cell * tf.sigmoid(f + self.forget_bias) + tf.sigmoid(i) * tf.tanh(j)
            hidden = tf.tanh(cell) * tf.sigmoid(o)
            states.append(hidden)
        return states
