"""Measure what each habit costs: one is changed at a time, all else stays the same, and so does the answer.

    python benchmarks/habits.py --data_dir data/mnist --model_path exports/mnist --json reports/habits.json

The way to call the model, the server, connections, channels, JSON, how floats are written, and how many images share a
request. Starts and stops every server itself. Prints the table; with --json writes it as well.
An answer that is missing, or is not the bare model's, is an error. Nothing else may run meanwhile.
"""

import contextlib
import json
import logging
import os
import statistics
import time
from dataclasses import dataclass, replace

import grpc
import numpy as np
import orjson
import requests
from breakdown import serving
from figures import about, describe_run, in_turns, ratios
from routes import (
    CHANNEL_OPTIONS,
    JSON_HEADERS,
    NO_PROXY,
    PREDICT,
    TIMEOUT_S,
    Answers,
    content,
    direct_session,
    flask_route,
    grpc_route,
    open_model,
    open_model_server,
    to_json,
)
from tables import add_flags, described, report, with_quick
from tqdm import tqdm

from rnn_serving import command_line, dataset, processes

# TensorFlow is imported inside functions: the processes of the servers import this script before gunicorn forks.

SIZES = (1, 32, 128)
# Seconds a turn lasts, at least one call long.
TURN_S, QUICK_TURN_S = 0.3, 0.05
COLUMNS = ("what", "habit", "ms an image", "costs, ms", "times as long", "spread", "rounds")
# The application, served in three ways.
DEVELOPMENT, GUNICORN, GUNICORN_JSON = "development server", "gunicorn", "gunicorn, Python's json"
NOTE = (
    "Each habit against the last one of its group; nothing else differs between them. Milliseconds are medians over "
    "the rounds of a round's median; costs and times are medians of the rounds' differences and ratios, with the "
    "smallest and the largest ratio of a round. The model call and the floats (written and read) are measured within "
    "one process; the rest are whole requests of one caller, to one Flask application or to the model server. Both "
    "servers of the group are asked over a connection for each request, since the development server keeps none."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    conditions = describe_run(args, test)
    with contextlib.ExitStack() as stack:
        base, model = open_model(stack, args.model_path)
        habits = [*model_habits(stack, model), *flask_habits(stack, base), *grpc_habits(stack, base), *float_habits()]
        milliseconds = measure(args, habits, Answers(model, test.images))
    rows = table_rows(habits, milliseconds)
    report(described("What each habit costs", COLUMNS, rows, f"{NOTE} {about(conditions)}", conditions), args.json)
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    add_flags(parser, rounds=7, num_tests=256)
    return with_quick(parser.parse_args(argv))


@dataclass(frozen=True)
class Habit:
    """One habit of a group: `ask(images)` answers `size` images, float32 (n, 28, 28), with what `kind` says."""

    group: str
    name: str
    kind: str
    ask: object
    size: int = 1

    @classmethod
    def of(cls, group, name, route, size=1):
        """Return the habit to ask by a `routes.Route`."""
        route = replace(route, name=f"{group}, {name}")
        return cls(group, name, route.kind, lambda images: route.ask(images)[0], size)


def model_habits(stack, model):
    """Return the ways to call a model in this process: `model`, a `ServedModel`, and others with its weights."""
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf
    from rnn_serving.saved_model import DEFAULT_SIGNATURE, SERVE_TAG

    loaded = tf.saved_model.load(str(model.directory))
    function, classifier = loaded.signatures[DEFAULT_SIGNATURE], eager_classifier(loaded)
    keras_model = as_keras(classifier)
    session = stack.enter_context(contextlib.closing(tf.compat.v1.Session(graph=tf.Graph())))
    with session.graph.as_default():
        tf.compat.v1.saved_model.load(session, [SERVE_TAG], str(model.directory))
    source, target = model.signature.inputs[INPUT_KEY].name, model.signature.outputs[OUTPUT_KEY].name
    callers_thread = tf.compat.v1.RunOptions(inter_op_thread_pool=-1)
    asks = {
        "model.predict of Keras": lambda images: keras_model.predict(images, verbose=0),
        "eager call, model(images)": lambda images: classifier(images)[0].numpy(),
        "signature of tf.saved_model.load": lambda images: function(**{INPUT_KEY: tf.constant(images)})[
            OUTPUT_KEY
        ].numpy(),
        "signature by Session.run": lambda images: session.run(target, {source: images}),
        "Session.run in the caller's thread": lambda images: session.run(target, {source: images}, callers_thread),
        "caller's thread by the C API": lambda images: model.predict({INPUT_KEY: images})[OUTPUT_KEY],
    }
    return [Habit("model call", name, "logits", ask) for name, ask in asks.items()]


def eager_classifier(loaded):
    """Return an `LSTMClassifier` with the weights of what tf.saved_model.load returned."""
    from rnn_serving.model import LSTMClassifier

    weights = {weight.name: weight for weight in loaded.variables}
    classifier = LSTMClassifier(num_hidden=weights["lstm/recurrent_kernel:0"].shape[0])
    for variable in classifier.variables:
        variable.assign(weights[variable.name])
    return classifier


def as_keras(classifier):
    """Return a Keras model that answers the logits of an `LSTMClassifier`."""
    # A keras.json in the home directory may say otherwise.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    class KerasClassifier(keras.Model):
        def call(self, images):
            return classifier(images)[0]

    return KerasClassifier()


def flask_habits(stack, base):
    """Return the ways to serve one Flask application and to ask it, an image a request."""
    urls = {
        how: stack.enter_context(serving(serve_flask, how, str(base))) for how in (DEVELOPMENT, GUNICORN, GUNICORN_JSON)
    }
    session = stack.enter_context(direct_session())
    kept, plain = (flask_route("", urls[how], session) for how in (GUNICORN, GUNICORN_JSON))
    anew = {how: replace(kept, send=lambda body, url=urls[how]: post(url, body)) for how in (DEVELOPMENT, GUNICORN)}
    plain = replace(
        plain,
        encode=lambda images: json.dumps({"data": images.tolist()}).encode(),
        decode=lambda answer: np.array(json.loads(answer)["y"], np.float32),
    )
    return [
        *(Habit.of("server", how, route) for how, route in anew.items()),
        Habit.of("connection", "one for each request", anew[GUNICORN]),
        Habit.of("connection", "kept open", kept),
        Habit.of("JSON, both ends", "json", plain),
        Habit.of("JSON, both ends", "orjson", kept),
    ]


def post(url, body):
    """Return the answer to a body of JSON over a connection of its own."""
    return content(requests.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S, proxies=dict(NO_PROXY)))


def serve_flask(how, base, port):
    """Serve flask_server.py's application with a `ServedModel`, without what production adds to the model."""
    import flask_server
    from rnn_serving.flask_endpoint import gunicorn_server

    if how == DEVELOPMENT:
        from werkzeug.serving import run_simple

        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        # What app.run does, without its banner.
        run_simple("127.0.0.1", port, open_app(base)[0], threaded=True)
        return
    if how == GUNICORN_JSON:
        flask_server.orjson = PlainJSON
    gunicorn_server.serve(lambda: open_app(base), gunicorn_server.listen("127.0.0.1", port), workers=1)


def open_app(base):
    """Return the application and its model, which is loaded once and for all."""
    import flask_server
    from rnn_serving.saved_model import ServedModel

    model = ServedModel(base)
    model.load = model.refresh = lambda: None
    return flask_server.create_app(model), model


class PlainJSON:
    """What flask_server.py needs of orjson, by Python's own json."""

    JSONDecodeError, loads = json.JSONDecodeError, staticmethod(json.loads)

    @staticmethod
    def dumps(value, option):
        """Return a value, NumPy arrays included, as bytes of JSON."""
        return json.dumps(value, default=np.ndarray.tolist).encode()


def grpc_habits(stack, base):
    """Return the ways to ask the model server: by a new channel, by one that is kept, and for more images at once."""
    server = open_model_server(stack, base, "python")
    kept = grpc_route("", server, stack)

    def send_on_a_new_channel(body):
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", CHANNEL_OPTIONS) as channel:
            return channel.unary_unary(PREDICT)(body, timeout=TIMEOUT_S)

    return [
        Habit.of("gRPC channel", "one for each call", replace(kept, send=send_on_a_new_channel)),
        Habit.of("gRPC channel", "used again", kept),
        *(Habit.of("images a request, gRPC", str(size), kept, size) for size in SIZES),
    ]


def float_habits():
    """Return the ways to write the floats of an image and to read them at the other end."""
    from rnn_serving.dataset import IMAGE_SHAPE
    from rnn_serving.flask_endpoint.tensor_from_json import tensor_from_json
    from rnn_serving.model_server.tensors import decode
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow.core.framework import tensor_pb2

    def through_text(images):
        return tensor_from_json(orjson.loads(to_json({"data": images}))["data"], "data", (None, *IMAGE_SHAPE))

    def through_proto(values, shape):
        sent = tf.make_tensor_proto(values, tf.float32, shape).SerializeToString()
        return decode("images", tensor_pb2.TensorProto.FromString(sent))

    asks = {
        "as text, orjson": through_text,
        "as a list, `float_val`": lambda images: through_proto(images.ravel().tolist(), images.shape),
        "as `tensor_content`": lambda images: through_proto(images, images.shape),
    }
    return [Habit("floats", name, "images", ask) for name, ask in asks.items()]


def measure(args, habits, answers):
    """Return, for each habit, the milliseconds an image of every round."""
    batches = {size: answers.batches(size) for size in {habit.size for habit in habits}}
    turn_s = QUICK_TURN_S if args.quick else TURN_S
    with tqdm(total=args.rounds * len(habits), unit="turn", disable=None) as bar:

        def turn(habit):
            bar.update()
            return median_ms(habit, answers, batches[habit.size], turn_s)

        turns = in_turns(args.rounds, {place: lambda of=habit: turn(of) for place, habit in enumerate(habits)})
    return list(turns.values())


def median_ms(habit, answers, batches, turn_s):
    """Ask for batches until a turn is over, after one that does not count; check the answers; return the median."""
    habit.ask(batches[0][1])
    asked, seconds, ends = [], [], time.perf_counter() + turn_s
    while not asked or time.perf_counter() < ends:
        indexes, images = batches[len(asked) % len(batches)]
        began = time.perf_counter()
        scores = habit.ask(images)
        seconds.append(time.perf_counter() - began)
        asked.append((indexes, scores))
    for indexes, scores in asked:
        answers.check(f"{habit.group}, {habit.name}", habit.kind, indexes, scores)
    return 1000 * statistics.median(seconds) / habit.size


def table_rows(habits, milliseconds):
    """Return a row for each habit: its group, name and time, and how it compares with the last one of its group."""
    last = {habit.group: values for habit, values in zip(habits, milliseconds)}
    rows = []
    for habit, values in zip(habits, milliseconds):
        row = [habit.group, habit.name, round(statistics.median(values), 4)]
        if values is last[habit.group]:
            rows.append([*row, "-", "1", "-", len(values)])
            continue
        compared = ratios(values, last[habit.group])
        costs = statistics.median(its - best for its, best in zip(values, last[habit.group]))
        spread = f"{min(compared):.2f} - {max(compared):.2f}"
        rows.append([*row, round(costs, 4), f"{statistics.median(compared):.2f}", spread, len(values)])
    return rows


if __name__ == "__main__":
    command_line.run(main)
