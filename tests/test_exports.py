import pytest

from rnn_serving import exports
from rnn_serving.exports import ExportError


def make_version(base, name):
    """Create a directory that counts as a version if its name is a number."""
    (base / name).mkdir(parents=True)
    (base / name / "saved_model.pb").write_bytes(b"model")


def test_a_saved_model_may_be_text(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "saved_model.pbtxt").write_text("")
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "saved_model.txt").write_text("")
    assert exports.versions(tmp_path) == {3: tmp_path / "3"}
    assert exports.newest(tmp_path) == exports.newest(tmp_path / "3") == tmp_path / "3"


@pytest.mark.parametrize(
    ("path", "scheme", "local"),
    [
        ("/a/b", None, "/a/b"),
        ("a/b", None, "a/b"),
        ("file:///a/b", "file", "/a/b"),
        ("file://localhost/a/b", "file", "/a/b"),
        ("file:/a/b", None, "file:/a/b"),
        ("file://", "file", "file://"),
        ("/a/file://b", None, "/a/file://b"),
        ("s3://a/b", "s3", "s3://a/b"),
        ("FILE:///a", "FILE", "FILE:///a"),
    ],
)
def test_a_file_uri_names_a_local_path(path, scheme, local):
    assert (exports.uri_scheme(path), exports.local_path(path)) == (scheme, local)


def test_a_version_is_a_directory_named_by_a_number_with_a_model_in_it(tmp_path):
    for name in ("1", "10", "00000009", "staging-11-x", "0", "-3", "latest"):
        make_version(tmp_path, name)
    (tmp_path / "12").mkdir()
    assert list(exports.versions(tmp_path)) == [1, 9, 10]
    assert exports.newest(tmp_path) == tmp_path / "10"
    assert exports.next_version(tmp_path) == 13


def test_newest_also_takes_the_directory_of_one_version(tmp_path):
    make_version(tmp_path, "1")
    make_version(tmp_path, "2")
    assert exports.newest(tmp_path / "1") == tmp_path / "1"


@pytest.mark.parametrize("path", ["", "none"])
def test_no_version_is_an_error_with_the_path_that_was_expected(tmp_path, path):
    with pytest.raises(ExportError, match="no exported model; expected .*saved_model.pb"):
        exports.newest(tmp_path / path)


def test_a_body_that_raises_publishes_nothing_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), exports.staging_directory(tmp_path, 1) as staging:
        (staging / "saved_model.pb").write_bytes(b"half")
        assert exports.versions(tmp_path) == {}
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_version_is_replaced_only_with_overwrite(tmp_path):
    make_version(tmp_path, "1")
    with pytest.raises(ExportError, match="exists; expected a new --model_version, or --overwrite"):
        with exports.staging_directory(tmp_path, 1):
            pytest.fail("the body must not run")
    with exports.staging_directory(tmp_path, 1, overwrite=True) as staging:
        (staging / "saved_model.pb").write_bytes(b"new")
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_the_slower_of_two_that_publish_the_same_version_fails(tmp_path):
    with pytest.raises(ExportError, match="exists"), exports.staging_directory(tmp_path, 1) as slow:
        (slow / "saved_model.pb").write_bytes(b"slow")
        with exports.staging_directory(tmp_path, 1) as quick:
            (quick / "saved_model.pb").write_bytes(b"quick")
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == b"quick"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_taken_number_is_rejected_before_any_work_is_done(tmp_path):
    make_version(tmp_path, "1")
    exports.check_version_free(tmp_path)
    exports.check_version_free(tmp_path, 7)
    exports.check_version_free(tmp_path, 1, overwrite=True)
    with pytest.raises(ExportError, match="1 exists; expected a new --model_version, or --overwrite"):
        exports.check_version_free(tmp_path, 1)
    with pytest.raises(ExportError, match="is a file; expected a directory of versions"):
        exports.check_version_free(tmp_path / "1" / "saved_model.pb")


def test_of_two_names_for_a_number_the_last_counts(tmp_path):
    make_version(tmp_path, "1")
    make_version(tmp_path, "001")
    assert exports.versions(tmp_path) == {1: tmp_path / "1"}


@pytest.mark.parametrize(
    ("link", "target", "version"),
    [
        ("mnist/4", "store/abc123", 4),
        ("mnist/4", "../store/abc123", 4),
        ("mnist/3", "../rel1/1", 3),
        ("mnist/00000007", "../rel1/1", 7),
        ("current", "rel1/1", 1),
        ("mnist/newest", "4", 4),
    ],
)
def test_a_link_is_the_version_of_its_name_or_else_of_its_target(tmp_path, link, target, version):
    for base, name in (("store", "abc123"), ("rel1", "1"), ("mnist", "4")):
        if link != f"{base}/{name}":
            make_version(tmp_path / base, name)
    (tmp_path / "mnist").mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / target if target.startswith("store") else target)
    assert exports.is_version(tmp_path / link)
    assert exports.version_number(exports.version_path(tmp_path / link)) == version
    assert exports.newest(tmp_path / link) == tmp_path / link


def test_links_to_nothing_and_to_other_things_are_not_versions(tmp_path):
    make_version(tmp_path / "rel1", "1")
    for name, target in (("4", "nowhere"), ("5", "rel1"), ("six", "rel1/1")):
        (tmp_path / name).symlink_to(tmp_path / target)
    assert exports.versions(tmp_path) == {}
    assert exports.next_version(tmp_path) == 6


@pytest.mark.parametrize(("inside", "path"), [("1", "."), ("1", ""), ("1/variables", ".."), (".", "1"), (".", "./1/")])
def test_a_relative_path_is_the_version_that_it_leads_to(tmp_path, monkeypatch, inside, path):
    make_version(tmp_path, "1")
    (tmp_path / "1" / "variables").mkdir()
    monkeypatch.chdir(tmp_path / inside)
    assert exports.is_version(path)
    assert exports.version_number(exports.version_path(path)) == 1
