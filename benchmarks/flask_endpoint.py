"""Measure the Flask endpoint: against the article's Flask server and the bare model call.

    python benchmarks/flask_endpoint.py --data_dir data/mnist --model_path exports/mnist

Starts and stops every server itself. The load comes from wrk where it is installed, else from this project's own
generator. What is compared takes turns within each round; a figure is the median over the rounds, a ratio the median of
the rounds' ratios. A target that is missed is shown, not an error; an answer that is missing or wrong is an error.
Nothing else may run meanwhile: the two sides of a ratio do not suffer alike from it.
"""

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
import requests
from figures import Figure, about, check_errors, describe_run, in_turns, markdown_table, median_call_ms, ratios

from rnn_serving import command_line, dataset, files, processes
from rnn_serving.command_line import UserError
from rnn_serving.load_generator import HTTPTarget, LoadGenerator

# TensorFlow is imported inside functions: the process of the load generator imports this script as well.

MANY_CALLERS, MANY_IMAGES = 32, 128
# Seconds: a turn of load, and the load before it that does not count, in which the other server ends what it still has.
TURN_S, WARM_UP_S = 4.0, 1.0
WRK_SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, index = {{}}, 0
for line in io.lines({bodies}) do bodies[#bodies + 1] = line end
request = function()
  index = index % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[index])
end
"""


def main(argv=None):
    """Measure, print the table, and return the exit status."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    conditions = describe_run(args, test) | describe_load(args)
    bodies = [orjson.dumps({"data": image}, option=orjson.OPT_SERIALIZE_NUMPY) for image in test.images]
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(Wrk(bodies) if shutil.which("wrk") else OwnLoad(bodies))
        began = time.monotonic()
        endpoint = processes.FlaskServer(args.model_path, "--workers", str(args.workers))
        url = stack.enter_context(endpoint)
        figures = [Figure.of("start-up of the endpoint, s", [time.monotonic() - began])]
        with processes.ArticleServer(args.model_path) as article_url:
            check_answers(url, article_url, bodies)
            figures += measure_load(args, load, {"article's server": article_url, "the endpoint": url})
        figures += measure_many_images(args, url, test)
        figures += measure_memory(args, load, url, endpoint)
    print(about(conditions) + f" Load from {conditions['load']}.", markdown_table(figures), sep="\n\n")
    if args.json:
        files.write_json(args.json, conditions | {"figures": [asdict(figure) for figure in figures]})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--model_path", default="exports/mnist", help="directory of versions, or one version")
    parser.add_argument("--workers", type=command_line.positive_int, default=2, help="workers of the endpoint")
    parser.add_argument("--rounds", type=command_line.positive_int, default=5, help="rounds of each measurement")
    parser.add_argument("--num_tests", type=command_line.positive_int, default=300, help="test images to ask")
    parser.add_argument(
        "--num_requests", type=command_line.positive_int, default=100_000, help="requests between looks at the memory"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    return parser.parse_args(argv)


def describe_load(args):
    """Return what these figures depend on beside what all benchmarks' do."""
    return {"workers": args.workers, "load": "wrk" if shutil.which("wrk") else "rnn_serving.load_generator"}


@dataclass
class Speed:
    """What one turn of load measured; latencies in milliseconds."""

    throughput_rps: float
    p50_ms: float
    p99_ms: float


class Wrk:
    """wrk, a load generator in C that costs next to nothing of the machine."""

    def __init__(self, bodies):
        self._bodies = bodies

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="wrk-")
        directory = Path(self._directory.name)
        (directory / "bodies").write_bytes(b"\n".join(self._bodies))
        self._script = directory / "post.lua"
        files.write_text(self._script, WRK_SCRIPT.format(bodies=json.dumps(str(directory / "bodies"))))
        return self

    def __exit__(self, *_):
        self._directory.cleanup()

    def run(self, url, concurrency, duration_s):
        """Ask from `concurrency` connections; return the Speed.

        Raises: UserError if a request had no answer or an error.
        """
        command = ["wrk", "--threads", "1", "--connections", str(concurrency), "--duration", f"{duration_s:.0f}s"]
        ended = subprocess.run(
            [*command, "--latency", "--script", str(self._script), url], capture_output=True, text=True, check=False
        )
        failed = re.findall(r"Non-2xx.*|Socket errors:.*|unable to.*", ended.stdout + ended.stderr)
        # The article's server closes every connection, which wrk counts as an error of reading.
        check_errors([line for line in failed if not re.search(r"connect 0, read \d+, write 0, timeout 0", line)])
        values = dict(re.findall(r"(50|99)%\s+(\S+)", ended.stdout))
        return Speed(
            float(re.search(r"Requests/sec:\s+(\S+)", ended.stdout)[1]),
            milliseconds(values["50"]),
            milliseconds(values["99"]),
        )


def milliseconds(text):
    """Return a duration as wrk writes it, "1.23ms", in milliseconds."""
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


class OwnLoad:
    """The project's load generator."""

    def __init__(self, bodies):
        self._bodies, self._generator = bodies, LoadGenerator()

    def __enter__(self):
        self._generator.__enter__()
        return self

    def __exit__(self, *error):
        self._generator.__exit__(*error)

    def run(self, url, concurrency, duration_s):
        """Do as `Wrk.run` does."""
        load = self._generator.run(HTTPTarget(url, self._bodies), concurrency, duration_s)
        check_errors(load.errors)
        p50, p99 = np.percentile(load.latencies_s(), (50, 99)) * 1000
        return Speed(load.throughput_rps, float(p50), float(p99))


def check_answers(url, other_url, bodies):
    """Raise UserError unless both servers answer the same probabilities to every image."""
    for number, body in enumerate(bodies):
        mine, its = (np.array(post(where, body).json()["y"]) for where in (url, other_url))
        if not np.allclose(mine, its, atol=1e-5):
            raise UserError(f"image {number}: {url} and {other_url} differ; expected the same probabilities")


def post(url, body, session=requests):
    """Return the answer to a body of JSON."""
    answer = session.post(
        url, data=body, headers={"Content-Type": "application/json"}, timeout=30, proxies={"no_proxy": "127.0.0.1"}
    )
    answer.raise_for_status()
    return answer


def measure_load(args, load, urls):
    """Return the figures of one caller and of many: the endpoint's share of what the article's server takes."""
    return [*load_figures(args, load, urls, 1), *load_figures(args, load, urls, MANY_CALLERS)]


def load_figures(args, load, urls, callers):
    """Return the figures of a number of callers."""

    def turn(url):
        load.run(url, callers, WARM_UP_S)
        return load.run(url, callers, TURN_S)

    speeds = in_turns(args.rounds, {name: lambda of=url: turn(of) for name, url in urls.items()})
    title, figures = f"{callers} caller{'s' if callers > 1 else ''}", []
    for what, unit in (("throughput_rps", "requests/s"), ("p50_ms", "p50, ms"), ("p99_ms", "p99, ms")):
        values = {name: [getattr(speed, what) for speed in runs] for name, runs in speeds.items()}
        figures += [Figure.of(f"{title}: {name}, {unit}", of) for name, of in values.items()]
        article, endpoint = values.values()
        bounds = TARGETS.get((callers, what), {})
        figures.append(Figure.of(f"{title}: {unit}, endpoint / article's", ratios(endpoint, article), **bounds))
    return figures


TARGETS = {
    (1, "p50_ms"): {"at_most": 0.7},
    (MANY_CALLERS, "throughput_rps"): {"at_least": 5},
    (MANY_CALLERS, "p99_ms"): {"at_most": 0.33},
}


def measure_many_images(args, url, test):
    """Return the figures of one request with many images, and of the model call alone in this process."""
    from rnn_serving.saved_model import ServedModel

    images = np.resize(test.images, (MANY_IMAGES, *test.images.shape[1:]))
    body = orjson.dumps({"data": images}, option=orjson.OPT_SERIALIZE_NUMPY)
    with requests.Session() as session, ServedModel(args.model_path) as model:
        [key] = model.signature.inputs
        medians = in_turns(
            args.rounds,
            {
                "the endpoint": lambda: median_call_ms(lambda: post(url, body, session)),
                "the model call": lambda: median_call_ms(lambda: model.predict({key: images})),
            },
        )
    title = f"{MANY_IMAGES} images"
    return [
        *(Figure.of(f"{title}: {name}, ms", values) for name, values in medians.items()),
        Figure.of(f"{title}: the endpoint / the model call", ratios(*medians.values()), at_most=3),
    ]


def measure_memory(args, load, url, endpoint):
    """Return the memory of the largest worker, before and after many requests."""
    before = endpoint.worker_memory_mib()
    asked, began = 0, answered_requests(url)
    while asked < args.num_requests:
        load.run(url, MANY_CALLERS, TURN_S)
        asked = answered_requests(url) - began
    after = endpoint.worker_memory_mib()
    return [
        Figure.of("memory of a worker, MiB", [before]),
        Figure.of(f"memory of a worker after {args.num_requests:,} more requests, MiB", [after]),
        Figure.of("memory after / before", [after / before], at_most=1.02),
    ]


def answered_requests(url):
    """Return how many predictions the endpoint says that it has answered."""
    page = requests.get(url + "metrics", timeout=30, proxies={"no_proxy": "127.0.0.1"}).text
    return float(re.search(r'^flask_requests_total{path="/",status="200"} (\S+)', page, re.MULTILINE)[1])


if __name__ == "__main__":
    command_line.run(main)
