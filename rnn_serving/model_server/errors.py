"""Errors as TensorFlow Serving answers them: a canonical code and a message."""

import grpc

from rnn_serving.quiet_tensorflow import tf

# C++ cuts the details of a gRPC error there (grpc_status_util.cc), because they travel in a header.
MAX_DETAILS = 1024
TRUNCATED = "...TRUNCATED"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """An answer that is an error: `code`, a grpc.StatusCode, and `message`."""

    def __init__(self, code, message):
        super().__init__(f"{code.name}: {message}")
        self.code, self.message = code, message

    @classmethod
    def of(cls, error):
        """Return an error of TensorFlow's, or one that it caused, with its own code and words."""
        cause = error if isinstance(error, tf.errors.OpError) else error.__cause__
        if isinstance(cause, tf.errors.OpError):
            return cls(_CODES[cause.error_code], cause.message)
        return cls(grpc.StatusCode.UNKNOWN, str(error))

    def details(self):
        """Return the message as a gRPC status carries it: cut after so many bytes."""
        encoded = self.message.encode("utf-8", "replace")
        if len(encoded) <= MAX_DETAILS:
            return encoded.decode()
        return encoded[:MAX_DETAILS].decode(errors="ignore") + TRUNCATED


def invalid_argument(message):
    """Return the error for a request that is wrong whatever the state of the server."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message):
    """Return the error for a model or version that is not there."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def unimplemented(message):
    """Return the error for what this server does not do."""
    return ServingError(grpc.StatusCode.UNIMPLEMENTED, message)


def failed_precondition(message):
    """Return the error for a request that the loaded model does not fit."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)
