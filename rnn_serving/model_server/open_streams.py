"""End the calls that clients keep open, such as `Watch` of the health service, when the server stops."""

import asyncio
import functools
import inspect
import threading

import grpc


class OpenStreams:
    """The streaming calls of a server that have begun and not ended."""

    def __init__(self):
        self._cancels, self._is_ended, self._lock = set(), False, threading.Lock()

    def end(self):
        """Cancel all of them, and those that begin from now on."""
        with self._lock:
            self._is_ended, cancels = True, list(self._cancels)
        for cancel in cancels:
            cancel()

    def track(self, method):
        """Return a streaming method of a servicer whose calls `end` cancels."""
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            return self._track_coroutine(method)

        # Wrapped: grpc reads attributes of the function, such as that it does not block.
        @functools.wraps(method)
        def tracked(request, context, *more):
            cancel = context.cancel
            context.add_callback(lambda: self._remove(cancel))
            self._add(cancel)
            return method(request, context, *more)

        return tracked

    def _track_coroutine(self, method):
        @functools.wraps(method)
        async def tracked(request, context):
            # The context of an event loop's server cannot cancel its call.
            call = asyncio.ensure_future(_run(method, request, context))
            cancel = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, call.cancel)
            self._add(cancel)
            try:
                await call
            except asyncio.CancelledError:
                if not self._is_ended:
                    raise
                await context.abort(grpc.StatusCode.CANCELLED)
            finally:
                self._remove(cancel)

        return tracked

    def _add(self, cancel):
        with self._lock:
            self._cancels.add(cancel)
            is_ended = self._is_ended
        if is_ended:
            cancel()

    def _remove(self, cancel):
        with self._lock:
            self._cancels.discard(cancel)


async def _run(method, request, context):
    """Run a coroutine, or write what an asynchronous generator yields."""
    if inspect.isasyncgenfunction(method):
        async for response in method(request, context):
            await context.write(response)
    else:
        await method(request, context)
