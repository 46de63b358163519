"""A convolution, which has no state and a variable that is not trained."""

from rnn_serving.dataset import IMAGE_SHAPE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

INPUT_NAME = "Input_X"
INPUT_KEY, OUTPUT_KEY = "x_input", "y_output"
INPUT_SPEC = tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, INPUT_NAME)


class ConvolutionalClassifier(tf.Module):
    def __init__(self, filters=8, kernel_size=3, stride=2, seed=0):
        super().__init__()
        self.stride = stride
        self.scale = tf.Variable(1.0, trainable=False)
        shape = (kernel_size, kernel_size, 1, filters)
        self.kernel = tf.Variable(tf.random.stateless_normal(shape, (seed, 0), stddev=0.3))
        size = (-(-IMAGE_SHAPE[0] // stride)) ** 2 * filters
        self.dense = tf.Variable(tf.random.stateless_normal((size, NUM_CLASSES), (seed, 1), stddev=size**-0.5))

    def __call__(self, images):
        images = tf.expand_dims(tf.convert_to_tensor(images), -1) * self.scale
        features = tf.nn.relu(tf.nn.conv2d(images, self.kernel, self.stride, "SAME"))
        with tf.name_scope("output_layer"):
            flat = tf.reshape(features, (-1, self.dense.shape[0]))
            logits = tf.add(flat @ self.dense, tf.zeros(NUM_CLASSES), name="add")
        return logits, tf.nn.softmax(logits, name="prediction")
