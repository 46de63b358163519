"""Serve the newest version under a directory, and hot-swap the next one once it is loaded."""

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

from werkzeug.exceptions import ServiceUnavailable

from rnn_serving import exports
from rnn_serving.command_line import UserError

log = logging.getLogger(__name__)

# Seconds between two looks for a new version.
REFRESH_S = 1.0


class LiveModel:
    """A served model whose version changes while it is used.

    `load` and `refresh` take as long as a version takes to load and may be called in a thread of their own.
    """

    # Whether `load` waits until an object store has a version.
    waits_for_store = False

    def __init__(self, path, open_version):
        """Serve versions of `path`, a directory of versions or one version, opened by `open_version(directory)`.

        A version has `name`, `version`, `dataset`, `signature`, `predict` and `close`; `open_version` raises UserError
        for a broken one.
        """
        self._path, self._open_version = Path(path), open_version
        self._current, self._broken, self._lock = None, set(), threading.Lock()

    @property
    def is_ready(self):
        """Whether a version has been loaded."""
        return self._current is not None

    @contextlib.contextmanager
    def acquire(self):
        """Yield the current version, which stays open until the body ends.

        Raises: ServiceUnavailable if there is none yet.
        """
        with self._lock:
            version = self._current
            if version is None:
                raise ServiceUnavailable("the model is still loading; retry shortly", retry_after=1)
            version.users += 1
        try:
            yield version.model
        finally:
            with self._lock:
                version.users -= 1
                is_last = version.is_retired and not version.users
            if is_last:
                version.model.close()

    def load(self):
        """Load the newest version that is not broken.

        Raises: exports.ExportError if there is none, or the error of the newest one.
        """
        errors = self._update()
        if not self.is_ready:
            exports.newest(self._path)
            raise errors[0] if errors else exports.ExportError(f"{self._path}: the exported model has just gone")
        self._log(errors)

    def refresh(self):
        """Load a version newer than the current one, or an older one if that has gone; log a broken version."""
        try:
            errors = self._update()
        except OSError as error:
            errors = [error]
        self._log(errors)

    def close(self):
        """Free the current version once its last request is answered."""
        self._replace(None)

    def _update(self):
        """Load the newest version unless it is the current one, or an older one if it is broken; return the errors."""
        errors = []
        for directory in self._newest_first():
            identity = identity_of(directory)
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
                break  # broken on disk, but whole in memory: better than an older one
        return errors

    def _try(self, directory, identity):
        """Serve a version; return why that failed, or None."""
        try:
            self._replace(_Version(self._open_version(directory), identity))
            return None
        except Exception as error:  # anything that a disk or a foreign file can cause
            self._broken.add(identity)
            return error

    def _newest_first(self):
        """Return the directories of the versions, or the one version that is served."""
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

    def _log(self, errors):
        version = self._current and self._current.model.version
        for error in errors:
            unforeseen = None if isinstance(error, UserError) else error
            log.error("%s; serving version %s instead", error, version, exc_info=unforeseen)


class _Version:
    def __init__(self, model, identity):
        self.model, self.identity = model, identity
        self.users, self.is_retired = 0, False


def keep_loaded(model):
    """Load a model now, and refresh it in a thread from then on: for WSGI servers other than our worker.

    A model at an object store is loaded in the thread as well: its server would not wait until the store has it.
    Raises: UserError if it does not load.
    """
    if not model.waits_for_store:
        model.load()

    def refresh_forever():
        while True:
            time.sleep(REFRESH_S)
            model.refresh()

    threading.Thread(target=refresh_forever, name="refresh", daemon=True).start()


def identity_of(directory):
    """Return a value that changes when a version is replaced or still being copied, None if it has just gone."""
    if not exports.has_saved_model(directory):
        return None
    files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names)
    try:
        found = [(file, os.stat(file)) for file in files]
    except OSError:
        return None
    return directory, *((file, status.st_ino, status.st_size, status.st_mtime_ns) for file, status in found)
