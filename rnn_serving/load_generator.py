"""Ask a server as fast as it answers, or at a given rate, from a process of its own.

No TensorFlow: the process sends and keeps bytes only; what they mean is for the caller to find out afterwards.
"""

import asyncio
import contextlib
import multiprocessing
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import grpc

# Seconds one answer may take, and the process to start.
TIMEOUT_S, START_LIMIT_S = 30.0, 60.0
# Requests that may be under way at a given rate; those beyond wait, and their latency counts from when they were due.
MAX_OPEN = 512
LOCAL_CHANNEL = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True)
class HTTPTarget:
    """POST bodies, bytes of JSON each, to a URL over connections that stay open if the server lets them."""

    url: str
    bodies: list

    def connect(self):
        """Return a connection."""
        parts = urlsplit(self.url)
        head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            "Content-Length: "
        ).encode()
        requests = [head + str(len(body)).encode() + b"\r\n\r\n" + body for body in self.bodies]
        return _HTTPConnections(parts.hostname, parts.port, requests)


@dataclass(frozen=True)
class GRPCTarget:
    """Call a unary method with serialized requests over one channel."""

    address: str
    requests: list
    method: str = "/tensorflow.serving.PredictionService/Predict"

    def connect(self):
        """Return a connection."""
        return _GRPCChannel(self.address, self.method, self.requests)


@dataclass
class Load:
    """What a run of requests measured.

    `answered` has (index of the request, seconds, bytes of the answer) for each one; `cpu_s` is what the process used.
    """

    answered: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    elapsed_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def throughput_rps(self):
        """Answers a second."""
        return len(self.answered) / self.elapsed_s

    @property
    def busy(self):
        """The share of a core that the process was busy; near 1, it was the bottleneck."""
        return self.cpu_s / self.elapsed_s

    def latencies_s(self):
        """Return the seconds of each answer."""
        return [seconds for _, seconds, _ in self.answered]


class LoadGenerator:
    """The process, in a `with`; it asks one target at a time."""

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_obey, args=(theirs,), daemon=True)
        self._process.start()
        self._receive(START_LIMIT_S)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def run(self, target, concurrency, duration_s, rate=None, warm_up_s=0.0, timeout_s=TIMEOUT_S, first=0):
        """Ask for `duration_s` seconds, after `warm_up_s` that do not count; return the `Load`.

        Closed loop: `concurrency` callers that ask again as soon as they have an answer. With a `rate`, open loop: that
        many requests a second arrive at random times (Poisson), and latency counts from when each was due. An answer
        that takes longer than `timeout_s` is an error. Requests are asked in order, from the one with index `first`.
        """
        if warm_up_s:
            self.run(target, concurrency, warm_up_s, rate, timeout_s=timeout_s)
        self._pipe.send((target, concurrency, rate, duration_s, timeout_s, first))
        self._receive(TIMEOUT_S)
        return self._receive(duration_s + 2 * max(timeout_s, TIMEOUT_S))

    @contextlib.contextmanager
    def asking(self, target, concurrency):
        """Ask while the body runs; the value is a list, with the `Load` at its end."""
        self._pipe.send((target, concurrency, None, None, TIMEOUT_S, 0))
        self._receive(TIMEOUT_S)
        loads = []
        try:
            yield loads
        finally:
            self._pipe.send("stop")
            loads.append(self._receive(2 * TIMEOUT_S))

    def _receive(self, limit_s):
        if not self._pipe.poll(limit_s):
            raise TimeoutError(f"the load generator is silent for {limit_s} s")
        return self._pipe.recv()


def _obey(pipe):
    """Do in the process what comes through the pipe."""
    pipe.send("ready")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            asyncio.run(_ask(pipe, *pipe.recv()))


async def _ask(pipe, target, concurrency, rate, duration_s, timeout_s, first):
    load, connections = Load(), target.connect()
    run = _Run(connections, len(connections.requests), load, timeout_s, first)
    pipe.send("started")
    began, cpu_began = time.perf_counter(), time.process_time()
    asking = asyncio.create_task(run.open_loop(rate) if rate else run.closed_loop(concurrency))
    if duration_s is None:
        await asyncio.to_thread(pipe.recv)
    else:
        await asyncio.sleep(duration_s)
    run.is_stopped = True
    await asking
    load.elapsed_s, load.cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    await connections.close()
    pipe.send(load)


class _Run:
    def __init__(self, connections, count, load, timeout_s, first):
        self.connections, self.count, self.load, self.timeout_s = connections, count, load, timeout_s
        self.is_stopped, self.next_index = False, first

    async def closed_loop(self, concurrency):
        await asyncio.gather(*(self._caller() for _ in range(concurrency)))

    async def _caller(self):
        while not self.is_stopped:
            await self._ask_one(time.perf_counter())

    async def open_loop(self, rate):
        due, under_way, limit = time.perf_counter(), set(), asyncio.Semaphore(MAX_OPEN)
        while not self.is_stopped:
            due += random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await limit.acquire()
            task = asyncio.create_task(self._ask_one(due))
            under_way.add(task)
            task.add_done_callback(lambda done: (under_way.discard(done), limit.release()))
        await asyncio.gather(*under_way)

    async def _ask_one(self, due):
        index = self.next_index
        self.next_index = (index + 1) % self.count
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self.connections.ask(index)
        except TimeoutError:
            self.load.errors.append(f"no answer within {self.timeout_s:g} s")
        except (OSError, grpc.RpcError, _BadAnswer) as error:
            self.load.errors.append(_reason(error))
            await asyncio.sleep(0.01)  # one that is down is not asked a million times
        else:
            self.load.answered.append((index, time.perf_counter() - due, answer))


class _BadAnswer(Exception):
    pass


def _reason(error):
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__


class _GRPCChannel:
    def __init__(self, address, method, requests):
        self.requests = requests
        self._channel = grpc.aio.insecure_channel(address, LOCAL_CHANNEL)
        self._call = self._channel.unary_unary(method)

    async def ask(self, index):
        return await self._call(self.requests[index], timeout=TIMEOUT_S)

    async def close(self):
        await self._channel.close()


class _HTTPConnections:
    """As many connections as there are requests under way; an idle one is used again."""

    def __init__(self, host, port, requests):
        self.requests, self._address, self._idle = requests, (host, port), []

    async def ask(self, index):
        connection = self._idle.pop() if self._idle else await self._open()
        try:
            status, body = await connection.ask(self.requests[index])
        except BaseException:
            connection.close()
            raise
        if connection.is_kept:
            self._idle.append(connection)
        else:
            connection.close()
        if status != 200:
            raise _BadAnswer(f"{status}: {body[:200].decode(errors='replace')}")
        return body

    async def _open(self):
        _, connection = await asyncio.get_running_loop().create_connection(_HTTPConnection, *self._address)
        return connection

    async def close(self):
        for connection in self._idle:
            connection.close()


class _HTTPConnection(asyncio.Protocol):
    """Just enough of HTTP/1.1 for the answers of the servers that are measured: a length, or an end."""

    def connection_made(self, transport):
        self._transport, self._received, self._answer, self.is_kept = transport, b"", None, True

    def ask(self, request):
        self._received, self._answer = b"", asyncio.get_running_loop().create_future()
        self._head = None
        self._transport.write(request)
        return self._answer

    def close(self):
        self._transport.close()

    def data_received(self, data):
        self._received += data
        if self._head is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head, self._received = self._received[:end].lower(), self._received[end + 4 :]
            length = self._head.partition(b"\r\ncontent-length:")[2]
            self._length = int(length.partition(b"\r\n")[0]) if length else None
            self.is_kept = b"http/1.1" in self._head[:8] and b"\r\nconnection: close" not in self._head
        if self._length is not None and len(self._received) >= self._length:
            self._finish()

    def connection_lost(self, error):
        self.is_kept = False
        if self._answer is None or self._answer.done():
            return
        if self._head is not None and self._length is None:
            self._finish()
        else:
            self._answer.set_exception(error or ConnectionResetError("the connection ended without an answer"))

    def _finish(self):
        if not self._answer.done():
            self._answer.set_result((int(self._head.split(b" ", 2)[1]), self._received))
