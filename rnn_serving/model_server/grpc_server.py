"""PredictionService and ModelService on a gRPC port."""

import functools
import os
from concurrent import futures

import grpc

from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.metadata import get_model_metadata
from rnn_serving.model_server.predict import predict

from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

# Python's default of 4 MiB is 1,300 images; the C++ server takes what protobuf can hold.
MAX_MESSAGE_BYTES = 2**31 - 1
# Trailing, because initial metadata sent early would forbid the client's retries.
SERVED_BY = (("x-served-by", "rnn_serving.model_server"),)


def create_server(models, address, max_threads=0):
    """Return (server, port) for `models`, a `models.Models`, not yet started; port 0 takes a free one.

    Raises: RuntimeError if the port is taken.
    """
    threads = max_threads or 4 * (os.cpu_count() or 1)
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Two servers on one port would each get some of the calls, and nobody an error.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(models), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), server)
    return server, server.add_insecure_port(address)


def answering(method):
    """Turn `method(self, request, context)` that raises ServingError into a gRPC handler."""

    @functools.wraps(method)
    def handler(self, request, context):
        context.set_trailing_metadata(SERVED_BY)
        try:
            return method(self, request, context)
        except ServingError as error:
            return context.abort(error.code, error.details())

    return handler


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """What clients ask of a model."""

    def __init__(self, models):
        self._models = models

    @answering
    def Predict(self, request, context):
        """Run a signature on tensors."""
        return predict(self._models, request, context.time_remaining())

    @answering
    def GetModelMetadata(self, request, context):
        """Tell the signatures of a model."""
        return get_model_metadata(self._models, request)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """What operators ask of the server."""

    def __init__(self, models):
        self._models = models

    @answering
    def GetModelStatus(self, request, context):
        """Tell which versions of a model there are, and what state each is in."""
        return self._models.status(request.model_spec)
