import errno
import json
import threading

import pytest

from rnn_serving import exports, publish
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf


class Doubler(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def double(self, x):
        return {"y": 2 * x}


def write_model(staging):
    module = Doubler()
    tf.saved_model.save(module, str(staging), signatures={"serving_default": module.double})


def recorded_versions(base):
    """Return {version: what its model.json says the version is}."""
    return {version: exports.provenance(path)["version"] for version, path in exports.versions(base).items()}


def test_the_next_version_is_the_one_that_is_free_when_it_is_published(tmp_path):
    with publish.publish(tmp_path / "m", None, {}) as slow:
        write_model(slow.staging)
        with publish.publish(tmp_path / "m", None, {}) as quick:
            write_model(quick.staging)
    assert (quick.directory.name, slow.directory.name) == ("1", "2")
    assert recorded_versions(tmp_path / "m") == {1: 1, 2: 2}
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "2"]


def test_at_an_object_store_it_is_as_well(store):
    with publish.publish(store.uri, None, {}) as slow:
        write_model(slow.staging)
        with publish.publish(store.uri, None, {}) as quick:
            write_model(quick.staging)
    assert (quick.directory, slow.directory) == (f"{store.uri}/1", f"{store.uri}/2")
    assert {key.partition("/")[0] for key in store.objects() if key.endswith("saved_model.pb")} == {"1", "2"}
    with pytest.raises(exports.VersionExistsError, match=f"{store.uri}/2 exists"):
        with publish.publish(store.uri, 2, {}):
            pytest.fail("the body must not run")


def test_of_several_at_once_each_takes_a_number(tmp_path):
    ready, failures = threading.Barrier(6), []

    def run():
        try:
            with publish.publish(tmp_path / "m", None, {}) as version:
                (version.staging / "saved_model.pb").write_bytes(b"")
                ready.wait(60)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    describe, publish.describe_signatures = publish.describe_signatures, lambda *_: {}
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        publish.describe_signatures = describe
    assert failures == []
    assert recorded_versions(tmp_path / "m") == {number: number for number in range(1, 7)}


@pytest.mark.parametrize("taken", ["3", "0003"])
def test_a_number_that_is_there_is_passed_over(tmp_path, taken):
    with publish.publish(tmp_path / "m", None, {}) as version:
        write_model(version.staging)
        (tmp_path / "m" / taken).mkdir()
    assert list(exports.versions(tmp_path / "m")) == [4]


def test_of_two_with_the_same_given_number_the_second_fails(tmp_path):
    with pytest.raises(UserError, match="7 exists; expected a new --model_version"):
        with publish.publish(tmp_path / "m", 7, {}) as slow:
            write_model(slow.staging)
            with publish.publish(tmp_path / "m", 7, {"who": "quick"}) as quick:
                write_model(quick.staging)
    assert json.loads((tmp_path / "m" / "7" / exports.PROVENANCE_FILE).read_text())["who"] == "quick"
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["7"]


def test_overwrite_does_not_replace_the_version_of_another(tmp_path):
    with publish.publish(tmp_path / "m", None, {}, overwrite=True) as slow:
        write_model(slow.staging)
        with publish.publish(tmp_path / "m", None, {}, overwrite=True) as quick:
            write_model(quick.staging)
    assert list(exports.versions(tmp_path / "m")) == [1, 2]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            tf.errors.OutOfRangeError(None, None, "Graph execution error:\n\n/x; File too large\n\t [[{{node save}}]]"),
            "/x; File too large;",
        ),
    ],
)
def test_a_full_disk_publishes_nothing_and_is_named(tmp_path, error, message):
    with pytest.raises(UserError, match=f"{message}.*expected to write an export there, nothing is published"):
        with publish.publish(tmp_path / "m", None, {}):
            raise error
    assert list((tmp_path / "m").iterdir()) == []


def test_the_name_of_a_linked_base_path_is_that_of_the_link(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "mnist").symlink_to(tmp_path / "store")
    assert publish.destination(tmp_path / "mnist").model_name == "mnist"
