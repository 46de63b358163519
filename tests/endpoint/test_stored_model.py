"""The Flask endpoint with models at an S3 server."""

import contextlib
import os
import signal
import sys
import threading

import pytest
import requests
from conftest import started
from endpoint_processes import ready_workers, wait_until, worker_pids

import flask_server
from benchmarks import server_processes
from rnn_serving import exports
from rnn_serving.command_line import UserError
from rnn_serving.endpoint.stored_model import StoredModel

BODY = {"data": [0.5] * 784}


def status(url, path="readyz"):
    """Return the status of a GET, None before the server answers."""
    with contextlib.suppress(requests.RequestException):
        return requests.get(url + path, timeout=10).status_code
    return None


class Callers:
    """Threads that send requests; `versions` are those that answered, `failures` all that was not answered."""

    def __init__(self, url, count=4):
        self._url, self._stop = url, threading.Event()
        self.versions, self.failures = set(), []
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        with requests.Session() as session:
            while not self._stop.wait(0.01):
                try:
                    response = session.post(self._url, json=BODY, timeout=20)
                    response.raise_for_status()
                    self.versions.add(response.headers["X-Model-Version"])
                except requests.RequestException as error:
                    self.failures.append(error)


def start(path, *flags):
    """Start `flask_server.py` without waiting for its model; return a context manager and the URL."""
    port = server_processes.free_port()
    command = [sys.executable, "flask_server.py", "--model_path", path, "--port", str(port), *flags]
    return started(*command), f"http://127.0.0.1:{port}/"


def test_an_endpoint_waits_for_its_store_serves_new_versions_and_outlives_the_store(store, export):
    store.proxy.cut_after(0)
    running, url = start(store.uri, "--workers", "2")
    with running as server:
        wait_until(lambda: status(url) == 503)
        server.wait_for(f"{store.uri}: .*; expected a store that lists it")
        assert status(url, "healthz") == 200
        store.proxy.pass_all()
        export(store.uri)
        server.wait_for(r"Flask server ready on .*: model mnist version 1, data set digits, batching on")
        wait_until(lambda: ready_workers(url, "mnist") == 2)
        with Callers(url) as callers:
            export(store.uri)
            wait_until(lambda: "2" in callers.versions)
            wait_until(lambda: ready_workers(url, "mnist", 2) == 2)
        assert callers.failures == []
        store.proxy.cut_after(0)
        killed, _ = worker_pids(server)
        os.kill(killed, signal.SIGKILL)
        # The new worker has nothing but the copy.
        wait_until(lambda: killed not in worker_pids(server) and ready_workers(url, "mnist", 2) == 2)
        assert server.stop() == 0
    assert server.output().count("serving version") == 0


@pytest.mark.slow
def test_an_endpoint_stops_while_it_waits_for_its_store(store):
    store.proxy.cut_after(0)
    running, url = start(store.uri)
    with running as server:
        wait_until(lambda: status(url) == 503)
        assert server.stop(limit_s=10) == 0


WAITRESS = """
import sys, waitress, flask_server
waitress.serve(flask_server.wsgi_app(model_path=sys.argv[1]), port=sys.argv[2])
"""


@pytest.mark.slow
def test_another_wsgi_server_is_not_held_up_by_a_store_that_is_down(store, export_base):
    store.proxy.cut_after(0)
    port = server_processes.free_port()
    url = f"http://127.0.0.1:{port}/"
    with started(sys.executable, "-c", WAITRESS, store.uri, str(port)):
        wait_until(lambda: status(url) == 503)
        store.publish_directory(export_base / "1", 1)
        store.proxy.pass_all()
        wait_until(lambda: status(url) == 200)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.such://bucket/m", "unknown scheme"),
        ("gs://bucket/m", "expected pip install -e '.[gs]'"),
        ("s3://", "expected s3://<bucket>/<path of the model>"),
    ],
)
def test_a_path_that_no_store_can_have_is_an_error_at_the_start(path, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError) as refusal:
        flask_server.main(["--model_path", path, "--port", "0"])
    assert message in str(refusal.value)
    with pytest.raises(UserError) as refusal:
        flask_server.wsgi_app(model_path=path)
    assert message in str(refusal.value)


def test_a_cache_that_cannot_be_written_is_an_error_at_the_start(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RNN_SERVING_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="RNN_SERVING_CACHE_DIR names another place"):
        flask_server.main(["--model_path", store.uri, "--port", "0"])


# In this process, with versions that any file will do for


class Version:
    """A version that opens unless its graph says `broken`."""

    def __init__(self, directory):
        if (directory / "saved_model.pb").read_bytes() == b"broken":
            raise UserError(f"{directory} is broken")
        self.version = int(directory.name)

    def close(self):
        pass


def served(model):
    with model.acquire() as version:
        return version.version


@pytest.mark.parametrize(
    ("suffix", "pinned", "version"), [("", None, 3), ("/", None, 3), ("", 1, 1), ("/2", None, 2), ("/2/", None, 2)]
)
def test_the_newest_version_is_served_or_the_one_that_is_named(store, suffix, pinned, version):
    for number in (1, 2, 3):
        store.publish(number)
    model = StoredModel(store.uri + suffix, pinned, Version)
    model.load()
    assert served(model) == version


def test_a_pinned_version_is_waited_for(store, caplog):
    store.publish(1)
    model = StoredModel(store.uri, 2, Version)
    load = threading.Thread(target=model.load)
    load.start()
    wait_until(lambda: f"{store.uri}: no version to serve; expected another than [1]" in caplog.text)
    assert not model.is_ready
    store.publish(2)
    load.join(30)
    assert served(model) == 2


def test_at_the_start_a_broken_version_is_logged_and_the_one_before_it_served(store, caplog):
    store.publish(1)
    store.publish(2)
    store.put("2/saved_model.pb", b"broken")
    model = StoredModel(store.uri, None, Version)
    model.load()
    assert served(model) == 1
    assert "/2 is broken; serving version 1 instead" in caplog.text


def publish_broken(store, *versions):
    for version in versions:
        store.publish(version)
        store.put(f"{version}/saved_model.pb", b"broken")


def test_versions_are_tried_until_one_is_not_broken_and_its_copy_stays(store):
    store.publish(1)
    model = StoredModel(store.uri, None, Version)
    model.load()
    publish_broken(store, 2, 3)
    others = StoredModel(store.uri, None, Version)  # of another worker, which knows nothing yet
    others.load()
    assert served(others) == 1
    wait_until(lambda: refreshed_until_in_step(model))
    assert served(model) == 1
    assert list(exports.versions(model._mirror.directory)) == [1, 2, 3]
    store.proxy.cut_after(0)
    restarted = StoredModel(store.uri, None, Version)
    restarted.load()  # from the copy alone
    assert served(restarted) == 1


def refreshed_until_in_step(model):
    model.refresh()
    return model._mirror.is_in_step


def test_at_the_start_a_good_version_under_two_broken_ones_is_served(store):
    store.publish(1)
    publish_broken(store, 2, 3)
    model = StoredModel(store.uri, None, Version)
    model.load()
    assert served(model) == 1


def test_what_another_worker_serves_stays_while_broken_versions_arrive(store):
    store.publish(1)
    model = StoredModel(store.uri, None, Version)
    model.load()
    publish_broken(store, 2, 3)
    for _ in range(3):  # two downloads, without looking at what has arrived, and what is removed after them
        model._mirror.update()
    assert model._mirror.is_in_step
    assert list(exports.versions(model._mirror.directory)) == [1, 2, 3]


def test_at_the_start_the_error_of_the_newest_is_raised_if_all_are_broken(store):
    publish_broken(store, 1, 2, 3)
    with pytest.raises(UserError, match="/3 is broken"):
        StoredModel(store.uri, None, Version).load()
