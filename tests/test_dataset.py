import gzip
import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import random_split, run_script

from rnn_serving import dataset
from rnn_serving.dataset import DatasetError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def directory(tmp_path):
    dataset.write_dataset(tmp_path / "mine", random_split(20), random_split(10, seed=1))
    return tmp_path / "mine"


def test_what_was_written_is_read_back_as_floats_from_0_to_1(directory):
    pixels, labels = random_split(20)
    data = dataset.load(directory)
    assert data.name == "mine"
    assert data.train.images.dtype == np.float32
    assert data.train.images.shape == (20, 28, 28)
    np.testing.assert_array_equal(data.train.images, pixels / np.float32(255))
    np.testing.assert_array_equal(data.train.labels, labels)
    assert len(data.test) == 10


def test_uncompressed_files_are_the_same_data(directory):
    compressed = dataset.load(directory)
    for path in list(directory.iterdir()):
        (directory / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert dataset.load(directory).content_hash == compressed.content_hash


def test_the_content_hash_tells_one_changed_pixel(directory):
    before = dataset.load(directory).content_hash
    pixels, _ = random_split(20)
    pixels[7, 3, 3] ^= 1
    dataset.write_idx(directory / TRAIN_IMAGES, pixels)
    assert dataset.load(directory).content_hash != before


def rewrite(name, change):
    def apply(directory):
        path = directory / name
        path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))

    return apply


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (lambda d: (d / TRAIN_IMAGES).unlink(), TRAIN_IMAGES, "does not exist"),
        (lambda d: (d / TRAIN_IMAGES).write_bytes(b"<html>"), TRAIN_IMAGES, "expected a whole gzip file"),
        (lambda d: (d / TRAIN_IMAGES).write_bytes((d / TRAIN_IMAGES).read_bytes()[:900]), TRAIN_IMAGES, "whole gzip"),
        (rewrite(TRAIN_IMAGES, lambda c: c[:-1]), TRAIN_IMAGES, "15695 bytes; expected 15696"),
        (rewrite(TRAIN_IMAGES, lambda c: c + b"\0"), TRAIN_IMAGES, "15697 bytes; expected 15696"),
        (rewrite(TRAIN_IMAGES, lambda c: c[:7]), TRAIN_IMAGES, "expected an IDX header of 16"),
        (rewrite(TRAIN_IMAGES, lambda c: b"\0\0\x0d\x03" + c[4:]), TRAIN_IMAGES, "magic number 0x00000d03"),
        (rewrite(TRAIN_LABELS, lambda c: b"\0\0\x08\x03" + c[4:]), TRAIN_LABELS, "expected 0x00000801"),
        (lambda d: dataset.write_idx(d / TRAIN_IMAGES, np.zeros((20, 32, 32), np.uint8)), TRAIN_IMAGES, "(32, 32)"),
        (lambda d: dataset.write_idx(d / TRAIN_LABELS, np.zeros(19, np.uint8)), TRAIN_LABELS, "20 images, expected 19"),
        (lambda d: dataset.write_idx(d / TRAIN_LABELS, np.full(20, 10, np.uint8)), TRAIN_LABELS, "expected 0 to 9"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_damaged_file_is_named_with_what_was_expected(directory, damage, file, message):
    damage(directory)
    with pytest.raises(DatasetError) as error:
        dataset.load(directory)
    assert file in str(error.value)
    assert message in str(error.value)


def test_a_header_that_claims_more_than_memory_is_an_error_not_a_crash(directory):
    huge = np.array([0x803, 2**31, 2**31, 2**31], ">u4").tobytes()
    (directory / TRAIN_IMAGES).write_bytes(gzip.compress(huge))
    with pytest.raises(DatasetError, match="expected 9903520314283042199192993808"):
        dataset.load(directory)


def test_a_missing_directory_is_an_error_with_the_two_commands(tmp_path):
    with pytest.raises(DatasetError) as error:
        dataset.load(tmp_path / "none")
    assert "python -m rnn_serving.dataset data/mnist" in str(error.value)
    assert "python -m rnn_serving.digits data/digits" in str(error.value)


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "mnist").write_text("")
    with pytest.raises(DatasetError, match="is a file; expected a directory"):
        dataset.load(tmp_path / "mnist")


def test_asking_for_more_test_images_than_there_are_is_an_error(directory):
    assert len(dataset.load_test_images(directory)) == 10
    assert len(dataset.load_test_images(directory, 3)) == 3
    with pytest.raises(DatasetError, match="has 10 test images"):
        dataset.load_test_images(directory, 11)


def test_reading_data_imports_no_tensorflow():
    code = "import sys, rnn_serving.dataset, rnn_serving.digits; sys.exit('tensorflow' in sys.modules)"
    assert run_script("-c", code).returncode == 0


CONTENT = b"an IDX file, for all the download knows" * 1000
SHA256 = {"a.gz": hashlib.sha256(CONTENT).hexdigest()}


@contextmanager
def mirror(behaviour):
    """Serve on loopback: `behaviour(handler)` answers every GET. The value is (URL, list of paths asked)."""
    asked, stop = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            behaviour(self, stop)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, content, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


BAD_MIRRORS = {
    "forbidden": lambda handler, stop: handler.send_error(403),
    "cut_off": lambda handler, stop: send(handler, CONTENT[:5000], len(CONTENT)),
    "wrong_checksum": lambda handler, stop: send(handler, b"something else"),
    "hanging": lambda handler, stop: stop.wait(20),
}


@pytest.mark.parametrize("behaviour", BAD_MIRRORS.values(), ids=BAD_MIRRORS)
def test_where_a_mirror_fails_the_next_one_serves(behaviour, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "MIRROR_TIMEOUT_S", 0.5)
    with mirror(behaviour) as (bad, asked), mirror(lambda handler, stop: send(handler, CONTENT)) as (good, _):
        dataset.download(tmp_path / "new", [bad, good], SHA256)
    assert asked == ["/a.gz"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {"a.gz": CONTENT}


@pytest.mark.parametrize("behaviour", BAD_MIRRORS.values(), ids=BAD_MIRRORS)
def test_a_download_that_fails_leaves_nothing_behind_and_says_what_each_mirror_did(behaviour, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "MIRROR_TIMEOUT_S", 0.5)
    with mirror(behaviour) as (url, _), pytest.raises(DatasetError) as error:
        dataset.download(tmp_path, [url, "http://127.0.0.1:9/"], SHA256)
    assert f"{url}a.gz: " in str(error.value)
    assert "http://127.0.0.1:9/a.gz: " in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_failed_is_not_asked_first_again(tmp_path):
    two_files = {"a.gz": SHA256["a.gz"], "b.gz": SHA256["a.gz"]}
    with mirror(BAD_MIRRORS["forbidden"]) as (bad, asked), mirror(lambda h, _: send(h, CONTENT)) as (good, _):
        dataset.download(tmp_path, [bad, good], two_files)
    assert asked == ["/a.gz"]


def test_files_that_are_present_are_neither_asked_for_nor_replaced(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    dataset.download(tmp_path, ["http://127.0.0.1:9/"], SHA256)
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="expected a directory"):
        dataset.download(tmp_path / "file" / "mnist", [], SHA256)


def test_only_data_mnist_is_downloaded(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "download", fetched.append)
    for name in ("data/mnist", "data/fashion"):
        with pytest.raises(DatasetError, match="does not exist"):
            dataset.load(name)
    assert [str(path) for path in fetched] == ["data/mnist"]
