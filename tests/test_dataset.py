import gzip
import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import random_split, run_script

from rnn_serving import dataset, idx_files, mnist_download
from rnn_serving.dataset import DatasetError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def directory(tmp_path):
    """A small data set named `mine`: 20 training and 10 test images."""
    dataset.write_dataset(tmp_path / "mine", random_split(20), random_split(10, seed=1))
    return tmp_path / "mine"


def test_written_images_are_read_back_as_floats_from_0_to_1(directory):
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


def test_the_content_hash_changes_with_one_pixel(directory):
    before = dataset.load(directory).content_hash
    pixels, _ = random_split(20)
    pixels[7, 3, 3] ^= 1
    dataset.write_idx(directory / TRAIN_IMAGES, pixels)
    assert dataset.load(directory).content_hash != before


def rewrite(name, change):
    """Return a function that applies `change` to the content, bytes, of a file of a data set."""

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
def test_a_damaged_file_is_an_error_with_its_name_and_what_was_expected(directory, damage, file, message):
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


def test_a_file_where_the_directory_should_be_is_an_error(tmp_path):
    (tmp_path / "mnist").write_text("")
    with pytest.raises(DatasetError, match="is a file; expected a directory"):
        dataset.load(tmp_path / "mnist")


def test_more_test_images_than_the_data_set_has_is_an_error(directory):
    assert len(dataset.load_test_images(directory)) == 10
    assert len(dataset.load_test_images(directory, 3)) == 3
    with pytest.raises(DatasetError, match="has only 10 test images"):
        dataset.load_test_images(directory, 11)


def test_reading_data_does_not_import_tensorflow():
    code = "import sys, rnn_serving.dataset, rnn_serving.digits; sys.exit('tensorflow' in sys.modules)"
    assert run_script("-c", code).returncode == 0


CONTENT = b"any content: the download checks only its hash" * 1000
SHA256 = {"a.gz": hashlib.sha256(CONTENT).hexdigest()}


@contextmanager
def mirror(answer):
    """Run a mirror on loopback whose GETs `answer(handler, stop)` handles; yield (URL, list of requested paths)."""
    requested, stop = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            answer(self, stop)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", requested
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, content, length=None):
    """Answer with `content` and a Content-Length, by default the right one."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def answer_well(handler, stop):
    send(handler, CONTENT)


@pytest.fixture
def good_mirror():
    """A mirror that has every file: (URL, list of requested paths)."""
    with mirror(answer_well) as served:
        yield served


@pytest.fixture
def short_timeout(monkeypatch):
    """Make a mirror that hangs count as unreachable after half a second."""
    monkeypatch.setattr(mnist_download, "MIRROR_TIMEOUT_S", 0.5)


BAD_MIRRORS = {
    "forbidden": lambda handler, stop: handler.send_error(403),
    "truncated": lambda handler, stop: send(handler, CONTENT[:5000], len(CONTENT)),
    "wrong_checksum": lambda handler, stop: send(handler, b"something else"),
    "hanging": lambda handler, stop: stop.wait(20),
}


@pytest.fixture(params=BAD_MIRRORS.values(), ids=BAD_MIRRORS)
def bad_mirror(request, short_timeout):
    """A mirror that fails in one of several ways: (URL, list of requested paths)."""
    with mirror(request.param) as served:
        yield served


def test_the_next_mirror_is_tried_when_one_fails(bad_mirror, good_mirror, tmp_path):
    (bad_url, requested), (good_url, _) = bad_mirror, good_mirror
    dataset.download(tmp_path / "new", [bad_url, good_url], SHA256)
    assert requested == ["/a.gz"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {"a.gz": CONTENT}


def test_a_failed_download_leaves_nothing_behind_and_lists_every_mirrors_failure(bad_mirror, tmp_path):
    url, _ = bad_mirror
    with pytest.raises(DatasetError) as error:
        dataset.download(tmp_path, [url, "http://127.0.0.1:9/"], SHA256)
    assert f"{url}a.gz: " in str(error.value)
    assert "http://127.0.0.1:9/a.gz: " in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_failed_is_not_tried_first_again(good_mirror, tmp_path):
    two_files = {"a.gz": SHA256["a.gz"], "b.gz": SHA256["a.gz"]}
    with mirror(BAD_MIRRORS["forbidden"]) as (bad_url, requested):
        dataset.download(tmp_path, [bad_url, good_mirror[0]], two_files)
    assert requested == ["/a.gz"]


def test_existing_files_are_neither_downloaded_nor_replaced(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    dataset.download(tmp_path, ["http://127.0.0.1:9/"], SHA256)
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_directory_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="expected a directory"):
        dataset.download(tmp_path / "file" / "mnist", [], SHA256)


def test_only_data_mnist_is_downloaded(tmp_path, monkeypatch):
    downloaded = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "download", downloaded.append)
    for name in ("data/mnist", "data/fashion"):
        with pytest.raises(DatasetError, match="does not exist"):
            dataset.load(name)
    assert [str(path) for path in downloaded] == ["data/mnist"]


def as_floats(split):
    pixels, labels = split
    return pixels / 255, labels


@pytest.mark.parametrize(
    "change",
    [
        as_floats,
        lambda split: (as_floats(split)[0].astype(np.float32), split[1]),
        lambda split: (split[0].astype(np.float64), split[1].astype(np.int64)),
        lambda split: (split[0].astype(np.int32), split[1].astype(np.float32)),
        lambda split: (split[0].reshape(-1, 784), split[1]),
        lambda split: (as_floats(split)[0].reshape(-1, 784), split[1]),
        lambda split: (split[0][..., np.newaxis], split[1]),
        lambda split: (split[0].tolist(), split[1].tolist()),
    ],
)
def test_images_in_other_forms_are_written_as_pixels(tmp_path, change):
    train, test = random_split(20), random_split(10, seed=1)
    dataset.write_dataset(tmp_path, change(train), change(test))
    written = dataset.load(tmp_path)
    for split, (pixels, labels) in ((written.train, train), (written.test, test)):
        np.testing.assert_array_equal(split.pixels, pixels)
        np.testing.assert_array_equal(split.labels, labels)


def test_true_and_false_are_white_and_black(tmp_path):
    images, labels = random_split(20)
    dataset.write_dataset(tmp_path, (images > 127, labels), (images > 127, labels))
    np.testing.assert_array_equal(dataset.load(tmp_path).train.pixels, np.where(images > 127, 255, 0))


def with_value(value, dtype=np.float64):
    images = np.zeros((20, 28, 28), dtype)
    images[3, 5, 7] = value
    return images


LABELS = np.zeros(20, np.uint8)
GOOD_IMAGES = np.zeros((20, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (with_value(-0.5), LABELS, "images.*value -0.5; expected whole numbers from 0 to 255, or floats from 0 to 1"),
        (with_value(0.5) * 100 + 0.25, LABELS, "value 0.25; expected whole numbers"),
        (with_value(np.nan), LABELS, "value nan; expected"),
        (with_value(np.inf), LABELS, "value inf; expected"),
        (with_value(256, np.int64), LABELS, "value 256; expected"),
        (with_value(-1, np.int64), LABELS, "value -1; expected"),
        (np.zeros((20, 28, 28), complex), LABELS, "values of type complex128; expected numbers"),
        (np.full((20, 28, 28), "a"), LABELS, "values of type <U1; expected numbers"),
        ([[1, 2], [3]], LABELS, "expected rows of the same length"),
        (np.zeros((20, 32, 32)), LABELS, r"images of shape \(20, 32, 32\); expected \(N, 28, 28\) or \(N, 784\)"),
        (np.zeros((20, 783)), LABELS, r"images of shape \(20, 783\)"),
        (np.zeros((28, 28)), LABELS, r"images of shape \(28, 28\)"),
        (np.zeros((20, 28, 28, 3)), LABELS, r"images of shape \(20, 28, 28, 3\)"),
        (np.zeros(784), LABELS, r"images of shape \(784,\)"),
        (np.float64(1), LABELS, r"images of shape \(\)"),
        (GOOD_IMAGES, LABELS[:19], r"labels of shape \(19,\) for 20 images"),
        (GOOD_IMAGES, np.zeros((20, 10)), r"labels of shape \(20, 10\) for 20 images"),
        (GOOD_IMAGES[:0], LABELS[:0], "for 0 images"),
        (GOOD_IMAGES, LABELS + 10, "labels.*value 10; expected whole numbers from 0 to 9$"),
        (GOOD_IMAGES, np.full(20, -1), "value -1; expected whole numbers from 0 to 9"),
        (GOOD_IMAGES, np.full(20, 0.5), "value 0.5; expected whole numbers from 0 to 9"),
    ],
)
@pytest.mark.parametrize("split", ["train", "t10k"])
def test_what_is_not_images_and_labels_is_refused_before_anything_is_written(tmp_path, images, labels, message, split):
    good = random_split(20)
    pairs = [(images, labels), good] if split == "train" else [good, (images, labels)]
    with pytest.raises(DatasetError, match=f"{split}.*{message}"):
        dataset.write_dataset(tmp_path / "mine", *pairs)
    assert not (tmp_path / "mine").exists()


def test_fractions_in_one_set_and_pixels_in_the_other_are_not_guessed_at(tmp_path):
    with pytest.raises(DatasetError, match="train-images.*expected whole numbers"):
        dataset.write_dataset(tmp_path, as_floats(random_split(20)), (random_split(10)[0] * 1.0, LABELS[:10]))


@pytest.mark.parametrize("name", [TRAIN_IMAGES, "t10k-labels-idx1-ubyte"])
def test_existing_files_are_kept_and_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(DatasetError, match=f"{name}: there already; expected another directory, or overwrite=True"):
        dataset.write_dataset(tmp_path, random_split(20), random_split(10))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_overwrite_replaces_all_files_in_either_form_and_no_others(directory):
    (directory / TRAIN_IMAGES).rename(directory / "mine.gz")
    (directory / TRAIN_IMAGES.removesuffix(".gz")).write_bytes(b"uncompressed")
    dataset.write_dataset(directory, random_split(30, seed=2), random_split(5, seed=3), overwrite=True)
    assert len(dataset.load(directory).train) == 30
    assert len(list(directory.iterdir())) == 5


def test_of_two_who_write_at_once_one_is_refused_and_the_data_are_whole(tmp_path):
    outcomes = []

    def write(seed):
        try:
            dataset.write_dataset(tmp_path / "mine", random_split(300, seed), random_split(100, seed))
            outcomes.append(seed)
        except DatasetError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, int))
    assert all("there already" in outcome for outcome in outcomes if outcome != winner)
    np.testing.assert_array_equal(dataset.load(tmp_path / "mine").test.pixels, random_split(100, winner)[0])


@pytest.mark.parametrize("is_new", [True, False])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, is_new):
    def fill(path, content):
        if "labels" in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    if not is_new:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
    monkeypatch.setattr(idx_files.files, "write_bytes", fill)
    with pytest.raises(DatasetError, match="mine: No space left on device; expected to write a data set there"):
        dataset.write_dataset(tmp_path / "mine", random_split(20), random_split(10))
    assert [path.name for path in tmp_path.glob("mine/*")] == ([] if is_new else ["notes.txt"])
    assert (tmp_path / "mine").exists() is not is_new


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((3, 28, 28), np.float32), np.zeros((3, 784), np.uint8)])
def test_only_bytes_are_written_as_idx(tmp_path, array):
    with pytest.raises(DatasetError, match="expected uint8"):
        dataset.write_idx(tmp_path / TRAIN_IMAGES, array)
