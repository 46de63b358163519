import shutil
import threading
from types import SimpleNamespace

import pytest
from werkzeug.exceptions import ServiceUnavailable

from rnn_serving import exports
from rnn_serving.command_line import UserError
from rnn_serving.flask_endpoint.live_model import LiveModel


class Version:
    """What `open_version` returns here; its content says whether it opens."""

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
    with exports.publishing(base, version, overwrite) as staging:
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


def test_before_it_is_loaded_it_is_not_available(base):
    model = LiveModel(base, Version)
    assert not model.is_ready
    for ask in (model.acquire().__enter__, lambda: model.version, lambda: model.predict({})):
        with pytest.raises(ServiceUnavailable):
            ask()
    model.load()
    assert (model.is_ready, model.name, model.version, model.dataset) == (True, "m", 1, "d")


def test_the_newest_version_is_served_and_the_next_one_goes_live(base):
    publish(base, 9)
    publish(base, 10)
    model = loaded(base)
    assert model.predict("x") == (10, "whole", "x")
    publish(base, 11)
    model.refresh()
    assert model.version == 11


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
    assert model.version == 1
    assert [record.message for record in caplog.records] == [f"{base}/2 is broken; the version before goes on serving"]


def test_an_unforeseen_error_is_logged_with_its_traceback_and_is_no_end(base, caplog):
    model = loaded(base)
    publish(base, 2, "odd")
    model.refresh()
    assert model.version == 1
    assert "RuntimeError: odd" in caplog.text
    publish(base, 3)
    model.refresh()
    assert model.version == 3


def test_at_the_start_a_broken_version_is_logged_and_the_one_below_it_is_served(base, caplog):
    publish(base, 2, "broken")
    assert loaded(base).version == 1
    assert f"{base}/2 is broken" in caplog.text


def test_at_the_start_without_a_whole_version_the_newest_ones_error_is_raised(base):
    publish(base, 1, "broken", overwrite=True)
    publish(base, 2, "broken")
    with pytest.raises(UserError, match="/2 is broken"):
        LiveModel(base, Version).load()


def test_a_deleted_version_is_rolled_back(base):
    publish(base, 2)
    model = loaded(base)
    shutil.rmtree(base / "2")
    model.refresh()
    assert model.version == 1


def test_when_all_are_deleted_the_last_one_goes_on_serving(base):
    model = loaded(base)
    shutil.rmtree(base)
    model.refresh()
    assert model.predict("x")[0] == 1
    publish(base, 1, "back")
    model.refresh()
    assert model.predict("x")[1] == "back"


def test_a_version_published_anew_in_its_place_goes_live(base):
    model = loaded(base)
    publish(base, 1, "anew", overwrite=True)
    model.refresh()
    assert model.predict("x")[1] == "anew"


def test_a_version_that_is_broken_in_its_place_goes_on_serving_whole_rather_than_an_older_one(base):
    publish(base, 2)
    model = loaded(base)
    publish(base, 2, "broken", overwrite=True)
    model.refresh()
    model.refresh()
    assert model.predict("x")[:2] == (2, "whole")
    publish(base, 2, "mended", overwrite=True)
    model.refresh()
    assert model.predict("x")[1] == "mended"


def test_a_version_that_was_seen_half_copied_goes_live_when_it_is_whole(base):
    model = loaded(base)
    (base / "2").mkdir()
    (base / "2" / exports.SAVED_MODEL_FILE).write_text("graph")
    model.refresh()
    assert model.version == 1
    (base / "2" / "variables").write_text("whole")
    model.refresh()
    assert model.version == 2


def test_a_pinned_version_stays(base):
    publish(base, 2)
    model = loaded(base / "1")
    assert model.version == 1
    publish(base, 3)
    model.refresh()
    shutil.rmtree(base / "1")
    model.refresh()
    assert model.version == 1
    publish(base, 1, "anew")
    model.refresh()
    assert model.predict("x")[1] == "anew"


def test_a_directory_that_cannot_be_read_is_logged_and_is_no_end(base, caplog, monkeypatch):
    model = loaded(base)

    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patches:
        patches.setattr(exports, "versions", fail)
        model.refresh()
    assert "Permission denied" in caplog.text
    publish(base, 2)
    model.refresh()
    assert model.version == 2


def test_no_request_meets_a_closed_version_while_versions_change(base):
    model, stop, failures = loaded(base), threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                model.predict("x")
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 30):
        publish(base, version)
        model.refresh()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert model.version == 29
