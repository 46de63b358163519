"""Write arrays of images and labels as a data set in MNIST's form; no TensorFlow."""

import contextlib
import fcntl
import math
import os
import tempfile
from pathlib import Path

import numpy as np

from rnn_serving.idx_files import (
    IMAGE_SHAPE,
    IMAGES_FILE,
    LABELS_FILE,
    NUM_CLASSES,
    TEST,
    TRAIN,
    DatasetError,
    find,
    write_idx,
)


class FilesExistError(DatasetError):
    """Files that are not to be replaced."""


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
            existing = [find(directory, path.name) for path in arrays if find(directory, path.name)]
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
