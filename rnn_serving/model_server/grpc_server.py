"""The gRPC server: a port and a UNIX socket, and the services; grpc_handlers.py turns their errors into statuses."""

import asyncio
import os
from concurrent import futures

import grpc

from rnn_serving.model_server import grpc_reflection_service
from rnn_serving.model_server.event_loop_server import EventLoopServer
from rnn_serving.model_server.grpc_handlers import MAX_MESSAGE_BYTES, Handlers
from rnn_serving.model_server.grpc_services import (
    BatchingPredictionService,
    EventLoopModelService,
    ModelService,
    PredictionService,
)
from rnn_serving.model_server.options import channel_arguments

from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

_PREDICTION = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
_MODEL = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]


def create_server(core, address, streams):
    """Return (server, port) for a `core.ServerCore`; the server is not started. Port 0 takes a free one.

    Calls that clients keep open are added to `streams`, an `OpenStreams`.
    With batching, Predict calls wait for their batch in an event loop, where a waiting call occupies no thread; with a
    thread per call, batching gains nothing. Without batching, a thread per call answers a single caller 0.15 ms sooner.
    Raises: RuntimeError if the port or the socket is taken.
    """
    options = core.options
    threads = options.grpc_max_threads if options.grpc_max_threads > 0 else 4 * (os.cpu_count() or 1)
    pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc")
    if options.batching:
        server = EventLoopServer(pool, _server_options(options))
        prediction_service, model_service = BatchingPredictionService(core), EventLoopModelService(core)
    else:
        server = grpc.server(pool, options=_server_options(options))
        prediction_service, model_service = PredictionService(core), ModelService(core)
    handlers = Handlers(pool if options.batching else None)
    server.add_generic_rpc_handlers([handlers.of(_PREDICTION, prediction_service), handlers.of(_MODEL, model_service)])
    names = [_PREDICTION.full_name, _MODEL.full_name]
    if options.enable_grpc_healthcheck_service:
        names.append(_add_health_service(server, streams, in_event_loop=options.batching))
    grpc_reflection_service.add(server, names, streams, in_event_loop=options.batching)
    if options.grpc_socket_path:
        _listen(server, f"unix:{options.grpc_socket_path}", options.tls)
    return server, _listen(server, address, options.tls) if address else 0


def _listen(server, address, credentials):
    """Listen on an address, for TLS if there are credentials; return its port."""
    if credentials:
        return server.add_secure_port(address, credentials)
    return server.add_insecure_port(address)


def _server_options(options):
    """Return gRPC's options for the flags of the server."""
    defaults = {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": -1,
        # Otherwise two servers could share a port without an error, and each would get some of the calls.
        "grpc.so_reuseport": 0,
    }
    return list((defaults | dict(channel_arguments(options.grpc_channel_arguments))).items())


def _add_health_service(server, streams, in_event_loop):
    """Add the standard health service; return its name."""
    # Imported late: a separate package, which only this flag needs.
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    # Each servicer can `Watch` without occupying a thread, but only in its own kind of server.
    service = health.aio.HealthServicer() if in_event_loop else health.HealthServicer()
    for name in ("ModelService", "PredictionService"):
        status_set = service.set(name, health_pb2.HealthCheckResponse.SERVING)
        if in_event_loop:
            asyncio.run(status_set)
    service.Watch = streams.track(service.Watch)
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    return health.SERVICE_NAME
