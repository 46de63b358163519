"""Ask a server the same images from several threads, grade and time the answers, and report. No TensorFlow."""

import math
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import orjson
import requests

from rnn_serving import command_line, files
from rnn_serving.command_line import UserError
from rnn_serving.dataset import IMAGE_SHAPE, NUM_CLASSES

PERCENTILES = (50, 90, 95, 99)
# How many errors are printed; the JSON object lists all.
PRINTED_ERRORS = 5
# How models take an image: as rows, as one row of all pixels, or with a channel.
IMAGE_FORMS = (IMAGE_SHAPE, (math.prod(IMAGE_SHAPE),), (*IMAGE_SHAPE, 1))


class RequestError(Exception):
    """A request that got no answer, or an answer that is none; the message says what came instead."""


@dataclass
class Load:
    """What a run of requests measured: seconds of each answered request, and what went wrong."""

    elapsed_s: float = 0.0
    latencies_s: list = field(default_factory=list)
    correct: int = 0
    errors: list = field(default_factory=list)


def run_load(connect, split, batch_size=1, concurrency=1):
    """Ask for all images of `split` once, `concurrency` requests at a time, and return the `Load`.

    `connect()` returns a context manager whose value is `ask(images) -> scores`: float32 (n, 28, 28) to an array
    (n, 10), raising RequestError. Each thread has one of its own, and asks once before the clock starts.
    """
    run = _Run(connect, split, batch_size)
    # Daemons, so that Ctrl-C does not wait for answers.
    threads = [threading.Thread(target=run.be_a_caller, daemon=True) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for _ in threads:
        run.warm.acquire()
    started = time.perf_counter()
    run.go.set()
    for thread in threads:
        thread.join()
    if run.failure:
        raise run.failure
    run.load.elapsed_s = time.perf_counter() - started
    return run.load


class _Run:
    """What the threads of one `run_load` share."""

    def __init__(self, connect, split, batch_size):
        self.connect, self.split, self.batch_size = connect, split, batch_size
        self.starts = iter(range(0, len(split), batch_size))
        self.load, self.failure, self.lock = Load(), None, threading.Lock()
        self.warm, self.go = threading.Semaphore(0), threading.Event()

    def be_a_caller(self):
        """Warm up, wait for the start, then ask one batch after the other until there is none left."""
        try:
            with self.connect() as ask:
                _try(ask, self.split.images[: self.batch_size])
                self.warm.release()
                self.go.wait()
                while (start := self.next_start()) is not None:
                    self.ask_one(ask, start)
        except Exception as error:  # a defect, not an answer: raised again by run_load
            self.failure = error
            self.warm.release()

    def next_start(self):
        """Return where the next batch starts, or None."""
        with self.lock:
            return next(self.starts, None)

    def ask_one(self, ask, start):
        """Ask for one batch and note the answer and how long it took."""
        images = self.split.images[start : start + self.batch_size]
        began = time.perf_counter()
        scores, error = _try(ask, images)
        latency = time.perf_counter() - began
        with self.lock:
            if error:
                self.load.errors.append(f"image {start}: {error}")
            else:
                self.load.latencies_s.append(latency)
                self.load.correct += int(
                    (scores.argmax(axis=1) == self.split.labels[start : start + len(images)]).sum()
                )


def _try(ask, images):
    """Return (scores, None) or (None, what went wrong)."""
    try:
        scores = np.asarray(ask(images))
    except RequestError as error:
        return None, str(error)
    if scores.shape != (len(images), NUM_CLASSES) or not np.isfinite(scores).all():
        expected = f"{len(images)} rows of {NUM_CLASSES} finite numbers"
        return None, f"answer has shape {scores.shape} or numbers that are not finite; expected {expected}"
    return scores, None


def image_form(key, dtype, shape):
    """Return the shape, one of `IMAGE_FORMS`, in which an input of a signature takes one image.

    `dtype` is the input's, by name, `shape` has None where any size goes and is None if the rank is unknown.
    Raises: UserError if it takes no float32 images in any of these shapes.
    """
    for form in IMAGE_FORMS:
        if dtype == "float32" and (shape is None or _fits(shape, (None, *form))):
            return form
    *forms, last = (str((None, *form)) for form in IMAGE_FORMS)
    found = "any shape" if shape is None else tuple(shape)
    raise UserError(f"takes {dtype} {found} as {key!r}; expected float32 {', '.join(forms)} or {last}")


def _fits(shape, wanted):
    """Return whether some batch has both shapes."""
    return len(shape) == len(wanted) and all(None in (a, b) or a == b for a, b in zip(shape, wanted))


def make_report(server, protocol, model_version, dataset, load, num_tests, concurrency, batch_size):
    """Return the report both clients write: `accuracy` over all images asked, latencies in milliseconds."""
    milliseconds = np.array(load.latencies_s or [np.nan]) * 1000
    summary = {"mean": milliseconds.mean()}
    summary |= {f"p{percent}": np.percentile(milliseconds, percent) for percent in PERCENTILES}
    summary |= {"max": milliseconds.max()}
    return {
        "server": server,
        "protocol": protocol,
        "model_version": model_version,
        "dataset": dataset,
        "num_tests": num_tests,
        "correct": load.correct,
        "accuracy": load.correct / num_tests,
        "errors": len(load.errors),
        "concurrency": concurrency,
        "batch_size": batch_size,
        "elapsed_s": load.elapsed_s,
        "throughput_rps": len(load.latencies_s) / load.elapsed_s,
        # Without one answer there is no latency, and JSON has no NaN.
        "latency_ms": {name: float(value) if load.latencies_s else None for name, value in summary.items()},
        "error_list": load.errors,
    }


def print_report(report):
    """Print a report for people."""
    print(
        f"{report['server']} over {report['protocol']}, model version {report['model_version']}, "
        f"data set {report['dataset']}"
    )
    print(f"Accuracy= {100 * report['accuracy']:.2f}")
    # Of wrong digits: a request without an answer is none.
    wrong = report["num_tests"] - report["correct"]
    print(f"Error rate= {'-' if report['errors'] else format(100 * wrong / report['num_tests'], '.4g')} %")
    print(f"Time taken= {report['elapsed_s']:.2f} s")
    latencies = (
        f"{name} {'-' if value is None else format(value, '.2f')}" for name, value in report["latency_ms"].items()
    )
    print("Latency in ms:", ", ".join(latencies))
    print(
        f"{report['num_tests']} images, {report['correct']} correct, {report['errors']} errors; "
        f"{report['throughput_rps']:.1f} requests/s at concurrency {report['concurrency']}, "
        f"batch size {report['batch_size']}"
    )
    for error in report["error_list"][:PRINTED_ERRORS]:
        print(f"  {error}")
    if report["errors"] > PRINTED_ERRORS:
        print(f"  and {report['errors'] - PRINTED_ERRORS} more")


def finish(report, json_file=None):
    """Print the report, write it as JSON if a file is named, and return the exit status: 0 if all was answered."""
    print_report(report)
    if json_file:
        files.write_json(json_file, report)
    return (
        command_line.fail(f"requests without an answer: {report['errors']}; expected none") if report["errors"] else 0
    )


def add_client_flags(parser, port, port_help="the server's port"):
    """Add the flags that both clients have."""
    command_line.add_data_dir(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the server's address, with or without http://")
    parser.add_argument("--port", type=command_line.port_number, default=port, help=port_help)
    parser.add_argument(
        "--num_tests", type=command_line.positive_int, help="test images to ask (default: all, but 1,000 at most)"
    )
    parser.add_argument("--batch_size", type=command_line.positive_int, default=1, help="images in one request")
    parser.add_argument("--concurrency", type=command_line.positive_int, default=1, help="requests at a time")
    parser.add_argument("--timeout", type=command_line.positive_float, default=10.0, help="seconds one answer may take")
    parser.add_argument("--json", metavar="FILE", help="write the report there as well")


def post_json(session, url, value, timeout_s):
    """Return the answer, as an object, to a value that is sent as JSON; NumPy arrays may be in it.

    Raises: RequestError with what the server or the connection said instead.
    """
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    try:
        answer = session.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=timeout_s)
    except (requests.RequestException, ValueError) as error:
        raise RequestError(f"{url}: {command_line.request_failure(error)}; expected an answer") from error
    if answer.status_code != 200:
        raise RequestError(f"{url}: {status_of(answer)}; expected 200")
    try:
        return orjson.loads(answer.content)
    except ValueError as error:
        raise RequestError(f"{url}: {answer.text[:100]!r}; expected JSON") from error


def status_of(answer):
    """Return the status of an HTTP answer and the beginning of what it says, on one line."""
    return f"status {answer.status_code} {' '.join(answer.text[:300].split())}"


def host_name(host):
    """Return a host as a URL has it, without the `http://` and the slash that users paste; IPv6 in brackets."""
    host = host.split("://", 1)[-1].rstrip("/")
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
