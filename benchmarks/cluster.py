"""Measure what a cluster costs: our two servers alone, and the Ray Serve application with 1, 2, ... replicas.

    python -m benchmarks.cluster --data_dir data/mnist --model_path exports/mnist --replicas 1 2

All on this machine, whose cores the replicas share with Ray's proxies and with the load. Each server runs alone, as Ray
is busy without requests too; within a round all take turns. An answer that is missing, or is not the model's, is an
error. Run nothing else in the meantime.
"""

import statistics
import sys
from dataclasses import dataclass

import numpy as np

from benchmarks import protocols, server_processes, tables
from benchmarks.figures import check_errors
from benchmarks.load_connections import GRPCTarget, HTTPTarget
from benchmarks.load_generator import LoadGenerator
from benchmarks.rounds import in_turns, ratios
from benchmarks.server_processes import ROOT, FlaskServer, ServerProcess, TFServing, free_port
from rnn_serving import command_line

CALLERS = (1, 8, 32)
TURN_S, QUICK_TURN_S, WARM_UP_S = 4.0, 0.5, 1.0
TITLE = "A cluster on one machine"
NOTE = (
    "One image per request; in each cell p50 in ms, requests/s and, in brackets, the share of the throughput of the "
    "same protocol's server alone. Medians over the rounds, of the shares too."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    with tables.open_bench(args) as bench:
        speeds = measure(args, bench)
    tables.report(tables.make_table(TITLE, *speeds_table(speeds), NOTE, bench.conditions), args.json)
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    return tables.parse_arguments(argv, __doc__, rounds=3, num_tests=300, add_flags=add_flags)


def add_flags(parser):
    """Add the flags of this benchmark alone."""
    help_text = "numbers of replicas to measure"
    parser.add_argument("--replicas", nargs="+", type=command_line.positive_int, default=[1, 2], help=help_text)


class ClusterServer(ServerProcess):
    """`python -m deploy.ray` on a cluster of its own; the address is that of gRPC, `url` that of HTTP."""

    directory = ROOT

    def __init__(self, model_base_path, replicas):
        self.port, self.http_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}/"
        # Ray reserves a core for each replica by default; here, more of them than cores may be asked for.
        flags = [
            "--model_base_path",
            str(model_base_path),
            "--port",
            str(self.port),
            "--http_port",
            str(self.http_port),
        ]
        flags += ["--min_replicas", str(replicas), "--cpus_per_replica", "0.01"]
        command = ["-m", "deploy.ray", *flags]
        super().__init__(f"127.0.0.1:{self.port}", ["python", *command], [sys.executable, *command])

    def _check_ready(self):
        server_processes.ask_http(self.url + "readyz")
        server_processes.ask_grpc(self._address)


@dataclass(frozen=True)
class Speed:
    """What one turn measured."""

    p50_ms: float
    throughput_rps: float


def measure(args, bench):
    """Return {(server, protocol): {callers: a `Speed` for each round}}; the servers alone come first."""
    turns = {
        "one server": lambda: measure_alone(args, bench),
        **{
            f"cluster, {count} replica{'s' * (count > 1)}": lambda count=count: measure_cluster(args, bench, count)
            for count in args.replicas
        },
    }
    rounds = in_turns(args.rounds, turns, with_progress=True)
    return {
        (server, protocol): {callers: [turn[protocol, callers] for turn in of] for callers in CALLERS}
        for protocol in ("gRPC", "HTTP/JSON")
        for server, of in rounds.items()
    }


def measure_alone(args, bench):
    """Return {(protocol, callers): Speed} of the model server, with batching, and of the Flask endpoint, one worker."""
    with TFServing(bench.base, "--enable_batching", program="python") as address:
        found = measure_grpc(args, bench, address)
    with FlaskServer(bench.base) as url:
        return found | measure_http(args, bench, url)


def measure_cluster(args, bench, replicas):
    """Return {(protocol, callers): Speed} of a cluster."""
    server = ClusterServer(bench.base, replicas)
    with server as address:
        return measure_grpc(args, bench, address) | measure_http(args, bench, server.url)


def measure_grpc(args, bench, address):
    """Return {(protocol, callers): Speed} of a gRPC port."""
    requests = [protocols.to_predict_request(image[np.newaxis]) for image in bench.answers.images]
    return measure_loads(args, bench, protocols.GRPC, GRPCTarget(address, requests))


def measure_http(args, bench, url):
    """Return {(protocol, callers): Speed} of an HTTP port with the JSON of the Flask endpoint."""
    requests = [protocols.to_flask_request(image) for image in bench.answers.images]
    return measure_loads(args, bench, protocols.FLASK, HTTPTarget(url, requests))


def measure_loads(args, bench, protocol, target):
    """Send a load of each number of callers, check its answers, and return {(protocol, callers): Speed}."""
    found = {}
    with LoadGenerator() as generator:
        for callers in CALLERS:
            load = generator.run(target, callers, QUICK_TURN_S if args.quick else TURN_S, warm_up_s=WARM_UP_S)
            check_errors(load.errors)
            for index, _, answer in load.answered:
                bench.answers.check(protocol.name, protocol.kind, np.array([index]), protocol.decode(answer))
            p50_ms = 1000 * statistics.median(load.latencies_s())
            found[protocol.name, callers] = Speed(p50_ms, load.throughput_rps)
    return found


def speeds_table(speeds):
    """Return (columns, rows): a row for each server and protocol, a column for each number of callers."""
    rows = []
    for (server, protocol), by_callers in speeds.items():
        cells = []
        for callers, of in by_callers.items():
            alone = [speed.throughput_rps for speed in speeds["one server", protocol][callers]]
            throughput = [speed.throughput_rps for speed in of]
            p50_ms, share = (
                statistics.median(speed.p50_ms for speed in of),
                statistics.median(ratios(throughput, alone)),
            )
            cells.append(f"{p50_ms:.2f} ms, {statistics.median(throughput):,.0f}/s ({share:.2f})")
        rows.append([f"{server}, {protocol}", *cells])
    return ["server", *(f"{callers} caller{'s' * (callers > 1)}" for callers in CALLERS)], rows


if __name__ == "__main__":
    command_line.run(main)
