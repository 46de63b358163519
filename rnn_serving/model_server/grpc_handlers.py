"""Turn the methods of a service into gRPC handlers: parsing, errors as gRPC statuses, memory for large requests."""

import asyncio
import functools
import inspect

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from rnn_serving.model_server import SERVED_BY
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.tensors import claimed_bytes
from rnn_serving.model_server.unpacking import Budget

# The C++ server accepts any message that protobuf does, up to 2 GiB. gRPC has no separate limit for compressed
# messages, and 2 MB can expand to 2 GB, so limit all messages. --grpc_channel_arguments sets another limit.
MAX_MESSAGE_BYTES = 256 * 2**20
# Answering takes up to ten times the size of a request.
BUDGET_BYTES, IGNORED_BYTES = 256 * 2**20, 64 * 2**10


class Handlers:
    """Makes gRPC handlers; with a `pool`, for an event loop, which runs blocking methods in the pool."""

    def __init__(self, pool=None):
        self._pool, self._budget = pool, Budget(BUDGET_BYTES, IGNORED_BYTES)

    def of(self, descriptor, service):
        """Return generic handlers of those methods of a gRPC service that `service` implements."""
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                self._handler(getattr(service, method.name), message_factory.GetMessageClass(method.input_type))
            )
            for method in descriptor.methods
            if hasattr(service, method.name)
        }
        return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)

    def _handler(self, method, request_class):
        """Return a handler of serialized requests for `method(request, context)`."""
        if self._pool is None:

            @functools.wraps(method)
            def handler(content, context):
                try:
                    return self._answer(method, _parse(content, request_class, context), len(content), context)
                except ServingError as error:
                    code, details = error.code, error.details()
                return context.abort(code, details)

        else:

            @functools.wraps(method)
            async def handler(content, context):
                try:
                    response = await self.call(method, _parse(content, request_class, context), len(content), context)
                    return response.SerializeToString()
                except ServingError as error:
                    code, details = error.code, error.details()
                # gRPC keeps the exception that `abort` raises, and so this frame and any exception that is being
                # handled, until the garbage is collected: a large request would stay in memory.
                del content
                return await context.abort(code, details)

        return handler

    def _answer(self, method, request, size, context):
        with self._budget.reserve(_memory(request, size), context.time_remaining()):
            return method(request, context).SerializeToString()

    async def call(self, method, request, size, context):
        """Return the response of `method` to a request of `size` bytes; needs a pool.

        Raises: ServingError.
        """
        async with self._budget.reserve_async(_memory(request, size)):
            if inspect.iscoroutinefunction(method):
                return await method(request, context)
            return await asyncio.get_running_loop().run_in_executor(self._pool, method, request, context)


def _memory(request, size):
    """Return the size of a request in memory: repeated values make tensors larger than their messages."""
    return max(size, sum(map(claimed_bytes, getattr(request, "inputs", {}).values())))


def _parse(content, request_class, context):
    """Return the request in `content`.

    Raises: ServingError if it does not parse, or if the caller's deadline has passed.
    """
    context.set_trailing_metadata(SERVED_BY)
    if not _deadline_is_open(context):  # the deadline passed in the queue for a thread
        raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    try:
        return request_class.FromString(content)
    except DecodeError as error:
        raise ServingError(grpc.StatusCode.INTERNAL, "Exception deserializing request!") from error


def _deadline_is_open(context):
    remaining_s = context.time_remaining()
    return remaining_s is None or remaining_s > 0
