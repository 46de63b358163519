"""Load a SavedModel and run its signatures."""

import contextlib
import time
from dataclasses import dataclass

import numpy as np

from rnn_serving import exports
from rnn_serving.command_line import error_reason
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

SERVE_TAG = tf.saved_model.SERVING
DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY

# Ops whose number of steps depends on the data. Without them, the size of the input bounds the time of a call.
_LOOPS = {"While", "StatelessWhile", "LoopCond", "For", "PyFunc", "EagerPyFunc", "PyFuncStateless"}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a signature; `shape` has None for any size, and is None if the rank is unknown."""

    key: str
    name: str
    dtype: str
    shape: tuple | None


class Signature:
    """One signature of a loaded model, which can be called: its inputs and outputs by key."""

    def __init__(self, session, definition, has_loop=False):
        """Look up the tensors of a SignatureDef once, so that a call only runs them."""
        self.session, self.definition, self.has_loop = session, definition, has_loop
        self.method_name = definition.method_name
        self.inputs = {key: tensor_info(key, info) for key, info in sorted(definition.inputs.items())}
        self.outputs = {key: tensor_info(key, info) for key, info in sorted(definition.outputs.items())}
        self._feeds = {key: _tf_output(session.graph, info.name) for key, info in self.inputs.items()}
        self._fetches = {key: _tf_output(session.graph, info.name) for key, info in self.outputs.items()}
        sides = ((self.inputs, self._feeds), (self.outputs, self._fetches))
        self._missing = [infos[key] for infos, handles in sides for key, handle in handles.items() if handle is None]

    def missing_tensors(self):
        """Return the inputs and outputs, TensorInfo, that the graph lacks: of ragged or sparse tensors, for example."""
        return self._missing

    def __call__(self, inputs, output_keys=None, timeout_s=None):
        """Return {key: array} of the outputs `output_keys`, by default all, from {key: array} of all inputs.

        Calls TensorFlow's C API directly, as the C++ server does: the ops check shapes and dtypes, nothing compares
        them with the signature, and the error messages are TensorFlow's own.
        Raises: tf.errors.OpError; DeadlineExceededError if the call took longer than `timeout_s`.
        """
        keys = list(self.outputs) if output_keys is None else list(output_keys)
        for info in self._missing:
            if info.key in inputs or info.key in keys:
                raise tf.errors.InvalidArgumentError(
                    None,
                    None,
                    f"Tensor {info.name}, specified in either feed_devices or fetch_devices was not found in the Graph",
                )
        started = time.monotonic()
        values = pywrap_tf_session.TF_SessionRun_wrapper(
            self.session._session,
            _run_options(timeout_s if self.has_loop else None),
            {self._feeds[key]: value for key, value in inputs.items()},
            [self._fetches[key] for key in keys],
            [],
            None,
        )
        if timeout_s is not None and time.monotonic() - started > timeout_s:
            raise tf.errors.DeadlineExceededError(None, None, "Timed out waiting for notification")
        return {key: _as_array(value) for key, value in zip(keys, values)}


def _as_array(value):
    """Return an output as an array; the C API returns Python or NumPy scalars for scalars."""
    return value if isinstance(value, np.ndarray) else np.array(value, object if isinstance(value, bytes) else None)


def merge_signatures(signatures):
    """Return one signature of {name: Signature}: all inputs and outputs under `<name>/<key>`, a shared input once."""
    first = next(iter(signatures.values()))
    definition = meta_graph_pb2.SignatureDef()
    fed = set()
    for name, signature in signatures.items():
        for key, info in signature.definition.inputs.items():
            if info.name not in fed:
                definition.inputs[f"{name}/{key}"].CopyFrom(info)
                fed.add(info.name)
        for key, info in signature.definition.outputs.items():
            definition.outputs[f"{name}/{key}"].CopyFrom(info)
    return Signature(first.session, definition, first.has_loop)


def _run_options(timeout_s):
    """Return the options of a call as TensorFlow's C API takes them.

    Without a time limit the ops run in the caller's thread instead of a pool, so the call costs 7 us instead of 30;
    large matrix products still use every core. Only a call in the pool can be cancelled half-way.
    """
    if timeout_s is None:
        return _CALLERS_THREAD
    milliseconds = max(1, int(timeout_s * 1000))
    return _buffer(tf.compat.v1.RunOptions(timeout_in_ms=milliseconds))


def _buffer(message):
    return pywrap_tf_session.TF_NewBufferFromString(message.SerializeToString())


_CALLERS_THREAD = _buffer(tf.compat.v1.RunOptions(inter_op_thread_pool=-1))


def tensor_info(key, info):
    """Return the `TensorInfo` of one tensor in a SignatureDef."""
    shape = None
    # A shape that is absent says nothing; a scalar's is there, without sizes.
    if info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    dtype = tf.as_dtype(info.dtype).base_dtype.name if info.dtype else "invalid"
    return TensorInfo(key, info.name, dtype, shape)


def _tf_output(graph, name):
    """Return the C API's handle of a tensor, None if the graph has no such operation.

    The call fails if the operation has no such output.
    """
    operation, _, index = name.partition(":")
    output = pywrap_tf_session.TF_Output()
    try:
        output.oper = graph.get_operation_by_name(operation)._c_op
    except (KeyError, ValueError):
        return None
    output.index = int(index or 0)
    return output


class ServedModel:
    """A loaded version of a model; use it in a `with`, which closes its session.

    `flask_server.create_app` takes any served model: an object with `is_ready` and `acquire()`, a context manager that
    yields a version with `name`, `version`, `dataset`, `signature` (`inputs` and `outputs`), `logits` (the outputs that
    are known to be logits), `mode` (how requests are run, for people) and `predict`. This class is both the served
    model and its only version.
    """

    is_ready, mode = True, "a model call for each request"

    def __init__(self, path, signature_name=DEFAULT_SIGNATURE, threads=0):
        """Load `path`, a version's directory or the newest version under it.

        `threads` is the number of threads within an op, 0 for one per core.
        Raises: exports.ExportError if there is no version, if it does not load, or if it has no such signature.
        """
        self.directory = exports.newest(path)
        origin = exports.provenance(self.directory)
        place = exports.version_path(self.directory)
        self.version, self.name = exports.version_number(place), origin.get("model", place.parent.name)
        self.dataset = origin.get("dataset", {}).get("name")
        known = exports.described_signature(origin, signature_name)
        self.logits, self.has_independent_rows = known.get("logits", []), known.get("independent_rows") is True
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
        self._model = load(self.directory, config=config)
        signatures = self._model.signatures
        if signature_name not in signatures:
            self.close()
            raise exports.ExportError(
                f"{self.directory}: no signature {signature_name!r}; expected one of {sorted(signatures)}"
            )
        self.signature = signatures[signature_name]
        missing = self.signature.missing_tensors()
        self._output_keys = [key for key, info in self.signature.outputs.items() if info not in missing]

    def predict(self, inputs, timeout_s=None):
        """Return {key: array} of every output that the graph has from {key: array} of every input.

        Raises: tf.errors.OpError; DeadlineExceededError if the call took longer than `timeout_s`.
        """
        return self.signature(inputs, self._output_keys, timeout_s)

    @contextlib.contextmanager
    def acquire(self):
        """Yield the model itself, which never changes."""
        yield self

    def close(self):
        """Close the session and free the model."""
        self._model.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@dataclass
class LoadedModel:
    """An open session, and the signatures that run in it by name."""

    session: tf.compat.v1.Session
    signatures: dict

    def close(self):
        """Close the session and free the model."""
        self.session.close()


def load(directory, tags=(SERVE_TAG,), config=None):
    """Return the `LoadedModel` of the SavedModel in a directory, TF1-style or TF2-style.

    `tags` select the graph to load, `config` is a tf.compat.v1.ConfigProto for the session.
    Raises: exports.ExportError with the reason if it does not load.
    """
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, list(tags), str(directory))
        has_loop = any(node.op in _LOOPS for node in _nodes(meta_graph.graph_def))
        signatures = {
            name: Signature(session, definition, has_loop) for name, definition in meta_graph.signature_def.items()
        }
    except (tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        session.close()
        raise exports.ExportError(
            f"{directory}: does not load ({error_reason(error)}); expected a SavedModel with the tag {','.join(tags)!r}"
        ) from error
    return LoadedModel(session, signatures)


def _nodes(graph_def):
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def
