"""Measure the model server: against the article's Flask path, the bare model call, and itself without batching.

    python -m benchmarks.model_server --data_dir data/mnist --model_path exports/mnist

Starts and stops every server itself. What is compared takes turns within each round; a figure is the median over the
rounds, a ratio the median of the rounds' ratios. TFSERVING=binary or docker measures tensorflow_model_server instead.
A missed target is shown and is not an error; a request without an answer, or with a wrong one, is an error.
Run nothing else in the meantime: it would not slow both sides of a ratio alike.
"""

import contextlib
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import concurrent_callers, conditions, figures, server_processes
from benchmarks.answers import Answers
from benchmarks.concurrent_callers import Callers, copy_export, open_client
from benchmarks.figures import Figure, check_errors
from benchmarks.load_generator import LoadGenerator
from benchmarks.many_images import many_images_figures, repeat_images
from benchmarks.protocols import MODEL_NAME
from benchmarks.rounds import in_turns, ratios
from rnn_serving import command_line, dataset
from rnn_serving.clients.load import run_load
from rnn_serving.command_line import UserError

# TensorFlow, and what imports it, is imported inside functions: the process of the load generator imports this module
# as well and sends bytes only.


def main(argv=None):
    """Measure, print the table, and return the exit status."""
    args = parse_arguments(argv)
    server_processes.end_on_sigterm()
    os.environ.setdefault("TFSERVING", "python")
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    run = conditions.describe_requests(args, test) | describe_batching(args)
    with contextlib.ExitStack() as stack:
        measured = measure(args, stack, test)
    figures.report(conditions.about_requests(run), measured, run, args.json)
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    figures.add_flags(parser)
    add, positive_int = parser.add_argument, command_line.positive_int
    add("--max_batch_size", type=positive_int, default=32, help="images in a batch at most")
    add("--batch_timeout_micros", type=int, default=4000, help="wait for more, microseconds")
    add("--num_batch_threads", type=positive_int, default=1, help="batches run at a time")
    return parser.parse_args(argv)


def describe_batching(args):
    """Return what these figures depend on, besides what those of all benchmarks do."""
    flags = ("max_batch_size", "batch_timeout_micros", "num_batch_threads")
    return {"batching": {name: vars(args)[name] for name in flags}}


def measure(args, stack, test):
    """Return all figures; `stack`, an ExitStack, stops the server and the load generator."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-server-")))
    base = copy_export(args.model_path, directory / "plain" / MODEL_NAME)
    address = stack.enter_context(server_processes.TFServing(base))
    logits = bare_logits(base, test)
    measured = measure_one_image(args, address, relabelled(test, logits))
    measured += measure_many_images(args, address, base, test)
    callers = Callers(stack.enter_context(LoadGenerator()), test, logits)
    measured += concurrent_callers.measure_batching(args, address, directory, callers)
    measured += concurrent_callers.measure_swaps(args, address, base, callers)
    return measured


def bare_logits(base, test):
    """Return the logits, float32 (N, 10), that the model under `base` answers to the images of a `Split`."""
    from rnn_serving.saved_model import ServedModel

    with ServedModel(base) as model:
        return Answers(model, test.images).expected["logits"]


def relabelled(test, logits):
    """Return the images labelled with the digits that the model takes them for, so that each answer is checked."""
    return dataset.Split(test.pixels, logits.argmax(axis=1).astype(np.uint8))


def measure_one_image(args, address, test):
    """Return the figures of one caller who sends one image at a time."""
    from benchmarks import article_clients

    with server_processes.ArticleServer(args.model_path) as url, open_client(address) as (_, connect):
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
    load = run_load(connect, test)
    check_errors(load.errors)
    if load.correct != len(test):
        raise UserError(f"{len(test) - load.correct} answers differ from the model's; expected the same digits")
    return 1000 * statistics.median(load.latencies_s)


def measure_many_images(args, address, base, test):
    """Return the figures of one request with many images, and of the model call alone in this process."""
    from rnn_serving.model import INPUT_KEY
    from rnn_serving.saved_model import ServedModel

    images = repeat_images(test)
    with open_client(address) as (_, connect), connect() as ask, ServedModel(base) as model:
        return many_images_figures(
            args.rounds, "Predict", lambda: ask(images), lambda: model.predict({INPUT_KEY: images}), at_most=1.5
        )


if __name__ == "__main__":
    command_line.run(main)
