"""Measure images a second for requests of 1 to 512 images, by every route, beside the bare model call: the limit.

    python benchmarks/batches.py --data_dir data/mnist --model_path exports/mnist --json reports/batches.json

The routes: the article's Flask server, the Flask endpoint with one worker, the Flask gateway, the model server over
REST and gRPC, and tensorflow_model_server where the machine has it (or TFSERVING says). Starts and stops every server
itself. Prints the table; with --json writes it, and the curves beside it as .svg.
An answer that is missing, or is not the bare model's, is an error. Nothing else may run meanwhile.
"""

import contextlib
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import orjson
import requests
from figures import about, in_turns, ratios
from tqdm import tqdm

from rnn_serving import command_line, dataset, environment, exports, files, processes
from rnn_serving.command_line import UserError, request_failure

# TensorFlow is imported inside functions: breakdown.py and habits.py start servers as processes that import this first.

SIZES, QUICK_SIZES = [2**power for power in range(10)], [1, 32]
QUICK_ROUNDS, QUICK_NUM_TESTS = 2, 20
# Seconds: what a turn lasts, at least one request long, and what an answer may take.
TURN_S, QUICK_TURN_S, TIMEOUT_S = 0.25, 0.05, 30.0
BARE = "bare model call"
MODEL_NAME, PREDICT = "mnist", "/tensorflow.serving.PredictionService/Predict"
# How far an answer's probabilities, and its logits, may be from the bare model's: what a batch changes of float32.
TOLERANCES = {"images": 0.0, "probabilities": 1e-5, "logits": 1e-3}
JSON_HEADERS, NO_PROXY = {"Content-Type": "application/json"}, {"no_proxy": "127.0.0.1"}
CHANNEL_OPTIONS = (
    # gRPC's default of 4 MiB is 1,300 images.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A channel has a connection of its own, whichever others there are.
    ("grpc.use_local_subchannel_pool", 1),
)
METRICS_PATH = "/monitoring/prometheus/metrics"
MONITORING_CONFIG = f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'
NOTE = (
    "Images a second of one caller, who encodes a request, waits for its answer and decodes it; in brackets, what part "
    "that is of the bare call of the same SavedModel in this process. Medians over the rounds, the parts' too. The "
    "Flask endpoint runs a large request in batches of 32, its default."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    conditions = describe_run(args, test)
    with contextlib.ExitStack() as stack:
        base, model = open_model(stack, args.model_path)
        article_url = stack.enter_context(processes.ArticleServer(base))
        routes = open_routes(stack, base, article_url)
        rates = measure(args, routes, Answers(model, test.images))
    columns, rows = rates_table(rates)
    title = "Images a second by the size of a request"
    result = described(title, columns, rows, f"{NOTE} {about(conditions)}", conditions)
    report(result, args.json, lambda: curves(rates, title))
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    add_flags(parser, rounds=3, num_tests=512)
    return with_quick(parser.parse_args(argv))


def add_flags(parser, rounds, num_tests):
    """Add the flags that batches.py, breakdown.py and habits.py have in common."""
    command_line.add_data_dir(parser)
    add, number = parser.add_argument, command_line.positive_int
    add("--model_path", default="exports/mnist", help="directory of versions, or one version")
    add("--rounds", type=number, default=rounds, help="rounds, in which all that is compared takes turns")
    add("--num_tests", type=number, default=num_tests, help="test images to ask")
    add("--quick", action="store_true", help="to try it out: few requests, figures of little meaning")
    add("--json", metavar="FILE", help="write the table there as well")


def with_quick(args):
    """Cut down what --quick shortens."""
    if args.quick:
        args.rounds, args.num_tests = min(args.rounds, QUICK_ROUNDS), min(args.num_tests, QUICK_NUM_TESTS)
    return args


def describe_run(args, test):
    """Return what the figures depend on; `load_average` of the last minute is other programs' at the start."""
    return {
        "dataset": dataset.dataset_name(args.data_dir),
        "num_tests": len(test),
        "rounds": args.rounds,
        "load_average": os.getloadavg()[0],
        "machine": environment.machine(),
        "versions": environment.versions(),
    }


def described(title, columns, rows, note, conditions):
    """Return a table in the form that scripts/compare_latency.py puts into its report."""
    result = {"title": title, "columns": list(columns), "rows": rows, "note": note}
    return result | {name: conditions[name] for name in ("machine", "versions")}


def report(result, json_file, draw=None):
    """Print a table and, if a file is named, write it there, with the picture that `draw()` returns beside it."""
    print(f"\n{result['note']}\n\n{markdown(result['columns'], result['rows'])}")
    if json_file:
        files.write_json(json_file, result)
        if draw:
            files.write_text(Path(json_file).with_suffix(".svg"), draw())


def markdown(columns, rows):
    """Return a Markdown table; a float is a time in milliseconds, shown to the microsecond."""
    texts = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *texts))


def open_model(stack, model_path):
    """Return (a base of its own with the newest version under `model_path`, its `ServedModel` in this process).

    `stack`, an ExitStack, removes and closes them. Raises: UserError if it is not the LSTM that takes the images.
    """
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.saved_model import ServedModel

    source = exports.newest(model_path)
    base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))) / MODEL_NAME
    shutil.copytree(source, base / str(exports.version_number(source.resolve())))
    model = stack.enter_context(ServedModel(base))
    found = [*model.signature.inputs, *model.signature.outputs]
    if found != [INPUT_KEY, OUTPUT_KEY]:
        raise UserError(f"{source}: the signature has {found}; expected {[INPUT_KEY, OUTPUT_KEY]}")
    return base, model


class Answers:
    """The images that are asked, float32 (N, 28, 28), and by kind what is expected: what the bare model answers."""

    def __init__(self, model, images):
        from flask_server import softmax
        from rnn_serving.model import INPUT_KEY, OUTPUT_KEY

        self.images = images
        self.call_model = lambda batch: model.predict({INPUT_KEY: batch})[OUTPUT_KEY]
        logits = self.call_model(images)
        self.expected = {"images": images, "logits": logits, "probabilities": softmax(logits)}

    def batches(self, size):
        """Return [(indexes, images)], `size` of each, that have every image at least once."""
        count = len(self.images)
        indexes = [np.arange(start, start + size) % count for start in range(0, count, size)]
        return [(chosen, self.images[chosen]) for chosen in indexes]

    def check(self, name, kind, indexes, scores):
        """Raise UserError unless scores, float32 (n, 10), are what the model answers to the images with n indexes."""
        expected = self.expected[kind][indexes]
        if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=0, atol=TOLERANCES[kind]):
            which = f"{indexes[0]} and the {len(indexes) - 1} after it"
            raise UserError(f"{name}: another answer to image {which}; expected the bare model's {kind}")


@dataclass(frozen=True)
class Route:
    """A way to ask a server: `decode(send(encode(images)))` gives scores, float32 (n, 10), of images (n, 28, 28).

    What is encoded and sent is bytes; `kind` says what the scores are, `metrics_url` where the server tells its times.
    """

    name: str
    kind: str
    metrics_url: str
    encode: object
    send: object
    decode: object

    def ask(self, images):
        """Return (scores, moments): when it was begun, encoded, answered and decoded, in seconds.

        Raises: UserError for a request without an answer.
        """
        began = time.perf_counter()
        body = self.encode(images)
        encoded = time.perf_counter()
        try:
            answer = self.send(body)
        except (requests.RequestException, grpc.RpcError) as error:
            reason = error.details() if isinstance(error, grpc.RpcError) else request_failure(error)
            raise UserError(f"{self.name}: {reason}; expected an answer") from error
        answered = time.perf_counter()
        scores = self.decode(answer)
        return scores, (began, encoded, answered, time.perf_counter())


def open_routes(stack, base, article_url):
    """Start the servers with the model under `base`, the article's aside; return a Route for each way to ask one."""
    own = open_model_server(stack, base, "python")
    flags = ("--backend", f"127.0.0.1:{own.port}", "--model_name", MODEL_NAME)
    session = stack.enter_context(direct_session())
    routes = [
        article_route(article_url),
        flask_route("Flask endpoint", stack.enter_context(processes.FlaskServer(base)), session),
        flask_route("Flask gateway", stack.enter_context(processes.FlaskServer(base, *flags)), session),
        rest_route("rnn_serving.model_server", own, session),
        grpc_route("rnn_serving.model_server", own, stack),
    ]
    if how := processes.cpp_server():
        cpp = open_model_server(stack, base, how)
        routes += [
            rest_route("tensorflow_model_server", cpp, session),
            grpc_route("tensorflow_model_server", cpp, stack),
        ]
    return routes


def open_model_server(stack, base, program):
    """Return the running `processes.TFServing`; what turns its metrics on is in `base`, where a container sees it."""
    config = base / "monitoring.config"
    files.write_text(config, MONITORING_CONFIG)
    server = processes.TFServing(base, f"--monitoring_config_file={config}", program=program)
    stack.enter_context(server)
    return server


def direct_session():
    """Return a session that asks no proxy: none stands between a client and a server on the same machine."""
    session = requests.Session()
    session.trust_env = False
    return session


def article_route(url):
    """Return the article's way: Python's json, lists of numbers, and a connection for each request."""
    return Route(
        "article's Flask server",
        *("probabilities", url + "metrics"),
        lambda images: json.dumps({"data": images.tolist()}).encode(),
        lambda body: content(requests.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S, proxies=dict(NO_PROXY))),
        lambda answer: np.array(json.loads(answer)["y"], np.float32),
    )


def flask_route(name, url, session):
    """Return the way of flask_client.py."""
    return Route(
        name,
        *("probabilities", url + "metrics"),
        lambda images: to_json({"data": images}),
        lambda body: content(session.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S)),
        lambda answer: np.array(orjson.loads(answer)["y"], np.float32),
    )


def rest_route(name, server, session):
    """Return the way of tfserving_client.py --protocol rest."""
    from rnn_serving.model import INPUT_KEY

    address = f"http://127.0.0.1:{server.rest_port}"
    url = f"{address}/v1/models/{MODEL_NAME}:predict"
    return Route(
        f"{name}, REST",
        *("logits", address + METRICS_PATH),
        lambda images: to_json({"inputs": {INPUT_KEY: images}}),
        lambda body: content(session.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S)),
        lambda answer: np.array(orjson.loads(answer)["outputs"], np.float32),
    )


def grpc_route(name, server, stack):
    """Return the way of tfserving_client.py."""
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}", CHANNEL_OPTIONS))
    predict = channel.unary_unary(PREDICT)
    return Route(
        f"{name}, gRPC",
        *("logits", f"http://127.0.0.1:{server.rest_port}{METRICS_PATH}"),
        to_predict_request,
        lambda body: predict(body, timeout=TIMEOUT_S),
        from_predict_response,
    )


def content(answer):
    """Return the body of an HTTP answer; requests.HTTPError unless its status is good."""
    answer.raise_for_status()
    return answer.content


def to_json(value):
    """Return a value, NumPy arrays included, as bytes of JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def to_predict_request(images):
    """Return images, float32 (n, 28, 28), as the bytes of a PredictRequest with `tensor_content`."""
    from rnn_serving.model import INPUT_KEY
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    request.inputs[INPUT_KEY].CopyFrom(tf.make_tensor_proto(images))
    return request.SerializeToString()


def from_predict_response(answer):
    """Return the logits, float32 (n, 10), in the bytes of a PredictResponse."""
    from rnn_serving.model import OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow_serving.apis import predict_pb2

    return tf.make_ndarray(predict_pb2.PredictResponse.FromString(answer).outputs[OUTPUT_KEY])


def measure(args, routes, answers):
    """Return {name: {size: images a second, a value for each round}} of the bare model call and every route."""
    asks = {BARE: ("logits", answers.call_model)}
    asks |= {route.name: (route.kind, lambda images, of=route: of.ask(images)[0]) for route in routes}
    sizes, turn_s = (QUICK_SIZES, QUICK_TURN_S) if args.quick else (SIZES, TURN_S)
    batches = {size: answers.batches(size) for size in sizes}
    with tqdm(total=args.rounds * len(sizes) * len(asks), unit="turn", disable=None) as bar:

        def turn(name, size):
            bar.update()
            return images_per_second(name, *asks[name], answers, batches[size], turn_s)

        turns = {(name, size): lambda of=(name, size): turn(*of) for size in sizes for name in asks}
        rates = in_turns(args.rounds, turns)
    return {name: {size: rates[name, size] for size in sizes} for name in asks}


def images_per_second(name, kind, ask, answers, batches, turn_s):
    """Ask for batches until a turn is over, after one that does not count; check the answers; return the rate."""
    ask(batches[0][1])
    asked, began = [], time.perf_counter()
    while (elapsed := time.perf_counter() - began) < turn_s:
        indexes, images = batches[len(asked) % len(batches)]
        asked.append((indexes, ask(images)))
    for indexes, scores in asked:
        answers.check(name, kind, indexes, scores)
    return sum(len(indexes) for indexes, _ in asked) / elapsed


def rates_table(rates):
    """Return (columns, rows): a row for each size, a column for the bare model call and each route."""
    rows = []
    for size, limits in rates[BARE].items():
        cells = []
        for name, by_size in rates.items():
            part = statistics.median(ratios(by_size[size], limits))
            rate = f"{statistics.median(by_size[size]):,.0f}"
            cells.append(rate if name == BARE else f"{rate} ({100 * part:.0f} %)")
        rows.append([size, *cells])
    return ["images a request", *rates], rows


def curves(rates, title):
    """Return the rates over the sizes, both by orders of magnitude, as an SVG."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    for name, by_size in rates.items():
        medians = [statistics.median(values) for values in by_size.values()]
        style = {"color": "black", "linestyle": "--"} if name == BARE else {"marker": "o", "markersize": 4}
        axis.plot(list(by_size), medians, linewidth=1.5, label=name, **style)
    axis.set(title=title, xlabel="images a request", ylabel="images a second")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(list(rates[BARE]), list(map(str, rates[BARE])))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.grid(color="#dddddd", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return as_svg(plt, figure)


def pyplot():
    """Return matplotlib's pyplot, set up to write SVG whose text stays text."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9})
    return plt


def as_svg(plt, figure):
    """Return a figure as the text of an SVG, and close it."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    plt.close(figure)
    return written.getvalue()


if __name__ == "__main__":
    command_line.run(main)
