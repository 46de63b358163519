"""The requests that the comparison sends to the servers, and the answers that it expects."""

from dataclasses import dataclass

import numpy as np

from benchmarks.answers import Answers, check_signature
from benchmarks.protocols import FLASK, REST, Protocol, grpc_to


@dataclass(frozen=True)
class ExpectedAnswers:
    """A request for each image, bytes, in one protocol, and the scores, float32 (N, 10), expected as answers."""

    protocol: Protocol
    requests: list
    scores: np.ndarray


@dataclass(frozen=True)
class ExpectedByProtocol:
    """What to send and to expect in each protocol; `version` and `dataset` are the model's, `labels` the images'."""

    version: int
    dataset: str | None
    labels: np.ndarray
    flask: ExpectedAnswers
    rest: ExpectedAnswers
    grpc: ExpectedAnswers


def prepare(base, test, model_name):
    """Return the `ExpectedByProtocol` of the images of a `Split`, by calling the model under `base` in this process.

    `model_name` is its name at the model servers.
    Raises: UserError if it does not load, or if it is not the LSTM that takes the images.
    """
    # Imported here: the process of the load generator imports this module too, and needs no TensorFlow.
    from rnn_serving.saved_model import ServedModel

    with ServedModel(base) as model:
        check_signature(model)
        expected = Answers(model, test.images).expected
        about = (model.version, model.dataset, test.labels)
    batches = [image[np.newaxis] for image in test.images]
    requests = {FLASK: test.images, REST: batches, grpc_to(model_name): batches}
    return ExpectedByProtocol(
        *about,
        *(
            ExpectedAnswers(protocol, list(map(protocol.encode, images)), expected[protocol.kind])
            for protocol, images in requests.items()
        ),
    )
