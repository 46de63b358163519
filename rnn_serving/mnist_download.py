"""Download MNIST: mirrors, checksums, and what to type if none can be reached; no TensorFlow."""

import logging
from pathlib import Path

from rnn_serving import idx_files
from rnn_serving.command_line import request_failure
from rnn_serving.idx_files import DatasetError

DEFAULT_DIRECTORY = "data/mnist"

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


class NoNetworkError(DatasetError):
    """No mirror could be reached."""


def is_complete(directory):
    """Return whether all four files exist, compressed or not."""
    return all(idx_files.find(Path(directory), name) for name in MNIST_SHA256)


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
            if idx_files.find(directory, name) is None:
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
    raise kind(how_to_get("\n".join([f"{directory / name} could not be downloaded:", *failures])))


def how_to_get(problem):
    """Return the message for a data set that is not there: `problem` and two commands that create one."""
    return (
        f"{problem}\nExpected the four IDX files. Either command creates a data set:\n"
        f"  python -m rnn_serving.dataset {DEFAULT_DIRECTORY}     # downloads MNIST\n"
        "  python -m rnn_serving.digits data/digits     # scikit-learn's digits, offline; then --data_dir data/digits"
    )
