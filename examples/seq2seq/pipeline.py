"""The pipeline: text work here, in Python, and the network on a model server."""

import contextlib
import functools
from pathlib import Path

import numpy as np
from werkzeug.exceptions import ServiceUnavailable, UnprocessableEntity

from examples.seq2seq.text import IDS_KEY, MAX_REPLY, MAX_WORDS, REPLY_IDS_KEY, REPLY_KEY, TEXT_KEY, InvalidText
from examples.seq2seq.vocabulary import Vocabulary
from rnn_serving import exports
from rnn_serving.command_line import UserError
from rnn_serving.endpoint.backend import RemoteSignature
from rnn_serving.endpoint.gateway_model import GatewayModel
from rnn_serving.saved_model import DEFAULT_SIGNATURE, TensorInfo

# The signature that clients see, which is that of the monolithic model.
SIGNATURE = RemoteSignature(
    inputs={TEXT_KEY: TensorInfo(TEXT_KEY, TEXT_KEY, "string", (None,))},
    outputs={REPLY_KEY: TensorInfo(REPLY_KEY, REPLY_KEY, "string", (None,))},
)
# While model servers roll out a new version, the old one and the new one may answer in turn.
ATTEMPTS = 3


class Pipeline:
    """Sentences in, sentences out: a served model (see `rnn_serving.saved_model.ServedModel`)."""

    def __init__(self, backends, model_name, path, timeout_s, concurrency):
        """Call `model_name` at `backends`; its versions, with their vocabularies, are under `path`.

        `concurrency` says how a call waits, `Threads` or `Greenlets`.
        """
        self._path = Path(path)
        network = (backends, model_name, DEFAULT_SIGNATURE, timeout_s, concurrency)
        self._network = GatewayModel(*network, self._check_backend)
        # Each version has numbered its words in its own way; a version never changes.
        self.vocabulary_of = functools.lru_cache(maxsize=2)(self._read_vocabulary)

    @property
    def is_ready(self):
        """Whether a model server has reported its signature."""
        return self._network.is_ready

    @contextlib.contextmanager
    def acquire(self):
        """Yield the model for one request; after its `predict`, `version` is the one that answered.

        Raises: ServiceUnavailable before a model server has reported its signature.
        """
        with self._network.acquire() as network:
            yield _PipelineRequest(self, network)

    def load(self):
        """Get the network's signature; raise UserError if no server has it or if the vocabulary is missing."""
        self._network.load()

    def refresh(self):
        """Get the signature again now and then."""
        self._network.refresh()

    def close(self):
        """Close the connections."""
        self._network.close()

    def dataset_of(self, version):
        """Return the name of the corpus that a version was trained on."""
        return exports.provenance(self._path / str(version)).get("dataset", {}).get("name")

    def _check_backend(self, backend):
        check_network(backend)
        self.vocabulary_of(backend.version)

    def _read_vocabulary(self, version):
        return Vocabulary.read((self._path / str(version) / exports.PROVENANCE_FILE).parent)


class _PipelineRequest:
    """The pipeline as one request sees it."""

    name, signature, logits = "seq2seq", SIGNATURE, ()

    def __init__(self, pipeline, network):
        self._pipeline, self._network, self.mode = pipeline, network, network.mode

    @property
    def version(self):
        return self._network.version

    @property
    def dataset(self):
        return self._pipeline.dataset_of(self.version)

    def predict(self, inputs):
        """Return {"reply": strings (N,)} for {"text": strings (N,)}, bytes both."""
        for _ in range(ATTEMPTS):
            try:
                replies = self._vocabulary().reply(inputs[TEXT_KEY], functools.partial(self._ask, self.version))
            except InvalidText as error:
                raise UnprocessableEntity(f"the model rejects 'data': {error}") from error
            except _OtherVersionError:
                continue
            # Bytes, as a SavedModel answers; the extra element keeps NumPy from choosing another dtype.
            return {REPLY_KEY: np.array([*(reply.encode() for reply in replies), None], object)[:-1]}
        raise ServiceUnavailable("the model servers are changing versions; retry shortly", retry_after=1)

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
    """The ids came from another version of the network than the vocabulary."""


def check_network(model):
    """Raise UserError unless the signature of a model takes and returns ids as `Vocabulary` makes and reads them."""
    found = [
        {key: (info.dtype, info.shape) for key, info in tensors.items()}
        for tensors in (model.signature.inputs, model.signature.outputs)
    ]
    expected = [{IDS_KEY: ("int32", (None, MAX_WORDS))}, {REPLY_IDS_KEY: ("int32", (None, MAX_REPLY))}]
    if found != expected:
        raise UserError(f"model {model.name} has the signature {found}; expected {expected}, as export.py writes it")
