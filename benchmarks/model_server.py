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
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from figures import Figure, about, check_errors, describe_run, in_turns, markdown_table, median_call_ms, ratios

from rnn_serving import command_line, dataset, exports, files, latency, processes
from rnn_serving.command_line import UserError
from rnn_serving.load_generator import TIMEOUT_S, GRPCTarget, LoadGenerator

# TensorFlow, and what imports it, is imported inside functions: the process of the load generator imports this script
# as well and sends bytes only.

MODEL_NAME = "mnist"
MANY_IMAGES = 128
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
    conditions = describe_run(args, test) | describe_batching(args)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-server-")))
        base = copied_export(args.model_path, directory / "plain" / MODEL_NAME)
        address = stack.enter_context(processes.TFServing(base))
        requests, expected = prepared_requests(base, test)
        figures = measure_one_image(args, address, graded(test, expected))
        figures += measure_many_images(args, address, base, test)
        callers = Callers(stack.enter_context(LoadGenerator()), requests, expected)
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
    parser.add_argument("--batch_timeout_micros", type=int, default=4000, help="wait for more, microseconds")
    parser.add_argument("--num_batch_threads", type=command_line.positive_int, default=1, help="batches run at a time")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    return parser.parse_args(argv)


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


def measure_one_image(args, address, test):
    """Return the figures of one caller that asks for one image at a time."""
    import article_clients

    with processes.ArticleServer(args.model_path) as url, open_client(address) as (_, _, connect):
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


class Callers:
    """The load generator with the requests to ask, and the logits float32 (N, 10) that their answers must have."""

    def __init__(self, generator, requests, expected):
        self._generator, self._requests, self._expected = generator, requests, expected

    @contextlib.contextmanager
    def asking(self, address, count):
        """Ask from `count` callers while the body runs; the value is a list, with the `Load` at its end.

        Raises: UserError if a request had no answer or a wrong one.
        """
        with self._generator.asking(GRPCTarget(address, self._requests), count) as loads:
            yield loads
        check_errors(loads[0].errors)
        self._check_answers(loads[0].answered)

    def _check_answers(self, answered):
        from rnn_serving.model import OUTPUT_KEY
        from rnn_serving.quiet_tensorflow import tf

        from tensorflow_serving.apis import predict_pb2

        messages = (predict_pb2.PredictResponse.FromString(answer) for _, _, answer in answered)
        scores = np.concatenate([tf.make_ndarray(message.outputs[OUTPUT_KEY]) for message in messages])
        if not np.allclose(scores, self._expected[[index for index, _, _ in answered]], atol=1e-3):
            raise UserError("answers under load differ from the model's; expected the same logits")


def measure_batching(args, address, directory, callers):
    """Return the figures of many callers at a time, with and without batching."""
    parameters = directory / "batching_parameters.txt"
    files.write_text(parameters, BATCHING_PARAMETERS.format(**vars(args)))
    base = copied_export(args.model_path, directory / "batched" / MODEL_NAME)
    # The largest of the export's warm-up requests are more than --max_batch_size, which is an error while loading.
    flags = ("--enable_batching", f"--batching_parameters_file={parameters}", "--enable_model_warmup=false")
    busy = []

    def throughput(of):
        with callers.asking(of, BATCHING_CALLERS) as loads:
            time.sleep(TURN_S)
        busy.append(loads[0].busy)
        return loads[0].throughput_rps

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
        with callers.asking(address, SWAP_CALLERS) as loads:
            for _ in range(SWAPS):
                swap_version(address, base)
        slowest.append(1000 * max(loads[0].latencies_s()))
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


def describe_batching(args):
    """Return what these figures depend on beside what all benchmarks' do."""
    flags = ("max_batch_size", "batch_timeout_micros", "num_batch_threads")
    return {"batching": {name: vars(args)[name] for name in flags}}


if __name__ == "__main__":
    command_line.run(main)
