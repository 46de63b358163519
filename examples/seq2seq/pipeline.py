"""The multi-staged alternative: text work here, in Python, and a model of numbers on a model server."""

import contextlib
import functools
from pathlib import Path

import numpy as np
from werkzeug.exceptions import ServiceUnavailable, UnprocessableEntity

from examples.seq2seq.text import (
    IDS_KEY,
    MAX_REPLY,
    MAX_WORDS,
    REPLY_IDS_KEY,
    REPLY_KEY,
    TEXT_KEY,
    InvalidText,
    Vocabulary,
)
from rnn_serving import exports
from rnn_serving.command_line import UserError
from rnn_serving.flask_endpoint.gateway_model import GatewayModel
from rnn_serving.saved_model import DEFAULT_SIGNATURE, TensorInfo

# Model servers that change over to a new version may answer by the old one and the new one in turn.
ATTEMPTS = 3


class TextSignature:
    """What a client sees of the pipeline: the same as of the monolithic model."""

    inputs = {TEXT_KEY: TensorInfo(TEXT_KEY, TEXT_KEY, "string", (None,))}  # noqa: RUF012
    outputs = {REPLY_KEY: TensorInfo(REPLY_KEY, REPLY_KEY, "string", (None,))}  # noqa: RUF012


class Pipeline:
    """Sentences in, sentences out, with the interface of `ServedModel` and of the endpoint's changing models."""

    name, signature = "seq2seq", TextSignature

    def __init__(self, backends, model_name, path, timeout_s):
        """Ask `backends` for the model `model_name`, whose versions, with their vocabularies, are under `path`."""
        self._network = GatewayModel(backends, model_name, DEFAULT_SIGNATURE, timeout_s, check_network)
        self._path = Path(path)
        # A version never changes; each has numbered its words in its own way.
        self.vocabulary_of = functools.lru_cache(maxsize=2)(self._read_vocabulary)

    def load(self):
        """Ask for the network's signature; raise UserError if no server has it or its vocabulary is not there."""
        self._network.load()
        self.vocabulary_of(self.version)

    def refresh(self):
        """Ask for the signature again now and then."""
        self._network.refresh()

    def close(self):
        """Close the connections."""
        self._network.close()

    @property
    def is_ready(self):
        """Whether a model server has told its signature."""
        return self._network.is_ready

    @property
    def version(self):
        """The version of the network that answered last."""
        return self._network.version

    @property
    def dataset(self):
        """The name of the corpus."""
        return exports.provenance(self._path / str(self.version)).get("dataset", {}).get("name")

    @contextlib.contextmanager
    def acquire(self):
        """Give a model for one request, whose version is the one that answered it."""
        if not self.is_ready:
            raise ServiceUnavailable("the model is still loading; expected a moment's patience", retry_after=1)
        with self._network.acquire() as network:
            yield _Request(self, network)

    def predict(self, inputs):
        """Return {"reply": strings (N,)} for {"text": strings (N,)}."""
        with self.acquire() as request:
            return request.predict(inputs)

    def _read_vocabulary(self, version):
        return Vocabulary.read((self._path / str(version) / exports.PROVENANCE_FILE).parent)


class _Request:
    """The pipeline as one request sees it."""

    def __init__(self, pipeline, network):
        self._pipeline, self._network = pipeline, network
        self.name, self.dataset, self.signature = pipeline.name, pipeline.dataset, pipeline.signature

    @property
    def version(self):
        return self._network.version

    def predict(self, inputs):
        for _ in range(ATTEMPTS):
            try:
                replies = self._vocabulary().reply(inputs[TEXT_KEY], functools.partial(self._ask, self.version))
                # Bytes, as a SavedModel answers; the extra element keeps NumPy from making another type of them.
                return {REPLY_KEY: np.array([*(reply.encode() for reply in replies), None], object)[:-1]}
            except InvalidText as error:
                raise UnprocessableEntity(f"the model refuses 'data': {error}") from error
            except _OtherVersionError:
                continue
        raise ServiceUnavailable("the model servers are changing versions; expected one of them", retry_after=1)

    def _vocabulary(self):
        try:
            return self._pipeline.vocabulary_of(self.version)
        except UserError as error:
            raise ServiceUnavailable(str(error), retry_after=1) from error

    def _ask(self, version, ids):
        replies = self._network.predict({IDS_KEY: ids})[REPLY_IDS_KEY]
        if self.version != version:
            raise _OtherVersionError
        return replies


class _OtherVersionError(Exception):
    """The numbers came from another version of the network than the vocabulary."""


def check_network(model):
    """Raise UserError unless a model takes and answers the numbers that `text` makes and reads."""
    found = [
        {key: (info.dtype, info.shape) for key, info in tensors.items()}
        for tensors in (model.signature.inputs, model.signature.outputs)
    ]
    expected = [{IDS_KEY: ("int32", (None, MAX_WORDS))}, {REPLY_IDS_KEY: ("int32", (None, MAX_REPLY))}]
    if found != expected:
        raise UserError(f"model {model.name} has the signature {found}; expected {expected}, as export.py writes it")
