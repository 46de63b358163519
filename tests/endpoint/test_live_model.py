import shutil
import threading
from types import SimpleNamespace

import pytest
from werkzeug.exceptions import ServiceUnavailable

from rnn_serving import exports
from rnn_serving.command_line import UserError
from rnn_serving.endpoint.live_model import LiveModel
from rnn_serving.endpoint.open_model import versions_path


class Version:
    """A fake version; its content decides whether it opens."""

    def __init__(self, directory):
        self.content = (directory / "variables").read_text()
        if self.content == "broken":
            raise UserError(f"{directory} is broken")
        if self.content == "odd":
            raise RuntimeError("odd")
        self.name, self.dataset, self.signature = "m", "d", SimpleNamespace(inputs={}, outputs={})
        self.version, self.is_closed = int(directory.name), False

    def predict(self, inputs):
        assert not self.is_closed
        return self.version, self.content, inputs

    def close(self):
        self.is_closed = True


def publish(base, version, content="whole", overwrite=False):
    with exports.staging_directory(base, version, overwrite) as staging:
        (staging / exports.SAVED_MODEL_FILE).write_text("graph")
        (staging / "variables").write_text(content)


@pytest.fixture
def base(tmp_path):
    publish(tmp_path / "m", 1)
    return tmp_path / "m"


def loaded(path):
    model = LiveModel(path, Version)
    model.load()
    return model


def test_a_model_is_unavailable_until_it_is_loaded(base):
    model = LiveModel(base, Version)
    assert not model.is_ready
    with pytest.raises(ServiceUnavailable), model.acquire():
        pass
    model.load()
    assert (model.is_ready, served_version(model)) == (True, 1)


def served_version(model):
    with model.acquire() as version:
        return version.version


def predict(model):
    with model.acquire() as version:
        return version.predict("x")


def test_the_newest_version_is_served_and_the_next_one_goes_live(base):
    publish(base, 9)
    publish(base, 10)
    model = loaded(base)
    assert predict(model) == (10, "whole", "x")
    publish(base, 11)
    model.refresh()
    assert served_version(model) == 11


def test_a_version_that_is_in_use_is_closed_after_its_last_request(base):
    model = loaded(base)
    with model.acquire() as first, model.acquire() as also_first:
        publish(base, 2)
        model.refresh()
        assert first is also_first
        assert first.predict("x")[0] == 1
        with model.acquire() as second:
            assert second.version == 2
    assert first.is_closed
    assert not second.is_closed


def test_a_version_that_is_not_in_use_is_closed_at_once(base):
    model = loaded(base)
    with model.acquire() as first:
        pass
    publish(base, 2)
    model.refresh()
    assert first.is_closed


def test_a_broken_version_is_logged_once_and_ignored(base, caplog):
    model = loaded(base)
    publish(base, 2, "broken")
    model.refresh()
    model.refresh()
    assert served_version(model) == 1
    assert [record.message for record in caplog.records] == [f"{base}/2 is broken; serving version 1 instead"]


def test_an_unexpected_error_is_logged_with_its_traceback_and_polling_continues(base, caplog):
    model = loaded(base)
    publish(base, 2, "odd")
    model.refresh()
    assert served_version(model) == 1
    assert "RuntimeError: odd" in caplog.text
    publish(base, 3)
    model.refresh()
    assert served_version(model) == 3


def test_at_start_a_broken_version_is_logged_and_the_one_before_it_is_served(base, caplog):
    publish(base, 2, "broken")
    assert served_version(loaded(base)) == 1
    assert f"{base}/2 is broken" in caplog.text


def test_at_start_without_a_valid_version_the_error_of_the_newest_is_raised(base):
    publish(base, 1, "broken", overwrite=True)
    publish(base, 2, "broken")
    with pytest.raises(UserError, match="/2 is broken"):
        LiveModel(base, Version).load()


def test_deleting_the_newest_version_rolls_back(base):
    publish(base, 2)
    model = loaded(base)
    shutil.rmtree(base / "2")
    model.refresh()
    assert served_version(model) == 1


def test_when_all_versions_are_deleted_the_last_one_keeps_serving(base):
    model = loaded(base)
    shutil.rmtree(base)
    model.refresh()
    assert predict(model)[0] == 1
    publish(base, 1, "back")
    model.refresh()
    assert predict(model)[1] == "back"


def test_a_version_replaced_in_place_goes_live(base):
    model = loaded(base)
    publish(base, 1, "replaced", overwrite=True)
    model.refresh()
    assert predict(model)[1] == "replaced"


def test_a_version_overwritten_by_a_broken_one_keeps_serving(base):
    publish(base, 2)
    model = loaded(base)
    publish(base, 2, "broken", overwrite=True)
    model.refresh()
    model.refresh()
    assert predict(model)[:2] == (2, "whole")
    publish(base, 2, "repaired", overwrite=True)
    model.refresh()
    assert predict(model)[1] == "repaired"


def test_a_half_copied_version_goes_live_when_it_is_complete(base):
    model = loaded(base)
    (base / "2").mkdir()
    (base / "2" / exports.SAVED_MODEL_FILE).write_text("graph")
    model.refresh()
    assert served_version(model) == 1
    (base / "2" / "variables").write_text("whole")
    model.refresh()
    assert served_version(model) == 2


def test_a_pinned_version_is_not_replaced_by_a_newer_one(base):
    publish(base, 2)
    model = loaded(base / "1")
    assert served_version(model) == 1
    publish(base, 3)
    model.refresh()
    shutil.rmtree(base / "1")
    model.refresh()
    assert served_version(model) == 1
    publish(base, 1, "replaced")
    model.refresh()
    assert predict(model)[1] == "replaced"


def test_an_unreadable_directory_is_logged_and_polling_continues(base, caplog, monkeypatch):
    model = loaded(base)

    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patches:
        patches.setattr(exports, "versions", fail)
        model.refresh()
    assert "Permission denied" in caplog.text
    publish(base, 2)
    model.refresh()
    assert served_version(model) == 2


@pytest.mark.slow
def test_no_request_gets_a_closed_version_while_versions_change(base):
    model, stop, failures = loaded(base), threading.Event(), []

    def send_requests():
        while not stop.is_set():
            try:
                predict(model)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=send_requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 30):
        publish(base, version)
        model.refresh()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert served_version(model) == 29


def test_a_version_whose_saved_model_is_text_is_served_and_swapped(base):
    model = LiveModel(base, Version)
    model.load()
    with exports.staging_directory(base, 2) as staging:
        (staging / "saved_model.pbtxt").write_text("graph")
        (staging / "variables").write_text("text")
    model.refresh()
    with model.acquire() as version:
        assert version.content == "text"


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
@pytest.mark.parametrize("version", [None, 1])
def test_a_model_path_may_be_a_file_uri(base, prefix, version):
    args = SimpleNamespace(model_path=f"{prefix}{base}", model_version=version)
    assert versions_path(args) == (base / "1" if version else base)
