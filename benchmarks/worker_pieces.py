"""Run flask_server.py without one piece of the worker or of the lean application, to measure what the piece brings.

    python -m benchmarks.worker_pieces PIECE --model_path exports/mnist --port 5000

`whole` leaves everything in place. Each piece is taken out by a function here; flags after PIECE are flask_server.py's.
"""

import sys
import types

import flask

import flask_server
from rnn_serving import command_line


def parsing_in_c():
    """Let gunicorn read requests and write answers, in Python."""
    from gunicorn.workers.ggevent import GeventWorker

    from rnn_serving.http_server.server import HTTPServer

    def serve(server, client, address):
        server._connections[client] = client
        server.count_changed()
        try:
            GeventWorker.handle(server._worker, server.socket, client, address)
        finally:
            del server._connections[client]
            server.count_changed()

    HTTPServer._serve = serve
    HTTPServer.shut_down_waiting = lambda server, how, waiting_s=0.0: None


def balanced_connections():
    """Let every worker accept whatever it can."""
    from rnn_serving.http_worker.balance import Balance

    Balance.is_fair = lambda balance, slot: True


def frozen_objects():
    """Let the garbage collector visit what is loaded."""
    from rnn_serving.http_worker import worker

    worker.gc = types.SimpleNamespace(collect=lambda: None, freeze=lambda: None)


def one_send():
    """Send head and body separately."""
    from rnn_serving.http_server.connection import HTTPConnection

    send = HTTPConnection._send_all

    def send_all(connection, content):
        end = bytes(content).index(b"\r\n\r\n") + 4
        send(connection, content[:end])
        send(connection, content[end:])

    HTTPConnection._send_all = send_all


def caches():
    """Build the general headers, the names of headers, the URL and the metrics' labels for every request."""
    from rnn_serving.http_server import connection, request_reader

    connection._general_headers = connection._general_headers.__wrapped__
    request_reader._environ_key = request_reader._environ_key.__wrapped__
    request_reader._path_and_query = request_reader._path_and_query.__wrapped__
    patch_in_worker("_request_metrics", lambda metrics: metrics._request_metrics.__wrapped__)


def model_call_in_loop():
    """Run every batch in a thread beside the loop."""
    from rnn_serving.http_worker import greenlets

    greenlets.IN_LOOP_S = 0


def wait_for_the_loop():
    """Run a batch without waiting until the loop has read what has arrived."""
    from rnn_serving.http_worker import greenlets

    greenlets.gevent = types.SimpleNamespace(**vars(greenlets.gevent) | {"idle": lambda: None})


def order_of_arrival():
    """Read the next request of a connection at once if it has arrived."""
    from rnn_serving.http_server import connection

    connection.gevent = types.SimpleNamespace(
        **vars(connection.gevent) | {"socket": types.SimpleNamespace(wait_read=lambda *arguments: None)}
    )


def lean_flask():
    """Use Flask as it is."""
    flask_server.LeanFlask = flask.Flask


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
    "what is loaded is exempt from garbage collection": frozen_objects,
    "head and body by one send": one_send,
    "caches of what requests have in common": caches,
    "short model calls in the loop": model_call_in_loop,
    "a batch waits until the loop has read": wait_for_the_loop,
    "connections read in the order of arrival": order_of_arrival,
    "LeanFlask": lean_flask,
}


def main(argv=None):
    """Take a piece out and serve; return the exit status."""
    piece, *flags = argv or sys.argv[1:]
    if piece != "whole":
        PIECES[piece]()
    return flask_server.main(flags)


if __name__ == "__main__":
    command_line.run(main)
