"""Where exporters publish versions: a directory, or a base path at an object store. Does not import TensorFlow."""

import contextlib
import os
import tempfile
from pathlib import Path

from rnn_serving import exports
from rnn_serving.object_store.store import Store, StoreError, is_remote, require_backend


def destination(base_path):
    """Return the `DirectoryDestination` or the `StoreDestination` that a path or a URI names. Raises: StoreError."""
    return StoreDestination(base_path) if is_remote(base_path) else DirectoryDestination(base_path)


class DirectoryDestination:
    """A directory of versions, existing or new."""

    def __init__(self, base_path):
        self._base = Path(exports.local_path(base_path))
        self.model_name = os.path.basename(os.path.abspath(self._base))

    def check_version_free(self, version=None, overwrite=False):
        """Raise ExportError if a version cannot be published; None, for the next free one, nearly always can."""
        exports.check_version_free(self._base, version, overwrite)

    def staging_directory(self):
        """Return a context manager that yields a directory to fill, and removes it at the end."""
        return exports.temporary_directory(self._base)

    def next_version(self):
        """Return the number after the highest version, complete or not."""
        return exports.next_version(self._base)

    def publish(self, staging, version, overwrite=False):
        """Make the version of a filled staging directory; return its path. Raises: VersionExistsError."""
        target = self._base / str(version)
        exports.put_in_place(staging, target, overwrite)
        return target


class StoreDestination:
    """A base path at an object store.

    A store renames nothing, so a version is published by its last file, the SavedModel. The first one, model.json,
    claims the number: it is written only if it does not exist.
    """

    def __init__(self, uri):
        require_backend(uri)
        self._store = Store(uri)
        self.model_name = self._store.uri.rpartition("/")[2]

    def check_version_free(self, version=None, overwrite=False):
        """Raise ExportError if a version exists and may not be replaced, or if the store does not answer."""
        if version in self._numbers() and not overwrite:
            raise self._exists(version)

    def staging_directory(self):
        """Return a context manager that yields a local directory to fill, and removes it at the end."""
        return _local_directory()

    def next_version(self):
        """Return the number after the highest version, complete or not."""
        return max(self._numbers(), default=0) + 1

    def publish(self, staging, version, overwrite=False):
        """Upload a filled staging directory as a version; return its URI.

        A version that may be replaced is removed first: a store cannot exchange it for another.
        Raises: VersionExistsError, StoreError; then nothing is published.
        """
        directory = str(version)
        if overwrite:
            self._remove(directory)
        else:
            self.check_version_free(version)
        try:
            self._store.create(
                f"{directory}/{exports.PROVENANCE_FILE}", (staging / exports.PROVENANCE_FILE).read_bytes()
            )
        except FileExistsError as error:
            raise self._exists(version) from error
        try:
            self._upload(staging, directory)
        except BaseException:
            with contextlib.suppress(StoreError):
                self._remove(directory)
            raise
        return f"{self._store.uri}/{directory}"

    def _upload(self, staging, directory):
        """Upload all files; before those that make the version visible, check that the others are there and no more."""
        files = {path.relative_to(staging).as_posix(): path for path in staging.rglob("*") if path.is_file()}
        last = [file for file in exports.SAVED_MODEL_FILES if file in files]
        sizes = {file: path.stat().st_size for file, path in files.items() if file not in last}
        for file in sizes:
            if file != exports.PROVENANCE_FILE:
                self._store.upload(files[file], f"{directory}/{file}")
        found = {file: size for file, (size, _) in self._store.listing().get(directory, {}).items()}
        if found != sizes:
            raise StoreError(f"{self._store.uri}/{directory}: has {found}; expected {sizes}, nothing is published")
        for file in last:
            self._store.upload(files[file], f"{directory}/{file}")

    def _remove(self, directory):
        """Remove the objects of a version: first what makes it visible, last what claims its number."""
        files = self._store.listing().get(directory, {})
        for file in sorted(
            files, key=lambda file: (file == exports.PROVENANCE_FILE, file not in exports.SAVED_MODEL_FILES)
        ):
            self._store.remove(f"{directory}/{file}")

    def _numbers(self):
        return {exports.version_number(name) for name in self._store.listing()} - {None}

    def _exists(self, version):
        return exports.VersionExistsError(
            f"{self._store.uri}/{version} exists; expected a new --model_version, or --overwrite to replace it"
        )


@contextlib.contextmanager
def _local_directory():
    with tempfile.TemporaryDirectory(prefix="export-") as directory:
        yield Path(directory)
