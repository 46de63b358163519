"""Check that a server's model takes the images of a client and answers with scores, before it is graded."""

import math
from dataclasses import dataclass

from rnn_serving.command_line import UserError
from rnn_serving.dataset import IMAGE_SHAPE, IMAGE_SIZE
from rnn_serving.tls import TLS

# The shapes in which models take one image: rows, one row of all pixels, or rows with a channel.
IMAGE_SHAPES = (IMAGE_SHAPE, (math.prod(IMAGE_SHAPE),), (*IMAGE_SHAPE, 1))
# What the API calls the tensors of Classify, and the feature of the tf.Examples that holds the pixels.
CLASSIFY_INPUT, CLASSIFY_CLASSES, CLASSIFY_SCORES = "inputs", "classes", "scores"
FEATURE, FEATURE_SHAPE = "x", (IMAGE_SIZE**2,)


@dataclass(frozen=True)
class ModelQuery:
    """Which model a client calls, with which signature, tensors and method, how many seconds it waits, and its TLS."""

    model_name: str
    signature_name: str
    input_key: str
    output_key: str
    method: str = "predict"
    timeout_s: float = 10.0
    wait_s: float = 0.0
    tls: TLS | None = None


def check_signature(signatures, query):
    """Return the shape in which the signature of `query` takes one image.

    `signatures` is {name: SignatureDef}. Raises: UserError saying how they differ from what the requests need.
    """
    if query.signature_name not in signatures:
        raise UserError(f"has no signature {query.signature_name!r}; it offers {sorted(signatures)}")
    signature = signatures[query.signature_name]
    if query.method == "classify":
        require_tensor(signature.inputs, "input", CLASSIFY_INPUT, query, "string")
        require_tensor(signature.outputs, "output", CLASSIFY_CLASSES, query, "string")
        require_tensor(signature.outputs, "output", CLASSIFY_SCORES, query, "float32")
        return FEATURE_SHAPE
    info = require_tensor(signature.inputs, "input", query.input_key, query)
    require_tensor(signature.outputs, "output", query.output_key, query)
    return image_shape(query.input_key, _dtype_name(info), _shape(info))


def require_tensor(tensors, kind, key, query, dtype=None):
    """Return the TensorInfo with a key; raise UserError unless it is there and, if `dtype` is given, of that type."""
    if key not in tensors:
        raise UserError(f"has no {kind} {key!r} in {query.signature_name!r}; it offers {sorted(tensors)}")
    if dtype and _dtype_name(tensors[key]) != dtype:
        raise UserError(f"has {_dtype_name(tensors[key])} as {key!r}; expected {dtype} to classify")
    return tensors[key]


def image_shape(key, dtype, shape):
    """Return the shape, one of `IMAGE_SHAPES`, in which an input of a signature takes one image.

    `dtype` is the input's, by name; `shape` has None where any size is accepted and is None if the rank is unknown.
    Raises: UserError if the input does not take float32 images in any of these shapes.
    """
    for candidate in IMAGE_SHAPES:
        if dtype == "float32" and (shape is None or _are_compatible(shape, (None, *candidate))):
            return candidate
    *candidates, last = (str((None, *candidate)) for candidate in IMAGE_SHAPES)
    found = "any shape" if shape is None else tuple(shape)
    raise UserError(f"takes {dtype} {found} as {key!r}; expected float32 {', '.join(candidates)} or {last}")


def _are_compatible(shape, other):
    """Return whether some batch has both shapes."""
    return len(shape) == len(other) and all(None in (a, b) or a == b for a, b in zip(shape, other))


def _dtype_name(info):
    # Imported here and below: flask_client.py, which shares this module, works without TensorFlow.
    from rnn_serving.quiet_tensorflow import tf

    return tf.as_dtype(info.dtype).name


def _shape(info):
    from rnn_serving.quiet_tensorflow import tf

    shape = tf.TensorShape(info.tensor_shape)
    return None if shape.rank is None else tuple(shape.as_list())
