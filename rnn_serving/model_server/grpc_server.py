"""PredictionService and ModelService on a gRPC port and a UNIX socket."""

import asyncio
import functools
import inspect
import os
import threading
from concurrent import futures

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from rnn_serving.model_server import inference, monitoring
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.event_loop_server import EventLoopServer
from rnn_serving.model_server.metadata import get_model_metadata
from rnn_serving.model_server.options import channel_arguments
from rnn_serving.model_server.predict import predict, predict_async

from tensorflow_serving.apis import model_management_pb2, model_service_pb2, prediction_service_pb2

# Python's default of 4 MiB is 1,300 images; the C++ server takes what protobuf can hold.
MAX_MESSAGE_BYTES = 2**31 - 1
# Trailing, because initial metadata sent early would forbid the client's retries.
SERVED_BY = (("x-served-by", "rnn_serving.model_server"),)


def create_server(core, address):
    """Return (server, port) for a `core.ServerCore`, not yet started; port 0 takes a free one.

    With batching, calls of Predict wait for their batch in an event loop, where a waiting one costs no thread: in
    threads, batching gains nothing. Without, a thread for each call answers a lone caller 0.15 ms sooner.
    Raises: RuntimeError if the port or the socket is taken.
    """
    threads = core.options.grpc_max_threads if core.options.grpc_max_threads > 0 else 4 * (os.cpu_count() or 1)
    pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc")
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Two servers on one port would each get some of the calls, and nobody an error.
        ("grpc.so_reuseport", 0),
        *channel_arguments(core.options.grpc_channel_arguments),
    ]
    if core.options.batching:
        server = EventLoopServer(pool, options)
        prediction_service, model_service = BatchingPredictionService(core), EventLoopModelService(core)
    else:
        server = grpc.server(pool, options=options)
        prediction_service, model_service = PredictionService(core), ModelService(core)
    _add_service(server, prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"], prediction_service)
    _add_service(server, model_service_pb2.DESCRIPTOR.services_by_name["ModelService"], model_service)
    if core.options.enable_grpc_healthcheck_service:
        _add_health_service(server, in_event_loop=core.options.batching)
    if core.options.grpc_socket_path:
        server.add_insecure_port(f"unix:{core.options.grpc_socket_path}")
    return server, server.add_insecure_port(address) if address else 0


def _add_health_service(server, in_event_loop):
    # Imported here: a package of its own, that only this flag needs.
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    # Each has a way to `Watch` without a thread, but not in the other's server.
    service = health.aio.HealthServicer() if in_event_loop else health.HealthServicer()
    for name in ("ModelService", "PredictionService"):
        change = service.set(name, health_pb2.HealthCheckResponse.SERVING)
        if in_event_loop:
            asyncio.run(change)
    health_pb2_grpc.add_HealthServicer_to_server(service, server)


def _add_service(server, descriptor, service):
    """Answer the methods of a service that are methods of `service` as well."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _handler(getattr(service, method.name), message_factory.GetMessageClass(method.input_type))
        )
        for method in descriptor.methods
        if hasattr(service, method.name)
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(descriptor.full_name, handlers)])


def _handler(method, request_class):
    """Turn `method(request, context)`, a function or coroutine that raises ServingError, into one of bytes."""
    if not inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        def handler(content, context):
            try:
                return method(_parsed(content, request_class, context), context).SerializeToString()
            except ServingError as error:
                return context.abort(error.code, error.details())

    else:

        @functools.wraps(method)
        async def handler(content, context):
            try:
                return (await method(_parsed(content, request_class, context), context)).SerializeToString()
            except ServingError as error:
                return await context.abort(error.code, error.details())

    return handler


def _parsed(content, request_class, context):
    """Return a request from its bytes.

    Raises: ServingError if they are none, or if the caller waits no more.
    """
    context.set_trailing_metadata(SERVED_BY)
    if not _is_waiting(context):  # it was too long in the queue for a thread
        raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    try:
        return request_class.FromString(content)
    except DecodeError as error:
        raise ServingError(grpc.StatusCode.INTERNAL, "Exception deserializing request!") from error


def _is_waiting(context):
    remaining_s = context.time_remaining()
    return remaining_s is None or remaining_s > 0


class PredictionService:
    """What clients ask of a model."""

    def __init__(self, core):
        self._core = core

    def Predict(self, request, context):
        """Run a signature on tensors."""
        with monitoring.request("Predict", "GRPC", request.model_spec.name):
            return predict(self._core, request, context.time_remaining())

    def Classify(self, request, context):
        """Run a signature on Examples and answer labels with scores."""
        with monitoring.request("Classify", "GRPC", request.model_spec.name):
            return inference.classify(self._core, request, context.time_remaining())

    def Regress(self, request, context):
        """Run a signature on Examples and answer a value for each."""
        with monitoring.request("Regress", "GRPC", request.model_spec.name):
            return inference.regress(self._core, request, context.time_remaining())

    def MultiInference(self, request, context):
        """Run several signatures on the same Examples."""
        return inference.multi_inference(self._core, request, context.time_remaining())

    def GetModelMetadata(self, request, context):
        """Tell the signatures of a model."""
        return get_model_metadata(self._core, request)


class BatchingPredictionService(PredictionService):
    """The same in an event loop."""

    async def Predict(self, request, context):
        """Run a signature on tensors, together with those of other requests."""
        with monitoring.request("Predict", "GRPC", request.model_spec.name):
            return await predict_async(self._core, request, context.time_remaining())


class ModelService:
    """What operators ask of the server."""

    def __init__(self, core):
        self._core = core

    def GetModelStatus(self, request, context):
        """Tell which versions of a model there are, and what state each is in."""
        return self._core.status(request.model_spec if request.HasField("model_spec") else None)

    def HandleReloadConfigRequest(self, request, context):
        """Replace the models by those of another configuration."""
        return self._reload(request, context.is_active)

    def _reload(self, request, is_active):
        self._core.reload(request.config, is_active)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name in request.metric_names:
            monitoring.add_metric(response, name)
        return response


class EventLoopModelService(ModelService):
    """The same in an event loop, which lets the status be told in threads."""

    async def HandleReloadConfigRequest(self, request, context):
        """Replace the models by those of another configuration."""
        # The context that a thread gets from an event loop does not tell that the caller has gone.
        gone = threading.Event()
        try:
            return await asyncio.to_thread(self._reload, request, lambda: not gone.is_set())
        finally:
            gone.set()
