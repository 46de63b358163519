"""Read the four IDX files of a data set as NumPy arrays; download MNIST: `python -m rnn_serving.dataset data/mnist`.

The format is the one of https://web.archive.org/web/2016/http://yann.lecun.com/exdb/mnist/ ; any data set of 28x28
images in that form works. Nothing here imports TensorFlow.
"""

import gzip
import hashlib
import logging
import math
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

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
# Seconds without an answer, or without a byte, after which a mirror counts as unreachable.
MIRROR_TIMEOUT_S = 5


class DatasetError(UserError):
    """A file that is missing, is no IDX file or does not fit the others; or a download that failed."""


class NoNetworkError(DatasetError):
    """No mirror could be reached."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images as they are stored, uint8 (N, 28, 28) in 0..255, and their labels, uint8 (N,) in 0..9."""

    pixels: np.ndarray
    labels: np.ndarray

    @cached_property
    def images(self):
        """The images as the model takes them: float32 (N, 28, 28) in [0, 1]."""
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

    @cached_property
    def content_hash(self):
        """SHA-256 of all images and labels, hexadecimal: the same for the same data in any packaging."""
        digest = hashlib.sha256()
        for array in (self.train.pixels, self.train.labels, self.test.pixels, self.test.labels):
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()


def load(directory):
    """Return the `Dataset` in `directory`; download it first if that is `data/mnist` and files are missing.

    Raises: DatasetError naming the file, what it holds and what was expected.
    """
    directory = _present(directory)
    return Dataset(dataset_name(directory), _read_split(directory, TRAIN), _read_split(directory, TEST))


def load_test_images(directory, count=None):
    """Return the first `count` images of the test set as a `Split`; None means all, but 1,000 at most.

    Raises: DatasetError, also if there are fewer than `count`.
    """
    test = _read_split(_present(directory), TEST)
    count = min(len(test), 1000) if count is None else count
    if count > len(test):
        raise DatasetError(
            f"{directory} has {len(test)} test images; --num_tests is {count}, expected at most that many"
        )
    return test.first(count)


def dataset_name(directory):
    """Return the name of a data set: that of its directory."""
    return Path(os.path.abspath(directory)).name


def _present(directory):
    """Return `directory` as a Path once it is there; only the default one, `data/mnist`, is downloaded."""
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
    """Return whether all four files are there, compressed or not."""
    return all(_find(Path(directory), name) for name in MNIST_SHA256)


def download(directory, mirrors=MNIST_MIRRORS, sha256=MNIST_SHA256):
    """Fetch the files of MNIST that `directory` lacks; each appears whole and checked, or not at all.

    `sha256` maps file names to checksums, `mirrors` are URLs ending in a slash, asked in that order.
    Raises: DatasetError with what every mirror answered.
    """
    directory = Path(directory)
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{directory}: {error.strerror}; expected a directory, there or to be made") from error
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
    """Fetch one file from the first mirror that has it, and put a mirror that failed last in `mirrors`."""
    # Imported here: most runs find the files in place and need no HTTP client.
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=MIRROR_TIMEOUT_S)
    failures, unreached = [], 0
    for mirror in list(mirrors):
        try:
            # pooch writes to a temporary file beside the target and renames it once the checksum agrees.
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
        f"{problem}\nExpected the four IDX files. Either command makes a data set:\n"
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
    """Read one pair of files and check that they fit each other."""
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
    """Return the uint8 array in an IDX file, and the file's path; the magic number's last byte is the rank."""
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
    """Write a uint8 array, (N,) or (N, 28, 28), as a gzipped IDX file; the same array gives the same bytes."""
    magic = IMAGES_MAGIC if array.ndim == 3 else LABELS_MAGIC
    header = np.array([magic, *array.shape], ">u4").tobytes()
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0))
    partial.rename(path)


def write_dataset(directory, train, test):
    """Write two (images uint8 (N, 28, 28), labels uint8 (N,)) pairs as the four files of a data set.

    Files that are there are left alone.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for split, arrays in {TRAIN: train, TEST: test}.items():
        for name, array in zip((IMAGES_FILE, LABELS_FILE), arrays):
            path = directory / name.format(split=split)
            if _find(directory, path.name) is None:
                write_idx(path, array)


def main(argv=None):
    """Download MNIST into a directory unless it is there, and say what it holds."""
    arguments = parser(__doc__)
    arguments.add_argument("directory", help="where the four files go, for example data/mnist")
    directory = arguments.parse_args(argv).directory
    download(directory)
    dataset = load(directory)
    print(f"{directory}: {len(dataset.train):,} training and {len(dataset.test):,} test images")


if __name__ == "__main__":
    run(main)
