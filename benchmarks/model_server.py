"""Measure the model server: against the article's Flask path, the bare model call, and itself without batching.

    python benchmarks/model_server.py --data_dir data/mnist --model_path exports/mnist

Starts and stops every server itself. What is compared takes turns within each round; a figure is the median over the
rounds, a ratio the median of the rounds' ratios. TFSERVING=binary or docker measures tensorflow_model_server instead.
A target that is missed is shown, not an error; a request without an answer, or with a wrong one, is an error.
Nothing else may run meanwhile: the two sides of a ratio do not suffer alike from it.
"""

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from grpc_callers import TIMEOUT_S, Callers, check_errors

from rnn_serving import command_line, dataset, environment, exports, files, latency, processes
from rnn_serving.command_line import UserError

# TensorFlow, and what imports it, is imported inside functions: the process of `Callers` imports this script as well
# and sends bytes only.

MODEL_NAME = "mnist"
MANY_IMAGES, MANY_IMAGES_CALLS = 128, 40
BATCHING_CALLERS, SWAP_CALLERS, SWAPS = 32, 8, 3
# Seconds: one turn of concurrent load, a version until it answers, the old one's unloading.
TURN_S, SWAP_LIMIT_S, UNLOAD_S = 3.0, 60.0, 0.5
BATCHING_PARAMETERS = """max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: {batch_timeout_micros} }}
num_batch_threads {{ value: {num_batch_threads} }}
max_enqueued_batches {{ value: 100 }}
"""


def main(argv=None):
    """Measure, print the table, and return the exit status."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    os.environ.setdefault("TFSERVING", "python")
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    conditions = describe_run(args, test)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-server-")))
        base = copied_export(args.model_path, directory / "plain" / MODEL_NAME)
        address = stack.enter_context(processes.TFServing(base))
        requests, expected = prepared_requests(base, test)
        figures = measure_one_image(args, address, graded(test, expected))
        figures += measure_many_images(args, address, base, test)
        callers = stack.enter_context(Callers(requests, expected))
        figures += measure_batching(args, address, directory, callers)
        figures += measure_swaps(args, address, base, callers)
    print(about(conditions), markdown_table(figures), sep="\n\n")
    if args.json:
        files.write_json(args.json, conditions | {"figures": [asdict(figure) for figure in figures]})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--model_path", default="exports/mnist", help="directory of versions, or one version")
    parser.add_argument("--rounds", type=command_line.positive_int, default=5, help="rounds of each measurement")
    parser.add_argument("--num_tests", type=command_line.positive_int, default=300, help="test images a round")
    parser.add_argument("--max_batch_size", type=command_line.positive_int, default=32, help="images joined at most")
    parser.add_argument("--batch_timeout_micros", type=int, default=2000, help="wait for more, microseconds")
    parser.add_argument("--num_batch_threads", type=command_line.positive_int, default=1, help="batches run at a time")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    return parser.parse_args(argv)


@dataclass
class Figure:
    """One row of the table: a value a round, what they are summed up to, and the bound it is to keep, if any."""

    name: str
    values: list
    measured: float
    target: str = ""
    met: bool | None = None

    @classmethod
    def of(cls, name, values, at_most=None, at_least=None, summary=statistics.median):
        """Return the figure of a list with a value for each round."""
        measured = float(summary(values))
        if at_most is not None:
            return cls(name, values, measured, f"at most {at_most}", measured <= at_most)
        if at_least is not None:
            return cls(name, values, measured, f"at least {at_least}", measured >= at_least)
        return cls(name, values, measured)


def ratios(mine, its):
    """Return the ratio of two figures round by round."""
    return [one / other for one, other in zip(mine, its, strict=True)]


def copied_export(model_path, base):
    """Copy the newest version under `model_path` to be version 1 under `base`; return `base`."""
    publish(exports.newest(model_path), base, 1)
    return base


def publish(source, base, version):
    """Publish a version's directory once more, as another version."""
    with exports.publishing(base, version) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)


def prepared_requests(base, test):
    """Return a serialized PredictRequest for each image, and the logits that answer them, float32 (N, 10)."""
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf
    from rnn_serving.saved_model import ServedModel

    from tensorflow_serving.apis import predict_pb2

    requests = []
    for image in test.images:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL_NAME
        request.inputs[INPUT_KEY].CopyFrom(tf.make_tensor_proto(image[np.newaxis]))
        requests.append(request.SerializeToString())
    with ServedModel(base) as model:
        return requests, model.predict({INPUT_KEY: test.images})[OUTPUT_KEY]


def open_client(address):
    """Return what `tfserving_client.open_grpc` gives: (name of the server's program, version, connect)."""
    import tfserving_client

    flags = ["--model_name", MODEL_NAME, "--timeout", str(TIMEOUT_S)]
    return tfserving_client.open_grpc(address, tfserving_client.parse_arguments(flags))


def graded(test, expected):
    """Return the images with the digits that the model takes them for, so that each answer is checked against these."""
    return dataset.Split(test.pixels, expected.argmax(axis=1).astype(np.uint8))


@contextlib.contextmanager
def article_flask_server(model_path, image):
    """Run the article's server on a free port; the value is its URL, once it has answered for an image (28, 28)."""
    import article_clients

    port = processes.free_port()
    url = f"http://127.0.0.1:{port}/"
    script = Path(__file__).resolve().parent / "article_flask_server.py"

    def ask():
        article_clients.requests.post(
            url, json={"data": image.tolist()}, timeout=TIMEOUT_S, proxies=dict(article_clients.NO_PROXY)
        ).raise_for_status()

    with processes.running([sys.executable, script, "--model_path", model_path, "--port", port], ask):
        yield url


def measure_one_image(args, address, test):
    """Return the figures of one caller that asks for one image at a time."""
    import article_clients

    with article_flask_server(args.model_path, test.images[0]) as url, open_client(address) as (_, _, connect):
        clients = {
            "article's Flask path": lambda: article_clients.flask(url),
            "article's gRPC client": lambda: article_clients.predict(address, MODEL_NAME),
            "article's gRPC client, list of floats": lambda: article_clients.predict(
                address, MODEL_NAME, as_floats=True
            ),
            "tfserving_client.py": connect,
        }
        medians = in_turns(args.rounds, {name: lambda c=client: median_ms(c, test) for name, client in clients.items()})
    baseline, article, floats, ours = medians.values()
    return [
        *(Figure.of(f"one image: {name}, ms", values) for name, values in medians.items()),
        Figure.of("one image: article's gRPC client / Flask path", ratios(article, baseline), at_most=0.45),
        Figure.of("one image: article's gRPC client, list of floats / Flask path", ratios(floats, baseline)),
        Figure.of("one image: tfserving_client.py / Flask path", ratios(ours, baseline), at_most=0.45),
    ]


def in_turns(rounds, measurements):
    """Return {name: a value for each round} of {name: function}, the order reversed every other round."""
    values = {name: [] for name in measurements}
    for turn in range(rounds):
        for name in measurements if turn % 2 == 0 else reversed(measurements):
            values[name].append(measurements[name]())
    return values


def median_ms(connect, test):
    """Return the median latency of one caller in milliseconds.

    Raises: UserError if a request had no answer, or another one than the model's.
    """
    load = latency.run_load(connect, test)
    check_errors(load.errors)
    if load.correct != len(test):
        raise UserError(f"{len(test) - load.correct} answers differ from the model's; expected the same digits")
    return 1000 * statistics.median(load.latencies_s)


def measure_many_images(args, address, base, test):
    """Return the figures of one request with many images, and of the model call alone in this process."""
    from rnn_serving.model import INPUT_KEY
    from rnn_serving.saved_model import ServedModel

    images = np.resize(test.images, (MANY_IMAGES, *test.images.shape[1:]))
    with open_client(address) as (_, _, connect), connect() as ask, ServedModel(base) as model:
        measurements = {
            "Predict": lambda: median_call_ms(lambda: ask(images)),
            "the model call": lambda: median_call_ms(lambda: model.predict({INPUT_KEY: images})),
        }
        medians = in_turns(args.rounds, measurements)
    return [
        *(Figure.of(f"{MANY_IMAGES} images: {name}, ms", values) for name, values in medians.items()),
        Figure.of(f"{MANY_IMAGES} images: Predict / the model call", ratios(*medians.values()), at_most=1.5),
    ]


def median_call_ms(call):
    """Return the median time of a call in milliseconds, the first one left out."""
    call()
    times = []
    for _ in range(MANY_IMAGES_CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def measure_batching(args, address, directory, callers):
    """Return the figures of many callers at a time, with and without batching."""
    parameters = directory / "batching_parameters.txt"
    files.write_text(parameters, BATCHING_PARAMETERS.format(**vars(args)))
    base = copied_export(args.model_path, directory / "batched" / MODEL_NAME)
    # The largest of the export's warm-up requests are more than --max_batch_size, which is an error while loading.
    flags = ("--enable_batching", f"--batching_parameters_file={parameters}", "--enable_model_warmup=false")
    busy = []

    def throughput(of):
        with callers.asking(of, BATCHING_CALLERS) as results:
            time.sleep(TURN_S)
        [result] = results
        busy.append(result.cpu_s / result.elapsed_s)
        return len(result.answered) / result.elapsed_s

    with processes.TFServing(base, *flags) as batched_address:
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
        with callers.asking(address, SWAP_CALLERS) as results:
            for _ in range(SWAPS):
                swap_version(address, base)
        slowest.append(1000 * max(seconds for _, seconds, _ in results[0].answered))
    name = f"{SWAPS} version swaps, {SWAP_CALLERS} callers: slowest request, ms"
    return [Figure.of(name, slowest, at_most=500, summary=max)]


def swap_version(address, base):
    """Publish the next version and wait until the server answers with it and has let the old one go.

    Raises: UserError if it does not come.
    """
    version, deadline = exports.next_version(base), time.monotonic() + SWAP_LIMIT_S
    publish(exports.newest(base), base, version)
    while (served := served_version(address)) != version:
        if time.monotonic() > deadline:
            raise UserError(f"version {served} is served after {SWAP_LIMIT_S:.0f} s; expected {version}")
        time.sleep(processes.ASK_AGAIN_S)
    time.sleep(UNLOAD_S)


def served_version(address):
    """Return the version that answers."""
    with open_client(address) as (_, version, _):
        return version


def describe_run(args, test):
    """Return what the figures depend on; `load_average` of the last minute is other programs' at the start."""
    return {
        "dataset": dataset.dataset_name(args.data_dir),
        "num_tests": len(test),
        "rounds": args.rounds,
        "batching": {
            name: vars(args)[name] for name in ("max_batch_size", "batch_timeout_micros", "num_batch_threads")
        },
        "load_average": os.getloadavg()[0],
        "machine": environment.machine(),
        "versions": environment.versions(),
    }


def about(conditions):
    """Return one sentence on what was measured and where."""
    machine = conditions["machine"]
    return (
        f"Data set {conditions['dataset']}, {conditions['num_tests']} images a round, {conditions['rounds']} rounds; "
        f"{machine['cpu']}, {machine['cores']} cores, shared by servers and clients; "
        f"load average before the start {conditions['load_average']:.2f}."
    )


def markdown_table(figures):
    """Return the figures as one Markdown table; the spread is the smallest and the largest value of a round."""
    lines = ["| figure | target | measured | spread | rounds |", "| --- | --- | --- | --- | --- |"]
    for figure in figures:
        missed = " (missed)" if figure.met is False else ""
        spread = f"{number(min(figure.values))} - {number(max(figure.values))}"
        cells = (figure.name, figure.target, number(figure.measured) + missed, spread, len(figure.values))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def number(value):
    """Return a number with two decimals, without any from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    command_line.run(main)
