"""Many callers of the model server at a time: with and without batching, and while versions are swapped."""

import contextlib
import shutil
import time

import numpy as np

from benchmarks import server_processes
from benchmarks.answers import are_close
from benchmarks.figures import Figure, check_errors
from benchmarks.load_connections import GRPCTarget
from benchmarks.protocols import GRPC, MODEL_NAME, TIMEOUT_S, model_query
from benchmarks.rounds import in_turns, ratios
from rnn_serving import exports, files
from rnn_serving.command_line import UserError

BATCHING_CALLERS, SWAP_CALLERS, SWAPS = 32, 8, 3
# Seconds: one turn of concurrent load, the limit for a version to answer, the unloading of the old one.
TURN_S, SWAP_LIMIT_S, UNLOAD_S = 3.0, 60.0, 0.5
BATCHING_PARAMETERS = """max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: {batch_timeout_micros} }}
num_batch_threads {{ value: {num_batch_threads} }}
max_enqueued_batches {{ value: 100 }}
"""


class Callers:
    """The load generator with the images of a `Split` to send, and the logits, float32 (N, 10), expected as answers."""

    def __init__(self, generator, test, logits):
        self._generator, self._logits = generator, logits
        self._requests = [GRPC.encode(image[np.newaxis]) for image in test.images]

    @contextlib.contextmanager
    def asking(self, address, count):
        """Send requests from `count` callers while the body runs; the value is a list, with the `RawLoad` at its end.

        Raises: UserError if a request had no answer or a wrong one.
        """
        with self._generator.asking(GRPCTarget(address, self._requests), count) as loads:
            yield loads
        check_errors(loads[0].errors)
        self._check_answers(loads[0].answered)

    def _check_answers(self, answered):
        scores = np.concatenate([GRPC.decode(answer) for _, _, answer in answered])
        if not are_close(GRPC.kind, scores, self._logits[[index for index, _, _ in answered]]):
            raise UserError("answers under load differ from the model's; expected the same logits")


def measure_batching(args, address, directory, callers):
    """Return the figures of many callers at a time, with and without batching."""
    parameters = directory / "batching_parameters.txt"
    files.write_text(parameters, BATCHING_PARAMETERS.format(**vars(args)))
    base = copy_export(args.model_path, directory / "batched" / MODEL_NAME)
    # The largest of the export's warm-up requests may exceed --max_batch_size, which is an error while loading.
    flags = ("--enable_batching", f"--batching_parameters_file={parameters}", "--enable_model_warmup=false")
    busy = []

    def throughput(of):
        with callers.asking(of, BATCHING_CALLERS) as loads:
            time.sleep(TURN_S)
        busy.append(loads[0].busy)
        return loads[0].throughput_rps

    with server_processes.TFServing(base, *flags) as batched_address:
        servers = {"without batching": address, "with batching": batched_address}
        rates = in_turns(args.rounds, {name: lambda of=of: throughput(of) for name, of in servers.items()})
    without, batched = rates.values()
    many = f"{BATCHING_CALLERS} callers"
    return [
        *(Figure.of(f"{many}: {name}, requests/s", values) for name, values in rates.items()),
        Figure.of(f"{many}: throughput with / without batching", ratios(batched, without), at_least=1.25),
        Figure.of(f"{many}: the load generator's own share, cores", list(map(max, busy[::2], busy[1::2])), summary=max),
    ]


def measure_swaps(args, address, base, callers):
    """Return the figures of versions that are published under load: the slowest request of each round."""
    slowest = []
    for _ in range(args.rounds):
        with callers.asking(address, SWAP_CALLERS) as loads:
            for _ in range(SWAPS):
                swap_version(address, base)
        slowest.append(1000 * max(loads[0].latencies_s()))
    name = f"{SWAPS} version swaps, {SWAP_CALLERS} callers: slowest request, ms"
    return [Figure.of(name, slowest, at_most=500, summary=max)]


def swap_version(address, base):
    """Publish the next version and wait until the server answers with it and has unloaded the old one.

    Raises: UserError if it does not within the limit.
    """
    version, deadline = exports.next_version(base), time.monotonic() + SWAP_LIMIT_S
    publish_copy(exports.newest(base), base, version)
    while (served := served_version(address)) != version:
        if time.monotonic() > deadline:
            raise UserError(f"version {served} is served after {SWAP_LIMIT_S:.0f} s; expected {version}")
        time.sleep(server_processes.ASK_AGAIN_S)
    time.sleep(UNLOAD_S)


def served_version(address):
    """Return the version that answers."""
    with open_client(address) as (server, _):
        return server.version


def open_client(address):
    """Return what `tfserving_client.open_grpc` does: a context manager that yields (`ServedBy`, connect)."""
    import tfserving_client

    return tfserving_client.open_grpc(address, model_query(TIMEOUT_S))


def copy_export(model_path, base):
    """Copy the newest version under `model_path` to be version 1 under `base`; return `base`."""
    publish_copy(exports.newest(model_path), base, 1)
    return base


def publish_copy(source, base, version):
    """Publish a version's directory once more, as another version."""
    with exports.staging_directory(base, version) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
