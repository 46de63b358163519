"""Read and write the IDX files of a data set of 28x28 images, as NumPy arrays; no TensorFlow.

The format is described at https://web.archive.org/web/2016/http://yann.lecun.com/exdb/mnist/ .
"""

import gzip
import math
import zlib

import numpy as np

from rnn_serving import files
from rnn_serving.command_line import UserError

IMAGE_SIZE = 28
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE)
NUM_CLASSES = 10

TRAIN, TEST = "train", "t10k"
IMAGES_MAGIC, LABELS_MAGIC = 0x00000803, 0x00000801
IMAGES_FILE, LABELS_FILE = "{split}-images-idx3-ubyte.gz", "{split}-labels-idx1-ubyte.gz"


class DatasetError(UserError):
    """A file that is missing, is not a valid IDX file or does not match the others; or a failed download."""


def find(directory, name):
    """Return the path of `name` or of its uncompressed form, or None."""
    for path in (directory / name, directory / name.removesuffix(".gz")):
        if path.exists():
            return path
    return None


def read_idx(path, magic):
    """Return the uint8 array in an IDX file; the last byte of the magic number is the rank.

    Raises: DatasetError unless it is a valid IDX file.
    """
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
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


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
