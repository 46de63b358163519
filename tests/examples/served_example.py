"""What the tests of the small examples share: an export's servers, and its scores and grades by every client."""

import contextlib
import re
import resource
from types import SimpleNamespace

from conftest import run_script, start_flask, start_model_server

import flask_client
import tfserving_client
from benchmarks import server_processes
from rnn_serving.clients import flask


@contextlib.contextmanager
def serve(base, *flask_flags):
    """Start a model server and a Flask server; yield the ports `grpc`, `rest` and `flask_port`, and the URL `flask`."""
    rest = server_processes.free_port()
    flags = (f"--rest_api_port={rest}", f"--model_name={base.name}")
    with start_model_server(base, *flags) as model_server, start_flask(base, *flask_flags) as flask_server:
        model_server.wait_for("Exporting HTTP/REST API")
        url = flask_server.ready[1]
        yield SimpleNamespace(grpc=port_of(model_server.ready[1]), rest=rest, flask=url, flask_port=port_of(url))


def port_of(address):
    """Return the port of a URL or of HOST:PORT."""
    return int(re.search(r":(\d+)", address.removeprefix("http://"))[1])


def scores_by(servers, protocol, images, *flags):
    """Return (version, scores) of images by `flask_client.py`, or by `tfserving_client.py` with some flags."""
    if protocol == "flask":
        metadata = flask.read_metadata(servers.flask, 10)
        shape = flask.served_image_shape(servers.flask, metadata)
        with flask_client.connect(servers.flask, 10, shape) as ask:
            return metadata["version"], ask(images)
    open_server, *_ = tfserving_client.PROTOCOLS[protocol]
    query = tfserving_client.model_query(tfserving_client.parse_arguments(flags))
    with open_server(f"127.0.0.1:{getattr(servers, protocol)}", query) as (server, connect), connect() as ask:
        return server.version, ask(images)


def grades_by_every_client(servers, data_dir, capsys, *signatures):
    """Return the accuracies that the clients print, in %; each of `signatures` are flags of tfserving_client.py."""
    flags = ["--data_dir", str(data_dir), "--batch_size", "8", "--concurrency", "3"]
    assert flask_client.main([*flags, "--port", str(servers.flask_port)]) == 0
    for signature in signatures:
        for protocol in ("grpc", "rest"):
            address = ["--protocol", protocol, "--port", str(getattr(servers, protocol))]
            assert tfserving_client.main([*flags, *signature, *address]) == 0
    return re.findall(r"^Accuracy= (.*)$", capsys.readouterr().out, re.MULTILINE)


def export_to_a_full_disk(module, limit_bytes, data_dir, base, *flags):
    """Run an exporter that may not write larger files; return its stderr after checking that nothing is published."""
    ended = run_script(
        *("-m", module, "--data_dir", data_dir, "--export_base_path", base, *flags),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(base.iterdir()) == []
    return ended.stderr
