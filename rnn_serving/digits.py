"""Write scikit-learn's handwritten digits as a data set, offline: `python -m rnn_serving.digits data/digits`.

1,797 digits of 8x8 pixels, scaled as MNIST's were: the digit fills a 20x20 box, keeps its aspect ratio, and is centred
by its centre of mass in 28x28. They ship with scikit-learn, so no network is needed.
"""

import contextlib
from pathlib import Path

import numpy as np

from rnn_serving import dataset
from rnn_serving.command_line import UserError, parser, run

BOX_SIZE = 20
NUM_TEST = 360


def to_mnist_format(digit):
    """Return a digit, float (8, 8) with 16 as full ink, in the form of MNIST: uint8 (28, 28)."""
    from scipy import ndimage

    rows, columns = (np.flatnonzero(digit.any(axis=axis)) for axis in (1, 0))
    ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 16
    scaled = np.clip(ndimage.zoom(ink, BOX_SIZE / max(ink.shape), order=1, grid_mode=True, mode="nearest"), 0, 1)
    height, width = scaled.shape
    image = np.zeros(dataset.IMAGE_SHAPE)
    top, left = (_start(centre, length) for centre, length in zip(ndimage.center_of_mass(scaled), (height, width)))
    image[top : top + height, left : left + width] = scaled
    return np.rint(image * 255).astype(np.uint8)


def _start(centre, length):
    """Return the offset that puts the centre of mass of `length` pixels in the middle of the image."""
    start = round((dataset.IMAGE_SIZE - 1) / 2 - centre)
    return min(max(start, 0), dataset.IMAGE_SIZE - length)


def load_digits():
    """Return two pairs (images uint8 (N, 28, 28), labels uint8 (N,)), training and test; the split is fixed."""
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images = np.stack([to_mnist_format(digit) for digit in digits.images])
    labels = digits.target.astype(np.uint8)
    train_images, test_images, train_labels, test_labels = model_selection.train_test_split(
        images, labels, test_size=NUM_TEST, stratify=labels, random_state=0
    )
    return (train_images, train_labels), (test_images, test_labels)


def main(argv=None):
    """Write the digits into a directory, unless it is complete, and print its size."""
    arguments = parser(__doc__)
    arguments.add_argument("directory", type=Path, help="where the four files go, for example data/digits")
    directory = arguments.parse_args(argv).directory
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; expected a directory")
    if not dataset.is_complete(directory):
        # Files that are there already, perhaps written at this moment by another process, are for `load` to judge.
        with contextlib.suppress(dataset.FilesExistError):
            dataset.write_dataset(directory, *load_digits())
    written = dataset.load(directory)
    print(f"{directory}: {len(written.train):,} training and {len(written.test):,} test images")


if __name__ == "__main__":
    run(main)
