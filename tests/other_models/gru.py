"""A GRU under another class name, with other variables and another constructor argument."""

from rnn_serving.dataset import IMAGE_SHAPE, IMAGE_SIZE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

INPUT_NAME = "Input_X"
INPUT_KEY, OUTPUT_KEY = "x_input", "y_output"
INPUT_SPEC = tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, INPUT_NAME)


class GRUClassifier(tf.Module):
    def __init__(self, units=24, seed=0):
        super().__init__()
        self.units = units
        self.gates = weights(IMAGE_SIZE + units, 2 * units, (seed, 0))
        self.candidate = weights(IMAGE_SIZE + units, units, (seed, 1))
        self.dense = weights(units, NUM_CLASSES, (seed, 2))

    def __call__(self, images):
        images = tf.convert_to_tensor(images)
        state = tf.zeros((tf.shape(images)[0], self.units))
        for row in tf.unstack(images, IMAGE_SIZE, axis=1):
            update, reset = tf.split(tf.sigmoid(tf.concat([row, state], 1) @ self.gates), 2, axis=1)
            candidate = tf.tanh(tf.concat([row, reset * state], 1) @ self.candidate)
            state = update * state + (1 - update) * candidate
        with tf.name_scope("output_layer"):
            logits = tf.add(state @ self.dense, tf.zeros(NUM_CLASSES), name="add")
        return logits, tf.nn.softmax(logits, name="prediction")


def weights(rows, columns, seed):
    return tf.Variable(tf.random.stateless_normal((rows, columns), seed, stddev=rows**-0.5))
