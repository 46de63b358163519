"""The Classify call: images as serialized tf.Examples, answers as labels with scores."""

import numpy as np

from rnn_serving.clients import tfserving
from rnn_serving.clients.load import RequestError
from rnn_serving.clients.signature import FEATURE
from rnn_serving.dataset import NUM_CLASSES

from tensorflow_serving.apis import classification_pb2

DIGITS = [str(digit) for digit in range(NUM_CLASSES)]


def classify(stub, query, images):
    """Return the scores, float32 (n, 10), of images, float32 (n, 784), by a Classify call.

    Raises: RequestError.
    """
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = query.model_name
    request.model_spec.signature_name = query.signature_name
    for image in images:
        example = request.input.example_list.examples.add()
        example.features.feature[FEATURE].float_list.value.extend(image)
    response = tfserving.call(stub.Classify, request, query.timeout_s)
    return scores_by_digit(
        [[(one.label, one.score) for one in image.classes] for image in response.result.classifications]
    )


def scores_by_digit(classifications):
    """Return the scores, float32 (n, 10), of n lists of (label, score), which may come in any order.

    Raises: RequestError for an image without labels, and for a label that is not a digit.
    """
    # A label that is missing has a score below all others.
    scores = np.full((len(classifications), NUM_CLASSES), np.finfo(np.float32).min)
    for row, found in zip(scores, classifications):
        labels = [label for label, _ in found]
        if not labels or not set(labels) <= set(DIGITS):
            raise RequestError(f"answer has the labels {labels}; expected digits")
        for label, score in found:
            row[int(label)] = score
    return scores
