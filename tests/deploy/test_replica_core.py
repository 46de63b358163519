"""A replica's core: it starts in spite of broken versions, and returns to the newest one that is whole."""

import contextlib

import pytest
from conftest import publish_copy
from endpoint_processes import wait_until

from deploy.ray.replica_core import ReplicaCore
from deploy.ray.settings import Settings
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.servable import State

from tensorflow_serving.apis import model_pb2


@pytest.fixture
def base(export_base, tmp_path):
    """A directory with version 1, of which a test may make broken and whole ones."""
    publish_copy(export_base, tmp_path / "mnist", 1)
    return tmp_path / "mnist"


def publish_broken(base, version):
    (base / str(version)).mkdir()
    (base / str(version) / "saved_model.pb").write_bytes(b"broken")


def open_core(base):
    """Return a core that is not started; it is stopped at the end of a `with`."""
    core = ReplicaCore(Settings(model_base_path=str(base)).model_dump())
    stack = contextlib.ExitStack()
    stack.callback(core.stop)
    return core, stack


def available(core):
    statuses = core.status(model_pb2.ModelSpec(name="mnist")).model_version_status
    return {each.version for each in statuses if each.state == State.AVAILABLE}


@pytest.mark.parametrize("broken", [(), (2,), (2, 3), (2, 3, 4, 5)])
def test_it_starts_with_the_newest_version_that_loads(base, broken):
    for version in broken:
        publish_broken(base, version)
    core, stack = open_core(base)
    with stack:
        core.start()
        assert available(core) == {1}


def test_it_serves_the_newest_version_alone_once_that_is_whole(base):
    publish_broken(base, 2)
    core, stack = open_core(base)
    with stack:
        core.start()
        core.return_to_newest()
        assert available(core) == {1}
        publish_copy(base / "1", base, 3)
        wait_until(lambda: 3 in available(core))
        core.return_to_newest()
        publish_copy(base / "1", base, 4)
        wait_until(lambda: available(core) == {4})


def test_if_no_version_loads_the_error_is_that_of_the_newest(base):
    (base / "1" / "saved_model.pb").write_bytes(b"broken")
    publish_broken(base, 2)
    core, stack = open_core(base)
    with stack, pytest.raises(ServingError, match="name: mnist version: 2"):
        core.start()
