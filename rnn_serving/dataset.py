"""Read the four IDX files of a data set as NumPy arrays; download MNIST: `python -m rnn_serving.dataset data/mnist`.

The format is described at https://web.archive.org/web/2016/http://yann.lecun.com/exdb/mnist/ ; any data set of 28x28
images in that format works. This module does not import TensorFlow.
"""

import contextlib
import fcntl
import gzip
import hashlib
import logging
import math
import os
import tempfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rnn_serving import files
from rnn_serving.command_line import UserError, parser, request_failure, run

IMAGE_SIZE = 28
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE)
NUM_CLASSES = 10
DEFAULT_DIRECTORY = "data/mnist"

TRAIN, TEST = "train", "t10k"
IMAGES_MAGIC, LABELS_MAGIC = 0x00000803, 0x00000801
IMAGES_FILE, LABELS_FILE = "{split}-images-idx3-ubyte.gz", "{split}-labels-idx1-ubyte.gz"

MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
# A mirror is unreachable after this time without an answer or a byte.
MIRROR_TIMEOUT_S = 5


class DatasetError(UserError):
    """A file that is missing, is not a valid IDX file or does not match the others; or a failed download."""


class FilesExistError(DatasetError):
    """Files that are not to be replaced."""


class NoNetworkError(DatasetError):
    """No mirror could be reached."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images as stored, uint8 (N, 28, 28) in 0..255, and their labels, uint8 (N,) in 0..9."""

    pixels: np.ndarray
    labels: np.ndarray

    @cached_property
    def images(self):
        """The images as the model expects them: float32 (N, 28, 28) in [0, 1]."""
        return self.pixels.astype(np.float32) / np.float32(255)

    def first(self, count):
        """Return a `Split` of the first `count` images."""
        return Split(self.pixels[:count], self.labels[:count])

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set, and the name of the directory they came from."""

    name: str
    train: Split
    test: Split

    def describe(self):
        """Return what run.json and model.json record of the data set."""
        return {"name": self.name, "hash": self.content_hash, "train": len(self.train), "test": len(self.test)}

    @cached_property
    def content_hash(self):
        """SHA-256 of all images and labels, hexadecimal: the same for the same data in any packaging."""
        digest = hashlib.sha256()
        for array in (self.train.pixels, self.train.labels, self.test.pixels, self.test.labels):
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()


def load(directory):
    """Return the `Dataset` in `directory`; if that is `data/mnist` and files are missing, download them first.

    Raises: DatasetError with the file, its content and what was expected.
    """
    directory = _require_directory(directory)
    return Dataset(dataset_name(directory), _read_split(directory, TRAIN), _read_split(directory, TEST))


def load_test_images(directory, count=None):
    """Return the first `count` test images as a `Split`; None means all, at most 1,000.

    Raises: DatasetError, also if there are fewer than `count`.
    """
    test = _read_split(_require_directory(directory), TEST)
    count = min(len(test), 1000) if count is None else count
    if count > len(test):
        raise DatasetError(
            f"{directory} has {len(test)} test images; --num_tests is {count}, expected at most that many"
        )
    return test.first(count)


def dataset_name(directory):
    """Return the name of a data set, which is that of its directory."""
    return Path(os.path.abspath(directory)).name


def _require_directory(directory):
    """Return `directory` as a Path; download the default one, `data/mnist`, if files are missing.

    Raises: DatasetError if it does not exist.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise DatasetError(f"{directory} is a file; expected a directory with the four IDX files")
    is_default = os.path.abspath(directory) == os.path.abspath(DEFAULT_DIRECTORY)
    if is_default and not is_complete(directory):
        download(directory)
    elif not directory.exists():
        raise DatasetError(_how_to_get(f"{directory} does not exist"))
    return directory


def is_complete(directory):
    """Return whether all four files exist, compressed or not."""
    return all(_find(Path(directory), name) for name in MNIST_SHA256)


def download(directory, mirrors=MNIST_MIRRORS, sha256=MNIST_SHA256):
    """Download the files of MNIST that `directory` lacks; each appears whole and checked, or not at all.

    `sha256` maps file names to checksums; `mirrors` are URLs that end in a slash, tried in this order.
    Raises: DatasetError with the answer of every mirror.
    """
    directory = Path(directory)
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{directory}: {error.strerror}; expected a directory, existing or new") from error
    mirrors = list(mirrors)
    try:
        for name, checksum in sha256.items():
            if _find(directory, name) is None:
                _download_file(directory, name, checksum, mirrors)
    except DatasetError:
        if is_new and not any(directory.iterdir()):
            directory.rmdir()
        raise


def _download_file(directory, name, checksum, mirrors):
    """Download one file from the first mirror that has it; move mirrors that fail to the end of `mirrors`."""
    # Imported late: most runs find the files in place and need no HTTP client.
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=MIRROR_TIMEOUT_S)
    failures, unreached = [], 0
    for mirror in list(mirrors):
        try:
            # pooch writes to a temporary file in the same directory and renames it once the checksum matches.
            pooch.retrieve(mirror + name, f"sha256:{checksum}", name, directory, downloader=downloader)
            return
        except (requests.RequestException, ValueError, OSError) as error:
            failures.append(f"  {mirror}{name}: {request_failure(error)}")
            unreached += isinstance(error, requests.ConnectionError | requests.Timeout)
            mirrors.append(mirrors.pop(mirrors.index(mirror)))
    kind = NoNetworkError if unreached == len(failures) else DatasetError
    raise kind(_how_to_get("\n".join([f"{directory / name} could not be downloaded:", *failures])))


def _how_to_get(problem):
    return (
        f"{problem}\nExpected the four IDX files. Either command creates a data set:\n"
        f"  python -m rnn_serving.dataset {DEFAULT_DIRECTORY}     # downloads MNIST\n"
        "  python -m rnn_serving.digits data/digits     # scikit-learn's digits, offline; then --data_dir data/digits"
    )


def _find(directory, name):
    """Return the path of `name` or of its uncompressed form, or None."""
    for path in (directory / name, directory / name.removesuffix(".gz")):
        if path.exists():
            return path
    return None


def _read_split(directory, split):
    """Return the `Split` in one pair of files, after checking that they match."""
    pixels, pixels_path = _read_idx(directory, IMAGES_FILE.format(split=split), IMAGES_MAGIC)
    labels, labels_path = _read_idx(directory, LABELS_FILE.format(split=split), LABELS_MAGIC)
    if pixels.shape[1:] != IMAGE_SHAPE:
        raise DatasetError(f"{pixels_path}: images of shape {pixels.shape[1:]}; expected {IMAGE_SHAPE}")
    if len(pixels) != len(labels):
        raise DatasetError(f"{pixels_path}: {len(pixels)} images, expected {len(labels)}, the labels in {labels_path}")
    if len(labels) == 0:
        raise DatasetError(f"{labels_path}: no labels; expected at least one")
    if labels.max() >= NUM_CLASSES:
        where = int(np.argmax(labels >= NUM_CLASSES))
        raise DatasetError(f"{labels_path}: label {labels[where]} at position {where}; expected 0 to {NUM_CLASSES - 1}")
    return Split(pixels, labels)


def _read_idx(directory, name, magic):
    """Return (uint8 array, path) of an IDX file; the last byte of the magic number is the rank."""
    path = _find(directory, name)
    if path is None:
        raise DatasetError(_how_to_get(f"{directory / name} does not exist"))
    content = _read_bytes(path)
    header_size = 4 * (1 + (magic & 0xFF))
    if len(content) < header_size:
        raise DatasetError(f"{path}: {len(content)} bytes; expected an IDX header of {header_size}")
    found, *shape = (int(number) for number in np.frombuffer(content[:header_size], ">u4"))
    if found != magic:
        raise DatasetError(f"{path}: magic number 0x{found:08x}; expected 0x{magic:08x}")
    expected = header_size + math.prod(shape)
    if len(content) != expected:
        raise DatasetError(f"{path}: {len(content)} bytes; expected {expected} from the header's dimensions {shape}")
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape), path


def _read_bytes(path):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected a readable file") from error
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: {error}; expected a whole gzip file") from error


def write_idx(path, array):
    """Write a uint8 array, (N,) or (N, 28, 28), as a gzipped IDX file; the same array gives the same bytes.

    Raises: DatasetError for another dtype or rank.
    """
    if array.dtype != np.uint8 or array.ndim not in (1, 3):
        raise DatasetError(f"{path}: {array.dtype} of shape {array.shape}; expected uint8, (N,) or (N, 28, 28)")
    magic = IMAGES_MAGIC if array.ndim == 3 else LABELS_MAGIC
    header = np.array([magic, *array.shape], ">u4").tobytes()
    files.write_bytes(path, gzip.compress(header + array.tobytes(), mtime=0))


def write_dataset(directory, train, test, overwrite=False):
    """Write two pairs of images and labels as the four files of a data set, all of them or none.

    Images, (N, 28, 28) or (N, 784), are whole numbers from 0 to 255, or floats from 0 to 1, which are scaled. Labels,
    (N,), are whole numbers from 0 to 9.
    Raises: DatasetError for other values or shapes, and if there is such a file, unless `overwrite` is true.
    """
    directory = Path(directory)
    arrays = _checked_arrays(directory, {TRAIN: train, TEST: test})
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory), tempfile.TemporaryDirectory(prefix=".writing-", dir=directory) as staging:
            existing = [_find(directory, path.name) for path in arrays if _find(directory, path.name)]
            if existing and not overwrite:
                names = ", ".join(map(str, existing))
                raise FilesExistError(f"{names}: there already; expected another directory, or overwrite=True")
            for path, array in arrays.items():
                write_idx(Path(staging) / path.name, array)
            for path in arrays:
                path.with_suffix("").unlink(missing_ok=True)  # the uncompressed form of the file that is replaced
                (Path(staging) / path.name).replace(path)
    except OSError as error:
        if is_new and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
        raise DatasetError(f"{directory}: {error.strerror}; expected to write a data set there") from error


@contextlib.contextmanager
def _locked(directory):
    """Keep others who write to the directory waiting."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _checked_arrays(directory, splits):
    """Return {path: uint8 array} of the four files that hold {split: (images, labels)}."""
    images, labels = {}, {}
    for split, (pixels, digits) in splits.items():
        path, labels_path = (directory / name.format(split=split) for name in (IMAGES_FILE, LABELS_FILE))
        images[path], labels[labels_path] = _as_images(path, pixels), _numbers(labels_path, digits)
        if labels[labels_path].shape != images[path].shape[:1] or not len(images[path]):
            raise DatasetError(
                f"{labels_path}: labels of shape {labels[labels_path].shape} for {len(images[path])} images; "
                "expected one for each, and at least one"
            )
    scale = 255 if _are_fractions(images.values()) else 1
    checked = {path: _as_uint8(path, pixels, 255, scale) for path, pixels in images.items()}
    return checked | {path: _as_uint8(path, digits, NUM_CLASSES - 1) for path, digits in labels.items()}


def _as_images(path, values):
    """Return numbers as an array (N, 28, 28)."""
    images = _numbers(path, values)
    if images.shape[1:] in ((math.prod(IMAGE_SHAPE),), (*IMAGE_SHAPE, 1)):
        images = images.reshape(-1, *IMAGE_SHAPE)
    if images.shape[1:] != IMAGE_SHAPE:
        raise DatasetError(f"{path}: images of shape {images.shape}; expected (N, 28, 28) or (N, 784)")
    return images


def _numbers(path, values):
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}; expected rows of the same length") from error
    if array.dtype.kind not in "buif":
        raise DatasetError(f"{path}: values of type {array.dtype}; expected numbers")
    return array


def _are_fractions(arrays):
    """Return whether the pixels of both splits, as far as they are floats, are between 0 and 1."""
    return all(array.min() >= 0 and array.max() <= 1 for array in arrays if array.dtype.kind in "bf")


def _as_uint8(path, values, highest, scale=1):
    """Return whole numbers from 0 to `highest` as uint8; with a `scale`, floats are first scaled and rounded."""
    if scale > 1 and values.dtype.kind in "bf":
        values = np.rint(values.astype(np.float64) * scale)
    is_valid = (values >= 0) & (values <= highest) & (np.trunc(values) == values)
    if not is_valid.all():
        expected = f"whole numbers from 0 to {highest}" + (", or floats from 0 to 1" if highest == 255 else "")
        raise DatasetError(f"{path}: value {values[~is_valid][0]}; expected {expected}")
    return values.astype(np.uint8)


def main(argv=None):
    """Download MNIST into a directory, unless it is complete, and print its size."""
    arguments = parser(__doc__)
    arguments.add_argument("directory", help="where the four files go, for example data/mnist")
    directory = arguments.parse_args(argv).directory
    download(directory)
    dataset = load(directory)
    print(f"{directory}: {len(dataset.train):,} training and {len(dataset.test):,} test images")


if __name__ == "__main__":
    run(main)
