import importlib
import os
import resource
import shutil
import subprocess
import sys
import threading

import pytest
from endpoint_processes import wait_until

from rnn_serving import exports, publish
from rnn_serving.object_store import cache
from rnn_serving.object_store import store as stores
from rnn_serving.object_store.mirror import Mirror
from rnn_serving.object_store.store import Store, StoreError
from rnn_serving.object_store.upload import destination

WEIGHTS = "variables/variables.data-00000-of-00001"


def newest(count):
    return lambda numbers: sorted(numbers)[-count:]


@pytest.fixture
def mirror(store):
    return Mirror(store.uri, newest(2), "newest 2")


def settle(mirror):
    """Sync until the copy is in step; return the versions in it and their weights."""
    wait_until(lambda: mirror.sync() or mirror.is_in_step)
    while not mirror.is_in_step:
        mirror.sync()
    return contents(mirror)


def contents(mirror):
    found = exports.versions(mirror.directory)
    return {version: (path / WEIGHTS).read_bytes() for version, path in found.items()}


# The copy of a base path


def test_the_wanted_versions_are_copied_the_newest_first(store, mirror):
    for version in (1, 2, 10):
        store.publish(version, b"weights %d" % version)
    assert mirror.sync()
    assert contents(mirror) == {10: b"weights 10"}
    assert settle(mirror) == {2: b"weights 2", 10: b"weights 10"}
    assert mirror.directory.name == "mnist"


def test_a_new_version_is_copied_and_what_is_not_wanted_any_more_removed(store, mirror):
    store.publish(1)
    store.publish(2)
    settle(mirror)
    store.publish(3, b"new")
    mirror.sync()
    assert list(contents(mirror)) == [1, 2, 3]
    assert settle(mirror) == {2: b"weights", 3: b"new"}


def test_a_version_removed_from_the_store_goes_once_the_others_are_here(store, mirror):
    for version in (1, 2, 3):
        store.publish(version)
    settle(mirror)
    store.remove("3/")
    mirror.sync()
    assert list(contents(mirror)) == [1, 2, 3]
    assert list(settle(mirror)) == [1, 2]


def test_a_version_replaced_at_the_store_is_copied_again(store, mirror):
    store.publish(1, b"one")
    settle(mirror)
    store.publish(1, b"two")  # of the same size
    assert settle(mirror) == {1: b"two"}


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_copy_is_replaced(store, mirror, damage):
    store.publish(1)
    settle(mirror)
    damage(mirror.directory / "1" / WEIGHTS)
    assert settle(mirror) == {1: b"weights"}


def test_a_version_counts_once_its_saved_model_is_there(store, mirror):
    store.publish(1)
    store.put(f"2/{WEIGHTS}")
    assert list(settle(mirror)) == [1]
    store.put("2/saved_model.pbtxt")
    assert list(settle(mirror)) == [1, 2]


def test_a_version_that_is_being_replaced_or_removed_stays(store, mirror):
    store.publish(1)
    settle(mirror)
    store.remove("1/saved_model.pb")
    store.put(f"1/{WEIGHTS}", b"new")
    assert settle(mirror) == {1: b"weights"}
    store.put("1/saved_model.pb", b"new")
    assert settle(mirror) == {1: b"new"}


@pytest.mark.parametrize("others", [[], [""], ["README.md", "7"], ["latest/saved_model.pb", "2/variables/x"]])
@pytest.mark.parametrize("has_copy", [True, False])
def test_a_base_path_without_versions_is_like_a_missing_directory_and_removes_nothing(store, mirror, others, has_copy):
    if has_copy:
        store.publish(1)
        settle(mirror)
        store.remove("")
    for key in others:
        store.put(key)
    with pytest.raises(StoreError, match=f"{store.uri}: nothing there; expected <version>/saved_model.pb"):
        mirror.sync()
    assert list(contents(mirror)) == [1] * has_copy


def test_when_all_wanted_versions_are_gone_and_others_are_there_so_are_the_copies(store):
    mirror = Mirror(store.uri, lambda numbers: numbers & {1}, "version 1")
    store.publish(1)
    settle(mirror)
    store.publish(2)
    store.remove("1/")
    with pytest.raises(StoreError, match=r"no version to serve; expected another than \[2\]"):
        mirror.sync()
    assert contents(mirror) == {}


def test_other_objects_are_ignored(store, mirror):
    for key in ("readme.txt", "7", "0/saved_model.pb", "-1/saved_model.pb", "latest/saved_model.pb", "1/", "9/"):
        store.put(key)
    store.publish(1)
    store.put("1/assets/")  # the marker of an empty directory
    assert list(settle(mirror)) == [1]


@pytest.mark.parametrize("key", ["5/../../outside", "5/./a", "5//a"])
def test_an_object_whose_name_leads_elsewhere_is_not_downloaded(store, mirror, tmp_path, key):
    store.publish(1)
    store.put(key)
    store.put("5/saved_model.pb")
    mirror.sync()  # the newest that can be
    assert list(contents(mirror)) == [1]
    with pytest.raises(StoreError, match="expected a name that stays under its directory"):
        mirror.sync()
    assert not list(tmp_path.rglob("outside"))


def test_there_is_no_copy_of_a_base_path_before_its_first_version(store, mirror):
    store.publish(1)
    store.proxy.cut_after(2000)
    store.put("1/variables/large", b"a" * 100_000)
    mirror.update()
    assert not mirror.directory.exists()
    store.remove("1/saved_model.pb")
    store.proxy.pass_all()
    with pytest.raises(StoreError, match="nothing there"):
        mirror.sync()
    assert not mirror.directory.exists()


# Faults


def test_a_download_that_is_cut_leaves_nothing_and_is_repeated(store, mirror):
    store.publish(1)
    settle(mirror)
    store.publish(2, os.urandom(400_000))
    store.proxy.cut_after(20_000)
    with pytest.raises(StoreError, match=f"{store.uri}/2/{WEIGHTS}: .*; expected to download it"):
        mirror.sync()
    assert store.proxy.cuts
    assert list(contents(mirror)) == [1]
    assert not list(mirror.directory.parent.glob("staging-*"))
    store.proxy.pass_all()
    wait_until(lambda: synced_after_pause(mirror))
    assert list(contents(mirror)) == [1, 2]


def synced_after_pause(mirror):
    mirror.update()
    return mirror.is_in_step


def test_a_version_that_fails_is_not_downloaded_at_every_poll(store, mirror):
    store.publish(1, os.urandom(100_000))
    store.proxy.cut_after(10_000)
    for _ in range(2):
        with pytest.raises(StoreError, match="to download it"):
            mirror.sync()
        cuts = store.proxy.cuts
    assert store.proxy.cuts == cuts


def test_a_store_that_does_not_answer_is_logged_once_and_when_it_does_again(store, mirror, caplog):
    store.publish(1)
    settle(mirror)
    store.proxy.cut_after(0)
    for _ in range(4):
        mirror.update()
    assert list(contents(mirror)) == [1]
    assert not mirror.is_in_step
    # A connection that is closed while it is used, and one that is refused, are two kinds.
    lines = logged(caplog)
    assert 1 <= len(lines) == len(set(lines)) <= 2
    assert all(line.startswith(f"{store.uri}: ") for line in lines)
    store.proxy.pass_all()
    mirror.update()
    assert logged(caplog)[len(lines) :] == [f"{store.uri}: in order again"]


def test_a_cache_that_fails_later_is_logged_and_used_again_when_it_works(store, mirror, caplog):
    store.publish(1)
    root = mirror.directory.parent
    root.parent.mkdir()
    root.write_text("a file in the way")
    mirror.update()
    assert logged(caplog) == [f"{root}: File exists; expected to keep {store.uri} there; trying again"]
    root.unlink()
    assert settle(mirror) == {1: b"weights"}


def logged(caplog):
    return [record.message for record in caplog.records if record.name.startswith("rnn_serving")]


def test_a_version_that_changes_while_it_is_downloaded_is_not_taken(store, mirror):
    store.publish(1, b"a" * 300_000)
    store.proxy.hold_after(100_000)
    failures = []

    def run():
        try:
            mirror.sync()
        except StoreError as error:
            failures.append(str(error))

    download = threading.Thread(target=run)
    download.start()
    wait_until(lambda: any(path.is_file() for path in mirror.directory.parent.glob("staging-*/variables/*")))
    store.put("1/saved_model.pb", b"other graph")
    store.proxy.pass_all()
    download.join(30)
    assert len(failures) == 1
    assert "changed while it was downloaded" in failures[0] or "not downloaded as a whole" in failures[0]
    assert contents(mirror) == {}
    wait_until(lambda: synced_after_pause(mirror))
    assert (mirror.directory / "1" / "saved_model.pb").read_bytes() == b"other graph"


def test_a_bucket_that_does_not_exist_is_named(store):
    with pytest.raises(StoreError, match="^s3://no-such-bucket/m: .*bucket does not exist; expected a store"):
        Store("s3://no-such-bucket/m").listing()


def test_wrong_credentials_are_named_and_replaced_ones_are_used(store, monkeypatch):
    store.publish(1)
    key = store.create_access_key()
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    reader = Store(store.uri)
    with pytest.raises(
        StoreError, match=f"{store.uri}: The AWS Access Key Id you provided does not exist .*; expected"
    ):
        reader.listing()
    for name, value in key.items():
        monkeypatch.setenv(name, value)
    assert list(reader.listing()) == ["1"]


def test_a_disk_that_does_not_take_a_version_is_logged_and_the_one_before_stays(store, mirror, caplog):
    store.publish(1)
    settle(mirror)
    store.publish(2, b"a" * 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        mirror.update()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{store.uri}/2/{WEIGHTS}: File too large; expected to download it" in caplog.text
    assert list(contents(mirror)) == [1]
    assert not list(mirror.directory.parent.glob("staging-*"))
    wait_until(lambda: synced_after_pause(mirror))
    assert list(contents(mirror)) == [1, 2]


# Several processes

SYNC = """
import sys
from rnn_serving.object_store.mirror import Mirror
mirror = Mirror(sys.argv[1], lambda numbers: sorted(numbers)[-2:], "newest 2")
print(mirror.sync(), flush=True)
"""


def test_of_two_processes_with_one_cache_one_downloads_and_a_killed_one_leaves_nothing(store, mirror):
    store.publish(1, b"a" * 300_000)
    store.proxy.hold_after(100_000)
    with subprocess.Popen([sys.executable, "-c", SYNC, store.uri], stdout=subprocess.PIPE) as other:
        try:
            wait_until(lambda: list(mirror.directory.parent.glob("staging-*/variables/*")))
            assert not mirror.sync()  # at once: the other one has the lock
            assert not mirror.is_in_step
        finally:
            other.kill()
    store.proxy.pass_all()
    assert list(mirror.directory.parent.glob("staging-*"))
    assert settle(mirror) == {1: b"a" * 300_000}
    assert not list(mirror.directory.parent.glob("staging-*"))


def test_the_listing_of_another_process_is_used_while_it_is_recent(store, mirror):
    store.publish(1)
    settle(mirror)
    store.publish(2)
    other = Mirror(store.uri, newest(2), "newest 2")
    assert not other.sync()
    assert other.is_in_step
    wait_until(other.sync)
    assert list(contents(other)) == [1, 2]


def test_mirrors_of_other_uris_policies_and_endpoints_are_apart(store, monkeypatch):
    directories = {Mirror(uri, newest(1), policy).directory for uri in ("s3://a/m", "s3://b/m") for policy in "xy"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    directories.add(Mirror("s3://a/m", newest(1), "x").directory)
    assert len(directories) == 5


# What is refused at once


@pytest.mark.parametrize(
    ("uri", "blocked", "message"),
    [
        ("no.such://bucket/m", None, "unknown scheme 'no.such'; expected a path, file://, s3://, gs:// or another"),
        ("FILE:///m", None, "unknown scheme 'FILE'"),
        ("gs://bucket/m", "gcsfs", "expected pip install -e '.[gs]'"),
        ("s3://bucket/m", "s3fs", "expected pip install -e '.[s3]'"),
        ("s3://bucket/m", "fsspec", "expected pip install -e '.[s3]'"),
        ("abfs://bucket/m", "adlfs", "expected Install adlfs"),
        ("abfs://bucket/m", "fsspec", "expected pip install fsspec"),
        ("s3://", None, "expected s3://<bucket>/<path of the model>"),
        ("s3:///", None, "expected s3://<bucket>/<path of the model>"),
    ],
)
def test_a_uri_that_cannot_be_read_here_is_refused(uri, blocked, message, monkeypatch):
    if blocked:
        registry = importlib.import_module("fsspec.registry")
        monkeypatch.delitem(registry._registry, exports.uri_scheme(uri), raising=False)
        monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(StoreError) as refusal:
        stores.require_backend(uri)
    assert str(refusal.value).startswith(f"{uri}: ")
    assert message in str(refusal.value)
    with pytest.raises(StoreError):
        destination(uri)


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(StoreError, match=f"{tmp_path}/file/cache: Not a directory; .*RNN_SERVING_CACHE_DIR"):
        cache.require_writable()


def test_a_cache_in_an_unknown_home_directory_is_an_error_that_names_the_variable(monkeypatch):
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "~no-such-user/cache")
    with pytest.raises(StoreError, match="~no-such-user/cache: Could not .* home .*; .*RNN_SERVING_CACHE_DIR"):
        cache.require_writable()


@pytest.mark.parametrize(
    ("variables", "directory"),
    [
        ({cache.DIRECTORY_VARIABLE: "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/rnn-serving"),
        ({"HOME": "/c"}, "/c/.cache/rnn-serving"),
    ],
)
def test_where_the_cache_is(variables, directory, monkeypatch):
    for name in (cache.DIRECTORY_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache.directory()) == directory


# Publishing


@pytest.fixture
def staging(tmp_path):
    directory = tmp_path / "staging"
    (directory / "assets.extra").mkdir(parents=True)
    (directory / "variables").mkdir()
    (directory / "saved_model.pb").write_bytes(b"graph")
    (directory / WEIGHTS).write_bytes(b"a" * 300_000)
    (directory / exports.PROVENANCE_FILE).write_bytes(b"{}")
    return directory


FILES = {exports.PROVENANCE_FILE, "saved_model.pb", WEIGHTS}


def test_a_version_is_published_and_mirrored(store, staging, mirror):
    target = destination(f"{store.uri}/")
    assert (target.model_name, target.next_version()) == ("mnist", 1)
    assert target.publish(staging, 1) == f"{store.uri}/1"
    assert target.next_version() == 2
    assert set(store.objects()) == {f"1/{file}" for file in FILES}
    assert list(settle(mirror)) == [1]


def test_a_version_that_exists_is_replaced_only_with_overwrite(store, staging):
    target = destination(store.uri)
    store.put("0001/old")
    store.put("2/old")
    with pytest.raises(exports.VersionExistsError, match=f"{store.uri}/2 exists; expected a new --model_version, or"):
        target.check_version_free(2)
    for version in (1, 2):
        with pytest.raises(exports.VersionExistsError):
            target.publish(staging, version)
    store.put("2/")  # a directory's marker, which some programs write
    target.check_version_free(2, overwrite=True)
    target.publish(staging, 2, overwrite=True)
    assert set(store.objects()) == {"0001/old", "2/", *(f"2/{file}" for file in FILES)}


def test_the_file_that_makes_a_version_visible_comes_last(store, staging):
    seen = []
    target = destination(store.uri)
    upload = target._store.upload

    def watch(path, file):
        seen.append((file, set(store.objects())))
        upload(path, file)

    target._store.upload = watch
    target.publish(staging, 1)
    assert seen[-1] == ("1/saved_model.pb", {f"1/{file}" for file in FILES - {"saved_model.pb"}})


def test_of_two_that_claim_a_number_at_once_one_gets_it(store, staging, monkeypatch):
    targets, outcomes, ready = [destination(store.uri) for _ in range(2)], [], threading.Barrier(2)

    def run(target):
        check = target.check_version_free
        target.check_version_free = lambda *arguments: (check(*arguments), ready.wait(30))
        try:
            outcomes.append(target.publish(staging, 1))
        except exports.VersionExistsError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes, key=str) == [exports.VersionExistsError, f"{store.uri}/1"]
    assert set(store.objects()) == {f"1/{file}" for file in FILES}


def test_files_of_another_publisher_make_a_version_invalid(store, staging):
    target = destination(store.uri)
    upload = target._store.upload
    target._store.upload = lambda path, file: (upload(path, file), store.put("1/variables/other"))
    with pytest.raises(StoreError, match="variables/other.*nothing is published"):
        target.publish(staging, 1)
    assert store.objects() == []


def test_an_upload_that_fails_publishes_nothing_and_cleans_up(store, staging):
    target = destination(store.uri)
    upload = target._store.upload

    def fail_once(path, file):
        store.proxy.cut_after(0)
        try:
            upload(path, file)
        finally:
            store.proxy.pass_all()

    target._store.upload = fail_once
    with pytest.raises(StoreError, match=f"{store.uri}/1/{WEIGHTS}: .*; expected to write there"):
        target.publish(staging, 1)
    assert store.objects() == []


def test_a_bucket_that_does_not_exist_is_not_created(store, staging):
    target = Store("s3://no-such-bucket/m")
    for write in (lambda: target.create("1/a", b"x"), lambda: target.upload(staging / "saved_model.pb", "1/a")):
        with pytest.raises(StoreError, match="^s3://no-such-bucket/m/1/a: .*; expected to write there"):
            write()
    assert "no-such-bucket" not in [bucket["Name"] for bucket in store.s3.list_buckets()["Buckets"]]


def test_an_exporter_without_a_store_fails_before_it_works(store):
    store.proxy.cut_after(0)
    with pytest.raises(StoreError, match=f"{store.uri}: .*; expected a store that lists it"):
        with publish.publish(store.uri, None, {}):
            pytest.fail("the body must not run")


def test_a_file_uri_is_a_directory(tmp_path, staging):
    target = destination(f"file://{tmp_path}/mnist")
    assert target.model_name == "mnist"
    with target.staging_directory() as directory:
        shutil.copytree(staging, directory, dirs_exist_ok=True)
        assert target.publish(directory, target.next_version()) == tmp_path / "mnist" / "1"
    assert list(exports.versions(tmp_path / "mnist")) == [1]


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_other_schemes_of_fsspec_work_as_well(tmp_path, staging, scheme, monkeypatch):
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    uri = f"{scheme}://{tmp_path}/store/mnist"
    target = destination(uri)
    assert target.publish(staging, target.next_version()) == f"{uri}/1"
    assert target.next_version() == 2
    mirror = Mirror(uri, newest(2), "newest 2")
    assert list(settle(mirror)) == [1]
