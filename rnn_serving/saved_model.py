"""Load a SavedModel and run its signatures."""

from dataclasses import dataclass

from rnn_serving import exports
from rnn_serving.command_line import first_line
from rnn_serving.quiet_tensorflow import tf

from tensorflow.python.client import pywrap_tf_session

SERVE_TAG = tf.saved_model.SERVING
# What TensorFlow 2 writes beside the signatures: an op to run once after loading, not a function of tensors.
INIT_OP_SIGNATURE = "__saved_model_init_op"
DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY

# Runs the ops in the thread of the caller: the call costs 7 us instead of 30, there is no hand-off to a pool. Large
# matrix products still use every core.
_CALLERS_THREAD = pywrap_tf_session.TF_NewBufferFromString(
    tf.compat.v1.RunOptions(inter_op_thread_pool=-1).SerializeToString()
)


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a signature; `shape` has None where any size goes, and is None if the rank is unknown."""

    key: str
    name: str
    dtype: str
    shape: tuple | None


class Signature:
    """One signature of a loaded model: inputs and outputs by key, and the call."""

    def __init__(self, session, graph, signature_def):
        """Look up the tensors once, so that a call only runs them."""
        self.method_name = signature_def.method_name
        self.inputs = {key: _tensor_info(key, info) for key, info in sorted(signature_def.inputs.items())}
        self.outputs = {key: _tensor_info(key, info) for key, info in sorted(signature_def.outputs.items())}
        self._session = session
        self._feeds = {key: _tf_output(graph, info.name) for key, info in self.inputs.items()}
        self._fetches = {key: _tf_output(graph, info.name) for key, info in self.outputs.items()}

    def __call__(self, inputs, output_keys=None):
        """Return {key: array} of the outputs asked for (None: all) from {key: array} of all inputs.

        Calls TensorFlow's C API directly, as the C++ server does: neither shapes nor dtypes are compared with the
        signature before the ops see them, and the error messages are TensorFlow's own.
        Raises: tf.errors.OpError.
        """
        keys = list(self.outputs) if output_keys is None else list(output_keys)
        values = pywrap_tf_session.TF_SessionRun_wrapper(
            self._session._session,
            _CALLERS_THREAD,
            {self._feeds[key]: value for key, value in inputs.items()},
            [self._fetches[key] for key in keys],
            [],
            None,
        )
        return dict(zip(keys, values))


def _tensor_info(key, info):
    shape = (
        None
        if info.tensor_shape.unknown_rank
        else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    )
    return TensorInfo(key, info.name, tf.as_dtype(info.dtype).name, shape)


def _tf_output(graph, name):
    return graph.get_tensor_by_name(name)._as_tf_output()


class ServedModel:
    """A loaded version of a model; use it in a `with`, which closes its session.

    What an endpoint needs of it, and what anything else handed to `flask_server.create_app` has to offer:
    `name`, `version`, `dataset`, `signature` (its `inputs` and `outputs`) and `predict`.
    """

    def __init__(self, path, signature_name=DEFAULT_SIGNATURE):
        """Load `path`, a version's directory or the newest version under it.

        Raises: exports.ExportError if there is none, if it does not load, or if it has no such signature.
        """
        self.directory = exports.newest(path)
        origin = exports.provenance(self.directory)
        self.version = exports.version_number(self.directory.resolve())
        self.name = origin.get("model", self.directory.resolve().parent.name)
        self.dataset = origin.get("dataset", {}).get("name")
        self._session, self.signatures, _ = load(self.directory)
        if signature_name not in self.signatures:
            self.close()
            raise exports.ExportError(
                f"{self.directory}: no signature {signature_name!r}; expected one of {sorted(self.signatures)}"
            )
        self.signature_name = signature_name
        self.signature = self.signatures[signature_name]

    def predict(self, inputs):
        """Return {key: array} of every output from {key: array} of every input."""
        return self.signature(inputs)

    def close(self):
        """Free what the model holds."""
        self._session.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def load(directory):
    """Load the SavedModel in a directory, TF1-style or TF2-style.

    Returns an open session, {name: Signature}, and {name: SignatureDef} with what is no function of tensors as well.

    Raises: exports.ExportError saying what is wrong with it.
    """
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    try:
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, [SERVE_TAG], str(directory))
        signatures = {
            name: Signature(session, graph, definition)
            for name, definition in meta_graph.signature_def.items()
            if name != INIT_OP_SIGNATURE
        }
    except (tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        session.close()
        raise exports.ExportError(
            f"{directory}: does not load ({first_line(error)}); expected a SavedModel with the tag {SERVE_TAG!r}"
        ) from error
    return session, signatures, dict(meta_graph.signature_def)
