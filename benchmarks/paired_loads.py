"""Loads that both the load generator and a tool that this project did not write can send to the same server."""

import shutil
import tempfile
from dataclasses import dataclass

import numpy as np

from benchmarks import cpp_server, protocols, server_processes
from benchmarks.answers import copy_newest
from benchmarks.figures import check_errors
from benchmarks.http_load import Speed, Wrk
from benchmarks.load_connections import GRPCTarget, HTTPTarget
from benchmarks.load_generator import LoadGenerator
from benchmarks.outside_tools import WARM_UP_S, Autocannon, H2load
from rnn_serving import environment

# Of the open loop.
RATE_RPS = 100


@dataclass(frozen=True)
class Pair:
    """A load that both can send: functions that send it for one turn and return the `Speed`."""

    server: str
    load: str
    tool: str
    own: object
    outside: object


def make_pairs(stack, args, image):
    """Return a list of `Pair` for the tools that are installed; `stack`, an ExitStack, stops the servers.

    `image` is float32 (28, 28).
    """
    base = copy_newest(args.model_path, stack.enter_context(tempfile.TemporaryDirectory(prefix="cross-check-")))
    generator = stack.enter_context(LoadGenerator())
    workers = ("--workers", str(environment.available_cores()), "--threads", "1")
    url = stack.enter_context(server_processes.FlaskServer(base, *workers))
    model_server = server_processes.TFServing(base, *(cpp_server.FLAGS if cpp_server.find() else ()))
    address = stack.enter_context(model_server)
    rest_url = f"http://127.0.0.1:{model_server.rest_port}/v1/models/{protocols.MODEL_NAME}:predict"
    name = cpp_server.NAME if cpp_server.find() else "rnn_serving.model_server"
    batch, http, grpc = image[np.newaxis], _HTTPPairs(stack, generator, args), _GRPCPairs(generator, args)
    return [
        *http.pairs("Flask endpoint", url, protocols.FLASK.encode(image)),
        *http.pairs(f"{name}, REST", rest_url, protocols.REST.encode(batch)),
        *grpc.pairs(f"{name}, gRPC", address, protocols.GRPC.encode(batch)),
    ]


class _HTTPPairs:
    def __init__(self, stack, generator, args):
        self._stack, self._generator, self._args = stack, generator, args

    def pairs(self, server, url, body):
        """Return the pairs of an HTTP server with a request's body."""
        send = _own(self._generator, HTTPTarget(url, [body]), self._args.duration)
        found = []
        if shutil.which("wrk"):
            wrk = self._stack.enter_context(Wrk([body]))
            for callers in self._args.concurrency:
                outside = _turn(wrk.run, url, callers, self._args.duration)
                found.append(Pair(server, f"{callers} callers", "wrk", _turn(send, callers), outside))
        if shutil.which("autocannon"):
            # Ending between two bursts, so that both send the same number.
            duration_s = self._args.duration - 0.5
            send = _own(self._generator, HTTPTarget(url, [body]), duration_s)
            own, outside = _turn(send, None, RATE_RPS, "bursts"), _turn(Autocannon(body).run, url, RATE_RPS, duration_s)
            found.append(Pair(server, f"{RATE_RPS} requests at once each second", "autocannon", own, outside))
        return found


class _GRPCPairs:
    def __init__(self, generator, args):
        self._generator, self._args = generator, args

    def pairs(self, server, address, message):
        """Return the pairs of a gRPC server with a serialized request."""
        if not shutil.which("h2load"):
            return []
        send, h2load = _own(self._generator, GRPCTarget(address, [message]), self._args.duration), H2load(message)
        found = []
        for callers in self._args.concurrency:
            outside = _turn(h2load.run, address, callers, self._args.duration)
            found.append(Pair(server, f"{callers} callers", "h2load", _turn(send, callers), outside))
        own, outside = _turn(send, None, RATE_RPS, "even"), _turn(h2load.run_at, address, RATE_RPS, self._args.duration)
        return [*found, Pair(server, f"{RATE_RPS} requests/s at even intervals", "h2load", own, outside)]


def _turn(function, *arguments):
    return lambda: function(*arguments)


def _own(generator, target, duration_s):
    """Return a function that sends a load from this project's generator and returns the `Speed`."""

    def send(concurrency, rate=None, arrivals="poisson"):
        load = generator.run(target, concurrency, duration_s, rate, WARM_UP_S, arrivals=arrivals)
        check_errors(load.errors)
        p50, p99 = np.percentile(load.latencies_s(), (50, 99)) * 1000
        return Speed(load.throughput_rps, float(p50), float(p99))

    return send
