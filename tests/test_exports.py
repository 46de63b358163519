import pytest

from rnn_serving import exports
from rnn_serving.exports import ExportError


def make_version(base, name):
    (base / name).mkdir(parents=True)
    (base / name / "saved_model.pb").write_bytes(b"model")


def test_versions_are_directories_with_a_number_and_a_model(tmp_path):
    for name in ("1", "10", "00000009", "staging-11-x", "0", "-3", "latest"):
        make_version(tmp_path, name)
    (tmp_path / "12").mkdir()
    assert list(exports.versions(tmp_path)) == [1, 9, 10]
    assert exports.newest(tmp_path) == tmp_path / "10"
    assert exports.next_version(tmp_path) == 13


def test_a_version_itself_may_be_named(tmp_path):
    make_version(tmp_path, "1")
    make_version(tmp_path, "2")
    assert exports.newest(tmp_path / "1") == tmp_path / "1"


@pytest.mark.parametrize("path", ["", "none"])
def test_nothing_to_serve_is_an_error_that_names_the_path(tmp_path, path):
    with pytest.raises(ExportError, match="no exported model; expected .*saved_model.pb"):
        exports.newest(tmp_path / path)


def test_a_body_that_fails_publishes_nothing_and_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), exports.publishing(tmp_path, 1) as staging:
        (staging / "saved_model.pb").write_bytes(b"half")
        assert exports.versions(tmp_path) == {}
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_exists_is_not_replaced_without_overwrite(tmp_path):
    make_version(tmp_path, "1")
    with pytest.raises(ExportError, match="exists; expected a new --model_version, or --overwrite"):
        with exports.publishing(tmp_path, 1):
            pytest.fail("the body must not run")
    with exports.publishing(tmp_path, 1, overwrite=True) as staging:
        (staging / "saved_model.pb").write_bytes(b"new")
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_of_two_that_publish_the_same_version_the_second_fails(tmp_path):
    with pytest.raises(ExportError, match="exists"), exports.publishing(tmp_path, 1) as slow:
        (slow / "saved_model.pb").write_bytes(b"slow")
        with exports.publishing(tmp_path, 1) as quick:
            (quick / "saved_model.pb").write_bytes(b"quick")
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == b"quick"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_version_is_known_to_be_free_before_the_work(tmp_path):
    make_version(tmp_path, "1")
    assert exports.free_version(tmp_path) == 2
    assert exports.free_version(tmp_path, 7) == 7
    assert exports.free_version(tmp_path, 1, overwrite=True) == 1
    with pytest.raises(ExportError, match="1 exists; expected a new --model_version, or --overwrite"):
        exports.free_version(tmp_path, 1)
    with pytest.raises(ExportError, match="is a file; expected a directory of versions"):
        exports.free_version(tmp_path / "1" / "saved_model.pb")
