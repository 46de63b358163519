"""Load a SavedModel and run its signatures."""

import time
from dataclasses import dataclass

import numpy as np

from rnn_serving import exports
from rnn_serving.command_line import first_line
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

SERVE_TAG = tf.saved_model.SERVING
DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY

# Ops whose number of steps the data decides. What has none of them takes a time that its input's size bounds.
_LOOPS = {"While", "StatelessWhile", "LoopCond", "For", "PyFunc", "EagerPyFunc", "PyFuncStateless"}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a signature; `shape` has None where any size goes, and is None if the rank is unknown."""

    key: str
    name: str
    dtype: str
    shape: tuple | None


class Signature:
    """One signature of a loaded model: inputs and outputs by key, and the call."""

    def __init__(self, session, definition, has_loop=False):
        """Look up the tensors of a SignatureDef once, so that a call only runs them."""
        self.session, self.definition, self.has_loop = session, definition, has_loop
        self.method_name = definition.method_name
        self.inputs = {key: tensor_info(key, info) for key, info in sorted(definition.inputs.items())}
        self.outputs = {key: tensor_info(key, info) for key, info in sorted(definition.outputs.items())}
        self._feeds = {key: _tf_output(session.graph, info.name) for key, info in self.inputs.items()}
        self._fetches = {key: _tf_output(session.graph, info.name) for key, info in self.outputs.items()}

    def __call__(self, inputs, output_keys=None, timeout_s=None):
        """Return {key: array} of the outputs asked for (None: all) from {key: array} of all inputs.

        Calls TensorFlow's C API directly, as the C++ server does: neither shapes nor dtypes are compared with the
        signature before the ops see them, and the error messages are TensorFlow's own.
        Raises: tf.errors.OpError; DeadlineExceededError if the call took longer than `timeout_s`.
        """
        keys = list(self.outputs) if output_keys is None else list(output_keys)
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
    """Return an output as an array; of a scalar the C API makes a Python or NumPy scalar."""
    return value if isinstance(value, np.ndarray) else np.array(value, object if isinstance(value, bytes) else None)


def joined(signatures):
    """Return one signature with the inputs of the first and the outputs of all of {name: Signature}, `<name>/<key>`."""
    first = next(iter(signatures.values()))
    definition = meta_graph_pb2.SignatureDef()
    for key, info in first.definition.inputs.items():
        definition.inputs[key].CopyFrom(info)
    for name, signature in signatures.items():
        for key, info in signature.definition.outputs.items():
            definition.outputs[f"{name}/{key}"].CopyFrom(info)
    return Signature(first.session, definition, first.has_loop)


def _run_options(timeout_s):
    """Return the options of a call as TensorFlow's C API takes them.

    Without a time limit the ops run in the thread of the caller: the call costs 7 us instead of 30, and there is no
    hand-off to a pool; large matrix products still use every core. Only a call in the pool can be given up half-way.
    """
    if timeout_s is None:
        return _CALLERS_THREAD
    milliseconds = max(1, int(timeout_s * 1000))
    return _buffer(tf.compat.v1.RunOptions(timeout_in_ms=milliseconds))


def _buffer(message):
    return pywrap_tf_session.TF_NewBufferFromString(message.SerializeToString())


_CALLERS_THREAD = _buffer(tf.compat.v1.RunOptions(inter_op_thread_pool=-1))


def tensor_info(key, info):
    """Return the `TensorInfo` of one of a SignatureDef's tensors."""
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    dtype = tf.as_dtype(info.dtype).name if info.dtype else "invalid"
    return TensorInfo(key, info.name, dtype, shape)


def _tf_output(graph, name):
    """Return the C API's handle of a tensor; whether the operation has such an output is for the call to find out."""
    operation, _, index = name.partition(":")
    output = pywrap_tf_session.TF_Output()
    output.oper = graph.get_operation_by_name(operation)._c_op
    output.index = int(index or 0)
    return output


class ServedModel:
    """A loaded version of a model; use it in a `with`, which closes its session.

    What an endpoint needs of it, and what anything else handed to `flask_server.create_app` has to offer:
    `name`, `version`, `dataset`, `signature` (its `inputs` and `outputs`) and `predict`.
    """

    def __init__(self, path, signature_name=DEFAULT_SIGNATURE, threads=0):
        """Load `path`, a version's directory or the newest version under it.

        `threads` is how many share the work of one op, 0 for one a core.
        Raises: exports.ExportError if there is none, if it does not load, or if it has no such signature.
        """
        self.directory = exports.newest(path)
        origin = exports.provenance(self.directory)
        self.version = exports.version_number(self.directory.resolve())
        self.name = origin.get("model", self.directory.resolve().parent.name)
        self.dataset = origin.get("dataset", {}).get("name")
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
        self._model = load(self.directory, config=config)
        signatures = self._model.signatures
        if signature_name not in signatures:
            self.close()
            raise exports.ExportError(
                f"{self.directory}: no signature {signature_name!r}; expected one of {sorted(signatures)}"
            )
        self.signature = signatures[signature_name]

    def predict(self, inputs, timeout_s=None):
        """Return {key: array} of every output from {key: array} of every input.

        Raises: tf.errors.OpError; DeadlineExceededError if it took longer than `timeout_s`.
        """
        return self.signature(inputs, timeout_s=timeout_s)

    def close(self):
        """Free what the model holds."""
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
        """Free what the model holds."""
        self.session.close()


def load(directory, tags=(SERVE_TAG,), config=None):
    """Return the `LoadedModel` of the SavedModel in a directory, TF1-style or TF2-style.

    `tags` are those of the graph to load, `config` a tf.compat.v1.ConfigProto for the session.
    Raises: exports.ExportError saying what is wrong with it.
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
            f"{directory}: does not load ({first_line(error)}); expected a SavedModel with the tag {','.join(tags)!r}"
        ) from error
    return LoadedModel(session, signatures)


def _nodes(graph_def):
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def
