"""PredictionService and ModelService on a gRPC port and a UNIX socket."""

import functools
import os
from concurrent import futures

import grpc

from rnn_serving.model_server import inference, monitoring
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.metadata import get_model_metadata
from rnn_serving.model_server.options import channel_arguments
from rnn_serving.model_server.predict import predict

from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

# Python's default of 4 MiB is 1,300 images; the C++ server takes what protobuf can hold.
MAX_MESSAGE_BYTES = 2**31 - 1
# Trailing, because initial metadata sent early would forbid the client's retries.
SERVED_BY = (("x-served-by", "rnn_serving.model_server"),)


def create_server(core, address):
    """Return (server, port) for a `core.ServerCore`, not yet started; port 0 takes a free one.

    Raises: RuntimeError if the port or the socket is taken.
    """
    threads = core.options.grpc_max_threads if core.options.grpc_max_threads > 0 else 4 * (os.cpu_count() or 1)
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Two servers on one port would each get some of the calls, and nobody an error.
            ("grpc.so_reuseport", 0),
            *channel_arguments(core.options.grpc_channel_arguments),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(core), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core), server)
    if core.options.enable_grpc_healthcheck_service:
        _add_health_service(server)
    if core.options.grpc_socket_path:
        server.add_insecure_port(f"unix:{core.options.grpc_socket_path}")
    return server, server.add_insecure_port(address) if address else 0


def _add_health_service(server):
    # Imported here: a package of its own, that only this flag needs.
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    service = health.HealthServicer()
    for name in ("ModelService", "PredictionService"):
        service.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(service, server)


def answering(method):
    """Turn `method(self, request, context)` that raises ServingError into a gRPC handler."""

    @functools.wraps(method)
    def handler(self, request, context):
        context.set_trailing_metadata(SERVED_BY)
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= 0:
            return context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")  # in the queue for a thread
        try:
            return method(self, request, context)
        except ServingError as error:
            return context.abort(error.code, error.details())

    return handler


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """What clients ask of a model."""

    def __init__(self, core):
        self._core = core

    @answering
    def Predict(self, request, context):
        """Run a signature on tensors."""
        with monitoring.request("Predict", "GRPC", request.model_spec.name):
            return predict(self._core, request, context.time_remaining())

    @answering
    def Classify(self, request, context):
        """Run a signature on Examples and answer labels with scores."""
        with monitoring.request("Classify", "GRPC", request.model_spec.name):
            return inference.classify(self._core, request, context.time_remaining())

    @answering
    def Regress(self, request, context):
        """Run a signature on Examples and answer a value for each."""
        with monitoring.request("Regress", "GRPC", request.model_spec.name):
            return inference.regress(self._core, request, context.time_remaining())

    @answering
    def MultiInference(self, request, context):
        """Run several signatures on the same Examples."""
        return inference.multi_inference(self._core, request, context.time_remaining())

    @answering
    def GetModelMetadata(self, request, context):
        """Tell the signatures of a model."""
        return get_model_metadata(self._core, request)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """What operators ask of the server."""

    def __init__(self, core):
        self._core = core

    @answering
    def GetModelStatus(self, request, context):
        """Tell which versions of a model there are, and what state each is in."""
        return self._core.status(request.model_spec if request.HasField("model_spec") else None)

    @answering
    def HandleReloadConfigRequest(self, request, context):
        """Replace the models by those of another configuration."""
        self._core.reload(request.config, context.is_active)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name in request.metric_names:
            monitoring.add_metric(response, name)
        return response
