"""Serve the newest version under a directory, and the next one as soon as it has been loaded."""

import contextlib
import logging
import os
import threading
from pathlib import Path

from werkzeug.exceptions import ServiceUnavailable

from rnn_serving import exports
from rnn_serving.command_line import UserError

log = logging.getLogger(__name__)


class LiveModel:
    """A model with the interface of `ServedModel` whose version changes while it is used.

    `load` and `refresh` take as long as a version takes to load and may be called in a thread of their own.
    """

    def __init__(self, path, open_version):
        """Serve versions of `path`, a directory of versions or one version, opened by `open_version(directory)`.

        What that returns has the interface of `ServedModel` and `close`; it raises UserError for a broken version.
        """
        self._path, self._open_version = Path(path), open_version
        self._current, self._broken, self._lock = None, set(), threading.Lock()

    @property
    def is_ready(self):
        """Whether a version has been loaded."""
        return self._current is not None

    def __getattr__(self, name):
        """Return what the current version has: its name, version, data set and signature."""
        if name not in ("name", "version", "dataset", "signature"):
            raise AttributeError(name)
        return getattr(self._version().model, name)

    @contextlib.contextmanager
    def acquire(self):
        """Give the current version, which is kept until the body ends.

        Raises: ServiceUnavailable if there is none yet.
        """
        with self._lock:
            version = self._version()
            version.users += 1
        try:
            yield version.model
        finally:
            with self._lock:
                version.users -= 1
                is_last = version.is_retired and not version.users
            if is_last:
                version.model.close()

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs, by the current version."""
        with self.acquire() as model:
            return model.predict(inputs)

    def load(self):
        """Load the newest version that is not broken.

        Raises: exports.ExportError if there is none, or what the newest one's loading raised.
        """
        errors = self._look()
        if not self.is_ready:
            exports.newest(self._path)
            raise errors[0] if errors else exports.ExportError(f"{self._path}: the exported model has just gone")
        _log(errors)

    def refresh(self):
        """Load what is newer than the current version, or what is left if that has gone; a broken version is logged."""
        try:
            errors = self._look()
        except OSError as error:
            errors = [error]
        _log(errors)

    def close(self):
        """Free the current version once its last request is answered."""
        self._replace(None)

    def _version(self):
        if self._current is None:
            raise ServiceUnavailable("the model is still loading; expected a moment's patience", retry_after=1)
        return self._current

    def _look(self):
        """Load the newest version unless it is the current one, or an older one if it is broken; return the errors."""
        errors = []
        for directory in self._newest_first():
            identity = _identity(directory)
            if identity is None:
                continue
            if self._current and self._current.identity == identity:
                break
            if identity not in self._broken:
                error = self._try(directory, identity)
                if not error:
                    break
                errors.append(error)
            if self._current and self._current.identity[0] == directory:
                break  # broken where it is, but whole in memory: better than an older one
        return errors

    def _try(self, directory, identity):
        """Serve a version; return why that cannot be, or None."""
        try:
            self._replace(_Version(self._open_version(directory), identity))
            return None
        except Exception as error:  # whatever a disk or a file of somebody else's can do
            self._broken.add(identity)
            return error

    def _newest_first(self):
        """Return the directories of the versions, or of the one that is served."""
        if exports.is_version(self._path):
            return [self._path]
        return [directory for _, directory in reversed(exports.versions(self._path).items())]

    def _replace(self, new):
        with self._lock:
            old, self._current = self._current, new
            if old is None:
                return
            old.is_retired = True
            is_unused = not old.users
        if is_unused:
            old.model.close()


class _Version:
    def __init__(self, model, identity):
        self.model, self.identity = model, identity
        self.users, self.is_retired = 0, False


def _log(errors):
    for error in errors:
        unforeseen = None if isinstance(error, UserError) else error
        log.error("%s; the version before goes on serving", error, exc_info=unforeseen)


def _identity(directory):
    """Return what changes when a version is published anew or goes on being copied, None if it has just gone."""
    if not (directory / exports.SAVED_MODEL_FILE).exists():
        return None
    files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names)
    try:
        found = [(file, os.stat(file)) for file in files]
    except OSError:
        return None
    return directory, *((file, status.st_ino, status.st_size, status.st_mtime_ns) for file, status in found)
