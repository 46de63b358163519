"""What the endpoint answers with: exported versions, here or at an object store, or a model server behind it."""

import functools
import logging
from pathlib import Path

import numpy as np

from rnn_serving import environment, exports, tls
from rnn_serving.command_line import error_reason
from rnn_serving.endpoint.live_model import LiveModel
from rnn_serving.endpoint.stored_model import StoredModel
from rnn_serving.object_store import cache, store

log = logging.getLogger(__name__)

# Of NVIDIA's and of AMD's driver.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")


def open_model(args, concurrency, check):
    """Return the model that the flags ask for, not yet loaded; `check(version)` raises UserError for an unfit one.

    `concurrency` says how requests wait: `endpoint.threads.Threads` or `http_worker.greenlets.Greenlets`.
    """
    if args.backend:
        # Imported here and below: gRPC must not be loaded before a fork, and --help needs no TensorFlow.
        from rnn_serving.endpoint.gateway_model import GatewayModel

        backend = (args.backend, args.model_name, args.signature_name, args.request_timeout)
        return GatewayModel(*backend, concurrency, check, tls.from_flags(args))
    open_directory = functools.partial(open_version, args=args, concurrency=concurrency, check=check)
    if store.is_remote(args.model_path):
        _check_store(args.model_path)
        return StoredModel(args.model_path, args.model_version, open_directory)
    return LiveModel(versions_path(args), open_directory)


def check_model_path(args):
    """Raise UserError if the flags name no model: what is known before the workers start need not fail in each.

    Versions at an object store may be there later.
    """
    if args.backend:
        return
    if store.is_remote(args.model_path):
        _check_store(args.model_path)
    else:
        exports.newest(versions_path(args))


def _check_store(uri):
    store.require_backend(uri)
    cache.require_writable()


def import_tensorflow(args):
    """Import what workers run, once before they are forked: they share its memory, and are ready sooner.

    Does nothing for a gateway or with a GPU: neither gRPC nor CUDA survives a fork.
    """
    if args.backend or any(Path(device).exists() for device in _GPU_DEVICES):
        return
    from rnn_serving import saved_model  # noqa: F401
    from rnn_serving.endpoint import batched_model  # noqa: F401


def versions_path(args):
    """Return the directory of versions, or the version that --model_version pins.

    Raises: exports.ExportError if there is no such version.
    """
    path = Path(exports.local_path(args.model_path))
    if not args.model_version:
        return path
    found = exports.versions(path)
    if args.model_version not in found:
        raise exports.ExportError(f"{path}: no version {args.model_version}; expected one of {list(found)}")
    return found[args.model_version]


def open_version(directory, args, concurrency, check):
    """Return a version that batches concurrent requests, after it has answered once.

    Raises: UserError if it does not load or is unfit.
    """
    from rnn_serving.endpoint.batched_model import BatchedModel
    from rnn_serving.saved_model import ServedModel

    threads = args.threads or max(1, environment.available_cores() // args.workers)
    model = ServedModel(directory, args.signature_name, threads)
    try:
        check(model)
        is_batching = wants_batching(model, args.batching)
        warm_up(model, args.max_batch_size if is_batching else 1)
    except BaseException:
        model.close()
        raise
    limits = (args.max_batch_size, args.batch_timeout_micros / 1e6, args.max_enqueued_batches, args.request_timeout)
    return BatchedModel(model, concurrency, is_batching, *limits)


def wants_batching(model, batching):
    """Return whether to batch requests: "on", "off", or "auto" for a model whose rows are known to be independent."""
    if batching == "auto" and not model.has_independent_rows:
        log.warning(
            "batching is off: %s does not say that its rows are independent, as our exports do in %s; --batching on "
            "turns it on, --batching off hides this line",
            *(model.directory, exports.PROVENANCE_FILE),
        )
    return batching == "on" or (batching == "auto" and model.has_independent_rows)


def warm_up(model, batch_size):
    """Run a model on one row and on a full batch of zeros, or of empty strings: first calls are slow.

    Raises: exports.ExportError if its variables or tables are missing.
    """
    from rnn_serving.quiet_tensorflow import tf

    for rows in sorted({1, batch_size}):
        try:
            model.predict({key: _blank(info, rows) for key, info in model.signature.inputs.items()})
        except tf.errors.FailedPreconditionError as error:
            # The error of a version that is still being copied.
            raise exports.ExportError(
                f"{model.directory}: does not answer ({error_reason(error)}); expected a complete SavedModel"
            ) from error
        except tf.errors.OpError:
            return  # A model may well refuse zeros; that is no reason not to serve it.


def _blank(info, rows):
    shape = [1 if size is None else size for size in info.shape or (None,)]
    if info.shape and info.shape[0] is None:
        shape[0] = rows
    return np.full(shape, b"", object) if info.dtype == "string" else np.zeros(shape, info.dtype)
