"""A gRPC server that runs coroutine handlers in an event loop of its own, with the interface of `grpc.server`."""

import asyncio
import threading
from concurrent import futures

from grpc import aio

# Batches that wait to be full have a thread each; those that run share `num_batch_threads`.
MAX_WAITING_BATCHES = 256


class EventLoopServer:
    """Coroutine handlers run in the event loop, other handlers in the threads of `pool`."""

    def __init__(self, pool, options):
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(futures.ThreadPoolExecutor(MAX_WAITING_BATCHES, thread_name_prefix="batch"))
        threading.Thread(target=self._loop.run_forever, name="grpc event loop", daemon=True).start()
        self._server = self._run(self._create(pool, options)).result()

    @staticmethod
    async def _create(pool, options):
        return aio.server(migration_thread_pool=pool, options=options)

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def add_generic_rpc_handlers(self, handlers):
        """Answer the methods of `handlers`."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name, handlers):
        """Answer the methods of {name: handler}, which generated code registers as well as generic handlers."""
        self._server.add_registered_method_handlers(service_name, handlers)

    def add_insecure_port(self, address):
        """Listen on an address; return its port.

        Raises: RuntimeError if the address is taken.
        """
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address, credentials):
        """Listen on an address for TLS; return its port.

        Raises: RuntimeError if the address is taken.
        """
        return self._server.add_secure_port(address, credentials)

    def start(self):
        """Begin to answer calls."""
        self._run(self._server.start()).result()

    def stop(self, grace):
        """Refuse new calls and end those in flight within `grace` seconds; return an Event that is then set."""
        stopped = threading.Event()
        self._run(self._server.stop(grace)).add_done_callback(lambda _: stopped.set())
        return stopped
