"""What a worker of the endpoint answers with: exported versions, or a model server behind it."""

from pathlib import Path

import numpy as np

from rnn_serving import environment, exports
from rnn_serving.command_line import first_line
from rnn_serving.flask_endpoint.live_model import LiveModel


def open_model(args, check):
    """Return the model that the flags ask for, not yet loaded; `check(model)` raises UserError for an unfit one."""
    if args.backend:
        # Imported here and below: TensorFlow is loaded by the workers, after the fork, which it would not survive.
        from rnn_serving.flask_endpoint.gateway_model import GatewayModel

        return GatewayModel(args.backend, args.model_name, args.signature_name, args.request_timeout, check)
    return LiveModel(versions_path(args), lambda directory: open_version(directory, args, check))


def versions_path(args):
    """Return the directory of versions, or the version that --model_version pins.

    Raises: exports.ExportError if there is no such version.
    """
    path = Path(args.model_path)
    if not args.model_version:
        return path
    found = exports.versions(path)
    if args.model_version not in found:
        raise exports.ExportError(f"{path}: no version {args.model_version}; expected one of {list(found)}")
    return found[args.model_version]


def open_version(directory, args, check):
    """Return a version that joins concurrent requests, after it has answered once.

    Raises: UserError if it does not load or is unfit.
    """
    from rnn_serving.flask_endpoint.batched_model import BatchedModel
    from rnn_serving.saved_model import ServedModel

    threads = args.threads or max(1, environment.available_cores() // args.workers)
    model = ServedModel(directory, args.signature_name, threads)
    try:
        check(model)
        warm_up(model, args.max_batch_size)
    except BaseException:
        model.close()
        raise
    return BatchedModel(
        model,
        args.max_batch_size,
        args.batch_timeout_micros / 1e6,
        args.max_enqueued_batches,
        args.request_timeout,
    )


def warm_up(model, batch_size):
    """Ask a model for one row and for a full batch of zeros, or of empty strings: first calls are slow.

    Raises: exports.ExportError if it lacks what it needs to answer.
    """
    from rnn_serving.quiet_tensorflow import tf

    for rows in (1, batch_size):
        try:
            model.predict({key: _blank(info, rows) for key, info in model.signature.inputs.items()})
        except tf.errors.FailedPreconditionError as error:
            # What a version says whose variables or tables are missing, as while it is being copied.
            raise exports.ExportError(
                f"{model.directory}: does not answer ({first_line(error)}); expected a whole SavedModel"
            ) from error
        except tf.errors.OpError:
            return  # It may well refuse zeros; that is no reason not to serve it.


def _blank(info, rows):
    shape = [1 if size is None else size for size in info.shape or (None,)]
    if info.shape and info.shape[0] is None:
        shape[0] = rows
    return np.full(shape, b"", object) if info.dtype == "string" else np.zeros(shape, info.dtype)
