"""Images as serialized tf.Examples, which is what the Classify call sends."""

import numpy as np

from examples.softmax_regression.model import NUM_PIXELS, flatten
from rnn_serving.clients.signature import FEATURE
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import DEFAULT_SIGNATURE

from tensorflow_serving.apis import classification_pb2, prediction_log_pb2


def to_example(pixels):
    """Return a tf.Example of the 784 pixels of one image."""
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=pixels))
    return tf.train.Example(features=tf.train.Features(feature={FEATURE: feature}))


def serialize(images):
    """Return images, float32 (N, 28, 28), as serialized tf.Examples, bytes (N,)."""
    return np.array([to_example(pixels).SerializeToString() for pixels in flatten(images)], object)


def blank_classification():
    """Return a PredictionLog that classifies a blank image."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = DEFAULT_SIGNATURE
    request.input.example_list.examples.append(to_example(np.zeros(NUM_PIXELS)))
    return prediction_log_pb2.PredictionLog(classify_log=prediction_log_pb2.ClassifyLog(request=request))
