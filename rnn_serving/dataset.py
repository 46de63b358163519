"""Read the four IDX files of a data set as NumPy arrays; download MNIST: `python -m rnn_serving.dataset data/mnist`.

Any data set of 28x28 images in MNIST's form works. Files are read and written by idx_files.py and dataset_writer.py,
and downloaded by mnist_download.py. This module does not import TensorFlow.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rnn_serving import idx_files, mnist_download
from rnn_serving.command_line import parser, run
from rnn_serving.dataset_writer import FilesExistError, write_dataset
from rnn_serving.idx_files import IMAGE_SHAPE, IMAGE_SIZE, NUM_CLASSES, TEST, TRAIN, DatasetError, write_idx
from rnn_serving.mnist_download import DEFAULT_DIRECTORY, MNIST_MIRRORS, NoNetworkError, download, is_complete

# What the steps and the users of a data set import from here.
__all__ = [
    "DEFAULT_DIRECTORY",
    "IMAGE_SHAPE",
    "IMAGE_SIZE",
    "MNIST_MIRRORS",
    "NUM_CLASSES",
    "Dataset",
    "DatasetError",
    "FilesExistError",
    "NoNetworkError",
    "Split",
    "dataset_name",
    "download",
    "is_complete",
    "load",
    "load_test_images",
    "write_dataset",
    "write_idx",
]


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
        raise DatasetError(f"--num_tests is {count}, but {directory} has only {len(test)} test images")
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
        raise DatasetError(mnist_download.how_to_get(f"{directory} does not exist"))
    return directory


def _read_split(directory, split):
    """Return the `Split` in one pair of files, after checking that they match."""
    pixels_path = _require_file(directory, idx_files.IMAGES_FILE.format(split=split))
    pixels = idx_files.read_idx(pixels_path, idx_files.IMAGES_MAGIC)
    labels_path = _require_file(directory, idx_files.LABELS_FILE.format(split=split))
    labels = idx_files.read_idx(labels_path, idx_files.LABELS_MAGIC)
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


def _require_file(directory, name):
    path = idx_files.find(directory, name)
    if path is None:
        raise DatasetError(mnist_download.how_to_get(f"{directory / name} does not exist"))
    return path


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
