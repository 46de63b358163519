"""Run flask_server.py without one piece of the worker or of the lean application, to measure what the piece brings.

    python -m benchmarks.worker_pieces PIECE --model_path exports/mnist --port 5000

`whole` leaves everything in place. Each piece is taken out by a function here; flags after PIECE are flask_server.py's.
"""

import sys

import flask_server
from rnn_serving import command_line


def parsing_in_c():
    """Let gunicorn read requests and write answers, in Python."""
    from gunicorn.workers.ggevent import GeventWorker

    from rnn_serving.http_worker.worker import GreenletWorker

    def serve(worker, client, address):
        worker._connections[client] = client
        worker._publish()
        try:
            GeventWorker.handle(worker, worker.sockets[0], client, address)
        finally:
            del worker._connections[client]
            worker._publish()

    GreenletWorker._serve = serve
    GreenletWorker._shut_down_waiting = lambda worker, how, waiting_s=0.0: None


def balanced_connections():
    """Let every worker accept whatever it can."""
    from rnn_serving.http_worker.balance import Balance

    Balance.is_fair = lambda balance, slot: True


def garbage_collection():
    """Leave the collector at Python's defaults."""
    from rnn_serving.http_worker import worker

    worker.gc = type("gc", (), {name: staticmethod(lambda *_: None) for name in ("collect", "freeze", "set_threshold")})


def one_send():
    """Send head and body separately."""
    from rnn_serving.http_worker.connection import HTTPConnection

    send = HTTPConnection._send_all

    def send_all(connection, content):
        end = bytes(content).index(b"\r\n\r\n") + 4
        send(connection, content[:end])
        send(connection, content[end:])

    HTTPConnection._send_all = send_all


def cached_date():
    """Format the date and the general headers for every answer."""
    from rnn_serving.http_worker import connection

    connection._general_headers = connection._general_headers.__wrapped__


def cached_names():
    """Convert names of headers and URLs for every request."""
    from rnn_serving.http_worker import request_reader

    request_reader._environ_key = request_reader._environ_key.__wrapped__
    request_reader._path_and_query = request_reader._path_and_query.__wrapped__


def model_call_in_loop():
    """Run every batch in a thread beside the loop."""
    from rnn_serving.http_worker import greenlets

    greenlets.IN_LOOP_S = 0


def wait_for_the_loop():
    """Run a batch without waiting until the loop has read what has arrived."""
    from rnn_serving.http_worker import greenlets

    greenlets.gevent = type("gevent", (), {**vars(greenlets.gevent), "idle": staticmethod(lambda: None)})


def no_sessions():
    """Look for a session's cookie in every request."""
    from flask import Flask

    from rnn_serving.endpoint.lean_flask import LeanFlask

    LeanFlask.session_interface = Flask.session_interface


def views_as_they_are():
    """Ask for every request whether the view is a coroutine."""
    from rnn_serving.endpoint.lean_flask import LeanFlask

    del LeanFlask.ensure_sync


def routes_without_host():
    """Match every request by host, and build Werkzeug's adapter from the environment."""
    from rnn_serving.endpoint.lean_flask import LeanFlask

    del LeanFlask.create_url_adapter


def cached_metrics():
    """Find the metrics of every request by their labels."""
    patch_in_worker("_request_metrics", lambda metrics: metrics._request_metrics.__wrapped__)


def fixed_process_id():
    """Ask the system for the process id at every count."""
    from prometheus_client import values

    fixed = values.MultiProcessValue
    values.MultiProcessValue = lambda *_: fixed()


def patch_in_worker(name, make):
    """Replace an attribute of the metrics after the fork, where they are imported."""
    from rnn_serving.http_worker.worker import GreenletWorker

    run = GreenletWorker.run

    def run_patched(worker):
        from rnn_serving.endpoint import metrics

        setattr(metrics, name, make(metrics))
        run(worker)

    GreenletWorker.run = run_patched


# What is measured: the name of a piece, and what takes it out.
PIECES = {
    "HTTP parsed in C on our own connections": parsing_in_c,
    "connections balanced over the workers": balanced_connections,
    "garbage collection after more objects": garbage_collection,
    "head and body by one send": one_send,
    "general headers cached for a second": cached_date,
    "names of headers and URLs cached": cached_names,
    "short model calls in the loop": model_call_in_loop,
    "a batch waits until the loop has read": wait_for_the_loop,
    "Flask without sessions": no_sessions,
    "views called directly": views_as_they_are,
    "routes matched without the host": routes_without_host,
    "metrics cached by label": cached_metrics,
    "process id cached in metrics": fixed_process_id,
}


def main(argv=None):
    """Take a piece out and serve; return the exit status."""
    piece, *flags = argv or sys.argv[1:]
    if piece != "whole":
        PIECES[piece]()
    return flask_server.main(flags)


if __name__ == "__main__":
    command_line.run(main)
