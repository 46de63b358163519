"""The model server with base paths at an S3 server."""

import contextlib
import sys
import threading

import conformance_models
import numpy as np
import pytest
from conftest import start_model_server, started
from endpoint_processes import wait_until
from google.protobuf import text_format

from rnn_serving.model_server import flags, text_protos
from rnn_serving.model_server.core import ServerCore
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.options import complete
from rnn_serving.model_server.store_mirrors import StoreMirrors
from rnn_serving.object_store import cache
from rnn_serving.object_store.mirror import Mirror

from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A base path with the versions 1 and 2, which answer 3 and 4 for the 2 of `answer`."""
    return conformance_models.build_half(tmp_path_factory.mktemp("models"))


@pytest.fixture
def new_core(tmp_path):
    """A function that returns a ServerCore, not yet started, for models {name: base path} and flags."""
    with contextlib.ExitStack() as stack:

        def create(base_paths, *argv):
            (tmp_path / "models.config").write_text(config_text(base_paths))
            options = flags.parse([f"--model_config_file={tmp_path / 'models.config'}", *argv])
            core = ServerCore(complete(options))
            stack.callback(core.stop)
            limit = threading.Timer(60, core.stop_waiting)  # a start may wait for ever
            stack.callback(limit.cancel)
            limit.start()
            return core

        yield create


def config_text(base_paths):
    models = (
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for name, path in base_paths.items()
    )
    return f"model_config_list {{ {' '.join(models)} }}"


def answer(core, name="m"):
    """Return what the newest version answers to 2."""
    with core.lookup(model_pb2.ModelSpec(name=name)) as servable:
        signature = servable.signatures["serving_default"]
        (value,) = servable.run(signature, {"x": np.float32([2])}, None).values()
    return float(value[0])


def states(core, name="m"):
    return {each.version: each.state for each in core.status(model_pb2.ModelSpec(name=name)).model_version_status}


AVAILABLE, END = 30, 50


def test_versions_go_live_and_are_rolled_back_from_a_store(store, half, new_core):
    store.publish_directory(half / "1", 1)
    core = new_core({"m": store.uri})
    core.start()
    assert answer(core) == 3.0
    store.publish_directory(half / "2", 2)
    wait_until(lambda: answer(core) == 4.0)
    store.remove("2/")
    wait_until(lambda: answer(core) == 3.0)
    wait_until(lambda: states(core) == {1: AVAILABLE, 2: END})


def test_a_store_that_is_down_at_the_start_is_waited_for_without_holding_up_the_others(store, half, new_core, caplog):
    store.publish_directory(half / "1", 1)
    store.proxy.cut_after(0)
    core = new_core({"m": store.uri, "local": half})
    start = threading.Thread(target=core.start)
    start.start()
    wait_until(lambda: is_available(core, "local"))
    wait_until(lambda: f"{store.uri}: " in caplog.text)
    assert start.is_alive()
    assert not is_available(core, "m")
    store.proxy.pass_all()
    start.join(60)
    assert (answer(core), answer(core, "local")) == (3.0, 4.0)


def is_available(core, name):
    try:
        return answer(core, name) > 0
    except ServingError:
        return False


def test_a_slow_download_holds_up_neither_other_models_nor_reloads(store, half, new_core, tmp_path):
    store.publish_directory(half / "1", 1)
    core = new_core({"m": store.uri})
    core.start()
    store.proxy.hold_after(6000)
    store.put("2/variables/large", b"a" * 200_000)
    store.publish_directory(half / "2", 2)
    wait_until(lambda: list(tmp_path.glob("cache/*/staging-*")))
    core.reload(text_format.Parse(config_text({"m": store.uri, "local": half}), text_protos.ModelServerConfig()))
    assert answer(core, "local") == 4.0
    assert answer(core) == 3.0  # the download is still held up
    store.proxy.pass_all()
    wait_until(lambda: answer(core) == 4.0)


def test_another_version_policy_changes_nothing_until_its_versions_are_here(store, half, new_core, tmp_path):
    store.publish_directory(half / "1", 1)
    store.publish_directory(half / "2", 2)
    core = new_core({"m": store.uri})
    core.start()
    assert answer(core) == 4.0
    store.put("1/variables/large", b"a" * 200_000)
    store.proxy.hold_after(6000)
    config = text_format.Parse(config_text({"m": store.uri}), text_protos.ModelServerConfig())
    config.model_config_list.config[0].model_version_policy.specific.versions.append(1)
    core.reload(config)
    wait_until(lambda: list(tmp_path.glob("cache/*/staging-*")))
    core._poll_versions()
    assert (answer(core), states(core)) == (4.0, {2: AVAILABLE})
    store.proxy.pass_all()
    wait_until(lambda: states(core) == {1: AVAILABLE, 2: END})


def test_a_store_that_dies_later_changes_nothing(store, half, new_core, caplog):
    store.publish_directory(half / "1", 1)
    core = new_core({"m": store.uri})
    core.start()
    store.proxy.cut_after(0)
    wait_until(lambda: f"{store.uri}: " in caplog.text)
    assert answer(core) == 3.0
    store.publish_directory(half / "2", 2)
    store.proxy.pass_all()
    wait_until(lambda: answer(core) == 4.0)


def test_a_server_that_starts_again_while_the_store_is_down_serves_its_copy(store, half, new_core):
    store.publish_directory(half / "1", 1)
    first = new_core({"m": store.uri})
    first.start()
    first.stop()
    store.proxy.cut_after(0)
    second = new_core({"m": store.uri})
    second.start()
    assert answer(second) == 3.0


def test_with_an_interval_of_0_a_store_is_asked_until_it_answers_and_then_no_more(store, half, new_core, tmp_path):
    store.publish_directory(half / "1", 1)
    core = new_core({"m": store.uri}, "--file_system_poll_wait_seconds=0")
    core.start()
    assert answer(core) == 3.0
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "mirror"])


def test_with_an_interval_of_0_a_copy_that_another_process_made_is_announced(store):
    store.publish(1)
    config = text_format.Parse(config_text({"m": store.uri}), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    policy = model.model_version_policy
    other = Mirror(store.uri, lambda numbers: numbers, str(policy))
    paths = []
    mirrors = StoreMirrors(0, lambda: paths.append(mirrors.local_path(model)))
    other.directory.parent.mkdir(parents=True)
    try:
        with cache.try_lock(other.directory.parent / "lock"):
            mirrors.keep(config)
            wait_until(lambda: paths == [None])
        wait_until(lambda: other.sync() or other.is_in_step)
        wait_until(lambda: paths[-1] == other.directory)
    finally:
        mirrors.stop()


def test_a_broken_version_at_the_store_leaves_the_old_one_serving(store, half, new_core, caplog):
    store.publish_directory(half / "1", 1)
    core = new_core({"m": store.uri}, "--max_num_load_retries=0")
    core.start()
    store.publish(2)
    wait_until(lambda: states(core).get(2) == END)
    assert answer(core) == 3.0


@pytest.mark.slow
def test_the_process_serves_a_store_and_stops_while_it_waits_for_one(store, export_base):
    store.publish_directory(export_base / "1", 1)
    with start_model_server(store.uri) as server:
        assert server.stop() == 0
    store.proxy.cut_after(0)
    command = ["-m", "rnn_serving.model_server", "--port=0", "--grpc_socket_path=unused"]
    with started(sys.executable, *command, f"--model_base_path={store.uri}-2") as server:
        server.wait_for(f"{store.uri}-2: .*; expected a store that lists it")
        assert server.stop(limit_s=10) == 0
