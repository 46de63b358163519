"""The article's Flask server with metrics: how long its application took for the requests, and its model for its calls.

One caller at a time asks it.
"""

import logging
import time

# TensorFlow is imported inside functions: the process that starts the server imports this module too.


def serve(base, port):
    """Serve as article_flask_server.py does, with the times of application and model at GET /metrics."""
    from werkzeug.serving import run_simple

    from benchmarks import article_flask_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    session, *names = article_flask_server.load_model(base)
    model = TimedSession(session)
    app = article_flask_server.create_app(model, *names)
    # What app.run does, without its banner.
    run_simple("127.0.0.1", port, TimedApplication(app, model.spent), threaded=True)


class Spent:
    """Seconds spent, and how often, under the name of a metric."""

    def __init__(self, name):
        self._name, self._seconds, self._count = name, 0.0, 0

    def add(self, seconds):
        """Count a call."""
        self._seconds += seconds
        self._count += 1

    def lines(self):
        """Return the samples of the metric."""
        return f'{self._name}_sum{{path="/"}} {self._seconds}\n{self._name}_count{{path="/"}} {self._count}\n'


class TimedSession:
    """A session whose runs are timed."""

    def __init__(self, session):
        self._session, self.spent = session, Spent("flask_model_seconds")

    def run(self, *args, **kwargs):
        """Run the session."""
        began = time.perf_counter()
        found = self._session.run(*args, **kwargs)
        self.spent.add(time.perf_counter() - began)
        return found


class TimedApplication:
    """A WSGI application whose requests are timed; GET /metrics answers as the Flask endpoint does."""

    def __init__(self, application, *others):
        self._application, self._spent, self._others = application, Spent("flask_request_seconds"), others

    def __call__(self, environ, start_response):
        """Answer one request."""
        if environ["PATH_INFO"] == "/metrics":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return ["".join(each.lines() for each in (self._spent, *self._others)).encode()]
        began = time.perf_counter()
        answer = list(self._application(environ, start_response))
        self._spent.add(time.perf_counter() - began)
        return answer
