"""What compare_latency.py asks the servers, what they must answer, and how a turn of answers is graded.

No TensorFlow before a function is called: the process of the load generator imports this module as well.
"""

from dataclasses import dataclass

import numpy as np
import orjson

from rnn_serving.command_line import UserError

MODEL_NAME = "mnist"
# How far an answer's probabilities, and its logits, may be from the bare model's: what a batch changes of float32.
PROBABILITY_TOLERANCE, LOGIT_TOLERANCE = 1e-5, 1e-3


@dataclass(frozen=True)
class Paper:
    """An exam in one protocol: a request for each image, bytes, and the scores, float32 (N, 10), that answer it."""

    requests: list
    decode: object
    expected: np.ndarray
    tolerance: float


@dataclass(frozen=True)
class Exam:
    """The images as each protocol asks for them; `version` and `dataset` are the model's, `labels` the images'."""

    version: int
    dataset: str | None
    labels: np.ndarray
    flask: Paper
    rest: Paper
    grpc: Paper


def prepared(base, test):
    """Return the `Exam` of a data set's `Split` for the model under `base`, which is asked bare, in this process.

    Raises: UserError if it does not load, or if it is not the LSTM that takes the images.
    """
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.saved_model import ServedModel

    with ServedModel(base) as model:
        signature = model.signature
        if INPUT_KEY not in signature.inputs or OUTPUT_KEY not in signature.outputs:
            found = f"from {sorted(signature.inputs)} to {sorted(signature.outputs)}"
            raise UserError(f"model {model.name} goes {found}; expected from {INPUT_KEY!r} to {OUTPUT_KEY!r}")
        logits = model.predict({INPUT_KEY: test.images})[OUTPUT_KEY]
        about = (model.version, model.dataset, test.labels)
    flask, rest, grpc = zip(*map(_requests, test.images))
    return Exam(
        *about,
        Paper(flask, _flask_scores, _softmax(logits), PROBABILITY_TOLERANCE),
        Paper(rest, _rest_scores, logits, LOGIT_TOLERANCE),
        Paper(grpc, _grpc_scores, logits, LOGIT_TOLERANCE),
    )


def _requests(image):
    """Return one image, float32 (28, 28), as the Flask endpoint, REST and gRPC take it."""
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf
    from rnn_serving.saved_model import DEFAULT_SIGNATURE

    from tensorflow_serving.apis import predict_pb2

    batch = image[np.newaxis]
    message = predict_pb2.PredictRequest(output_filter=[OUTPUT_KEY])
    message.model_spec.name, message.model_spec.signature_name = MODEL_NAME, DEFAULT_SIGNATURE
    message.inputs[INPUT_KEY].CopyFrom(tf.make_tensor_proto(batch))
    rest = {"signature_name": DEFAULT_SIGNATURE, "inputs": {INPUT_KEY: batch}}
    return _json({"data": image}), _json(rest), message.SerializeToString()


def _json(value):
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _flask_scores(body):
    return np.array(orjson.loads(body)["y"], np.float32)


def _rest_scores(body):
    from rnn_serving.model import OUTPUT_KEY

    outputs = orjson.loads(body)["outputs"]
    # A signature with one output answers with its value alone.
    return np.array(outputs[OUTPUT_KEY] if isinstance(outputs, dict) else outputs, np.float32)


def _grpc_scores(body):
    from google.protobuf.message import DecodeError

    from rnn_serving.model import OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow_serving.apis import predict_pb2

    try:
        outputs = dict(predict_pb2.PredictResponse.FromString(body).outputs)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return tf.make_ndarray(outputs[OUTPUT_KEY])


@dataclass
class Turn:
    """What one turn of load measured: seconds of each answer, errors, and which images were asked and got wrong.

    `different` counts the answers that are not the bare model's, `busy` is the load generator's share of a core.
    """

    round: int
    elapsed_s: float
    latencies_s: list
    errors: list
    different: int
    asked: set
    not_right: set
    busy: float

    @property
    def throughput_rps(self):
        """Answers a second."""
        return len(self.latencies_s) / self.elapsed_s

    @property
    def p50_ms(self):
        """The median latency in milliseconds, None without an answer."""
        return 1000 * float(np.median(self.latencies_s)) if self.latencies_s else None


class Grader:
    """Compares the answers of one server with a `Paper`; equal bytes are looked at once."""

    def __init__(self, paper, labels):
        self._paper, self._labels, self._verdicts = paper, labels, {}
        self.num_images = len(paper.requests)

    def grade(self, load, turn):
        """Return the `Turn`, number `turn`, of a `load_generator.Load`."""
        verdicts = [(index, *self._verdict(index, answer)) for index, _, answer in load.answered]
        return Turn(
            *(turn, load.elapsed_s, load.latencies_s(), load.errors),
            sum(not is_same for _, is_same, _ in verdicts),
            {index for index, _, _ in verdicts},
            {index for index, _, is_right in verdicts if not is_right},
            load.busy,
        )

    def _verdict(self, index, answer):
        """Return (whether it is the model's answer, whether it is the digit on the image)."""
        key = (index, answer)
        if key not in self._verdicts:
            self._verdicts[key] = self._look(index, answer)
        return self._verdicts[key]

    def _look(self, index, answer):
        try:
            scores = self._paper.decode(answer)
        except (ValueError, KeyError, TypeError):
            return False, False
        expected = self._paper.expected[index]
        if scores.shape != (1, *expected.shape):
            return False, False
        is_same = np.allclose(scores[0], expected, rtol=0, atol=self._paper.tolerance)
        return bool(is_same), bool(scores[0].argmax() == self._labels[index])
