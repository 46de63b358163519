"""Which tensors of a model's signature a request feeds and fetches, and what becomes of the outputs."""

import numpy as np
from werkzeug.exceptions import UnprocessableEntity

from rnn_serving.command_line import UserError
from rnn_serving.endpoint.tensor_from_json import numpy_type

POSTPROCESS = ("softmax", "none")


def select_tensors(model, input_key=None, output_key=None):
    """Return the input and the output of a model's signature, each by its key or, without one, the only one.

    Raises: UserError if there is no such tensor, or if JSON cannot hold its type.
    """
    if len(model.signature.inputs) != 1:
        raise UserError(f"model {model.name} has inputs {sorted(model.signature.inputs)}; expected one input")
    selected = (
        _select_tensor(model, "input", model.signature.inputs, input_key),
        _select_tensor(model, "output", model.signature.outputs, output_key),
    )
    for info in selected:
        if info in model.signature.missing_tensors():
            raise UserError(f"model {model.name} has no tensor {info.name!r} for {info.key!r}; expected a dense tensor")
        if numpy_type(info.dtype) is None:
            raise UserError(f"model {model.name} has {info.key!r} of {info.dtype}; expected numbers or strings")
    return selected


def _select_tensor(model, kind, tensors, key):
    if key is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if key not in tensors:
        wanted = repr(key) if key else f"one {kind}, or --{kind}_key to choose"
        raise UserError(f"model {model.name} has {kind}s {sorted(tensors)}; expected {wanted}")
    return tensors[key]


def check_model(model, input_key, output_key, postprocess):
    """Raise UserError unless the endpoint can serve a version of a model in the way that the flags ask for."""
    _, target = select_tensors(model, input_key, output_key)
    if postprocess == "softmax" and numpy_type(target.dtype).kind not in "fiu":
        raise UserError(f"model {model.name} has {target.key!r} of {target.dtype}; expected numbers for a softmax")


def wants_softmax(version, info, postprocess):
    """Return whether an output gets a softmax: as `postprocess` says, by default if it is known to be logits."""
    return postprocess == "softmax" or (postprocess is None and info.key in version.logits)


def require_finite(outputs):
    """Raise UnprocessableEntity if outputs are floats that JSON cannot hold."""
    if outputs.dtype.kind == "f" and not np.isfinite(outputs).all():
        raise UnprocessableEntity(
            "the model's outputs for 'data' are not finite, which JSON cannot hold; expected numbers"
        )


def finite_scores(scores):
    """Return scores of any numeric type as floats with at least one dimension.

    Raises: UnprocessableEntity if a row has no finite maximum.
    """
    scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
    scores = scores if scores.ndim else scores.reshape(1)
    if not np.isfinite(scores.max(axis=-1)).all():
        raise UnprocessableEntity(
            "the model's scores for 'data' are not finite; expected values in the range of its training data"
        )
    return scores
