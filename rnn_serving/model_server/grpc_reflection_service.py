"""gRPC server reflection, which tools such as grpcurl ask for the services and messages of a server."""

from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

# grpcio-reflection offers v1alpha. The messages of v1 are the same on the wire, and only their names differ.
V1ALPHA, V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = tuple(f"{package}.ServerReflection" for package in (V1, V1ALPHA))
# An open stream occupies a thread; these are not those of the other calls.
_THREADS = 8


def add(server, service_names, streams, in_event_loop):
    """Add reflection for the named services and for itself, whose open calls are added to `streams`."""
    _describe_v1()
    names = (*service_names, *SERVICES)
    servicer = (reflection.aio if in_event_loop else reflection).ReflectionServicer(names, pool=_Descriptors())
    method = servicer.ServerReflectionInfo if in_event_loop else _in_own_threads(servicer.ServerReflectionInfo)
    handler = grpc.stream_stream_rpc_method_handler(
        streams.track(method),
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in SERVICES]
    )


def _in_own_threads(method):
    def answer(requests, context):
        return method(requests, context)

    answer.experimental_thread_pool = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="reflection")
    return answer


class _Descriptors:
    """The default pool of descriptors, which also finds the file of a method."""

    def __getattr__(self, name):
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, name):
        """Return the file of a message, service, method or another symbol; KeyError if there is none."""
        pool = descriptor_pool.Default()
        try:
            return pool.FindFileContainingSymbol(name)
        except KeyError:
            return pool.FindMethodByName(name).containing_service.file


def _describe_v1():
    """Add the description of v1 to the descriptors that reflection finds."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    descriptor_pool.Default().Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
