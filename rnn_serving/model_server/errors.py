"""Errors as TensorFlow Serving reports them: a canonical code and a message."""

import grpc

from rnn_serving.quiet_tensorflow import tf

# The C++ server cuts the details of a gRPC error to this many bytes, as they travel in a header (grpc_status_util.cc).
MAX_DETAILS = 1024
TRUNCATED = "...TRUNCATED"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A request that fails with `code`, a grpc.StatusCode, and `message`."""

    def __init__(self, code, message):
        super().__init__(f"{code.name}: {message}")
        self.code, self.message = code, message

    @classmethod
    def of(cls, error):
        """Return the ServingError for an exception; a TensorFlow error or cause keeps its code and message."""
        cause = error if isinstance(error, tf.errors.OpError) else error.__cause__
        if isinstance(cause, tf.errors.OpError):
            return cls(_CODES[cause.error_code], cause.message)
        return cls(grpc.StatusCode.UNKNOWN, str(error))

    def details(self):
        """Return the message as a gRPC status carries it, at most MAX_DETAILS bytes and a mark where it was cut."""
        encoded = self.message.encode("utf-8", "replace")
        if len(encoded) <= MAX_DETAILS:
            return encoded.decode()
        return encoded[:MAX_DETAILS].decode(errors="ignore") + TRUNCATED


def invalid_argument(message):
    """Return the error for a request that is wrong whatever the state of the server."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message):
    """Return the error for a model or version that does not exist."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def unimplemented(message):
    """Return the error for a feature that this server does not have."""
    return ServingError(grpc.StatusCode.UNIMPLEMENTED, message)


def failed_precondition(message):
    """Return the error for a request that does not fit the loaded model."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)
