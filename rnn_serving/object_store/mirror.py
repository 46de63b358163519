"""A local copy of the versions to serve of a model at an object store; it is loaded from like any directory."""

import json
import logging
import shutil
import time

from rnn_serving import exports
from rnn_serving.object_store import cache
from rnn_serving.object_store.store import Store, StoreError

log = logging.getLogger(__name__)

# Beside the files of a downloaded version: the listing that they were downloaded by.
_LISTING_FILE = ".listing.json"
# Seconds within which a listing by another process, which keeps the same mirror, is recent enough.
_RECENT_S = 0.9
# Pauses before a version whose download failed is tried again, seconds: the first, which doubles, and the longest.
_PAUSE_S, _MAX_PAUSE_S = 0.5, 60.0


class Mirror:
    """A local copy, `directory`, of the versions of a base path that `select` chooses.

    Any number of processes may keep the same mirror: one at a time lists and downloads, the others use what is there.
    `is_in_step` says whether the last `sync` found that the copy is what the store has.
    """

    def __init__(self, uri, select, policy, is_kept=lambda number: False):
        """Prepare to mirror `uri`; `select(version numbers)` returns the wanted ones.

        Of the others, those that are here stay while they are at the store and `is_kept(number)`.
        `policy` is a text that stands for `select`: with another one, the same URI has another mirror.
        """
        self._store, self._select, self._is_kept = Store(uri), select, is_kept
        self._root = cache.directory() / cache.mirror_name(self._store.uri, policy)
        self.directory = self._root / self._store.uri.rpartition("/")[2]
        self.is_in_step = False
        self._listed_at, self._failed, self._logged = None, {}, set()

    def update(self):
        """Do what `sync` does, but log an error, each kind once until there is none."""
        has_changed, failure = False, None
        try:
            has_changed = self.sync()
        except StoreError as error:
            failure = str(error)
        except Exception as error:  # of the cache, which a disk and other programs share
            reason = getattr(error, "strerror", None) or error
            failure = f"{self._root}: {reason}; expected to keep {self._store.uri} there"
        if failure and failure not in self._logged:
            log.error("%s; trying again", failure)
            self._logged.add(failure)
        elif self._logged and self.is_in_step:
            log.warning("%s: in order again", self._store.uri)
            self._logged.clear()
        return has_changed

    def sync(self):
        """List the store, download at most one version, and remove those not wanted once all that are wanted are here.

        Return whether the copy has changed.
        Raises: StoreError, OSError; what is here stays.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with cache.try_lock(self._root / "lock") as is_mine:
            self.is_in_step = is_mine and self._has_been_listed()
            if self.is_in_step or not is_mine:
                return False  # another process has just listed the store, or is downloading
            for left in self._root.glob("staging-*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            has_changed = self._sync()
            if self.is_in_step:
                self._set_listed()
            return has_changed

    def _has_been_listed(self):
        """Return whether another process has found the copy in step just now."""
        try:
            listed_at = (self._root / "listed").stat().st_mtime
        except FileNotFoundError:
            return False
        return listed_at != self._listed_at and abs(time.time() - listed_at) < _RECENT_S

    def _set_listed(self):
        (self._root / "listed").touch()
        self._listed_at = (self._root / "listed").stat().st_mtime

    def _sync(self):
        listing = self._store.listing()
        here = exports.versions(self.directory)
        found = _versions(listing, here)
        if not found:  # like a directory that is missing: a store has no empty ones
            raise StoreError(f"{self._store.uri}: nothing there; expected <version>/{exports.SAVED_MODEL_FILE}")
        wanted = sorted(self._select(set(found)), reverse=True)
        missing = [name for name in map(found.get, wanted) if not _is_current(self.directory / name, listing[name])]
        if missing:
            self._download_first(missing, listing)
            return True
        kept = {number for number in found if number in wanted or self._is_kept(number)}
        unwanted = [path for number, path in here.items() if number not in kept or path.name != found[number]]
        for path in unwanted:
            self._remove(path)
        self._failed.clear()
        if not wanted:
            raise StoreError(f"{self._store.uri}: no version to serve; expected another than {sorted(found)}")
        self.is_in_step = True
        return bool(unwanted)

    def _download_first(self, names, listing):
        """Download the first of the versions whose download does not fail.

        Raises: StoreError or OSError of the newest if all fail, now or before a pause that is not over.
        """
        failures = []
        for name in names:
            try:
                self._download_after_pause(name, listing[name])
                return
            except (StoreError, OSError) as error:
                failures.append(error)
        raise failures[0]

    def _download_after_pause(self, name, files):
        """Download a version, unless that has failed just now; then raise the error of it again."""
        pause_until, pause_s, failure = self._failed.get(name, (0.0, 0.0, None))
        if time.monotonic() < pause_until:
            raise failure
        try:
            self._download(name, files)
        except (StoreError, OSError) as error:
            pause_s = min(max(2 * pause_s, _PAUSE_S), _MAX_PAUSE_S)
            self._failed[name] = (time.monotonic() + pause_s, pause_s, error)
            raise
        self._failed.pop(name, None)

    def _download(self, name, files):
        """Download a version to a staging directory, check it, and rename it: it appears whole or not at all."""
        uri = f"{self._store.uri}/{name}"
        with exports.temporary_directory(self._root) as staging:
            for file, (size, _) in files.items():
                if set(file.split("/")) & {"", ".", ".."}:
                    raise StoreError(f"{uri}/{file}: expected a name that stays under its directory")
                self._store.download(f"{name}/{file}", staging / file)
                if size is not None and (staging / file).stat().st_size != size:
                    raise StoreError(f"{uri}/{file}: not downloaded as a whole; expected {size} bytes")
            if self._store.listing().get(name) != files:
                raise StoreError(f"{uri}: changed while it was downloaded; expected it to stay as it is")
            (staging / _LISTING_FILE).write_text(json.dumps(files))
            self.directory.mkdir(exist_ok=True)  # not before: an empty one would say that all versions are gone
            exports.put_in_place(staging, self.directory / name, overwrite=True)
        log.info("Downloaded %s to %s", uri, self.directory)

    def _remove(self, path):
        """Remove a version; it disappears as a whole."""
        with exports.temporary_directory(self._root) as staging:
            path.rename(staging / path.name)


def _versions(listing, here):
    """Return {version: name} of the versions in a listing.

    A version counts once its SavedModel is there, which exporters write last. One that is `here` counts as long as
    anything of it is at the store: it is being replaced or removed there.
    """
    found = {}
    for name, files in listing.items():
        number = exports.version_number(name)
        if number and (number in here or _has_saved_model(files)):
            found[number] = name  # of 001 and 1 the last one, as in a directory
    return found


def _has_saved_model(files):
    return any(file in files for file in exports.SAVED_MODEL_FILES)


def _is_current(directory, files):
    """Return whether a downloaded version is what the listing of its files says, or those are not complete."""
    if not _has_saved_model(files):
        return True
    try:
        listed = json.loads((directory / _LISTING_FILE).read_text())
        sizes = {file: (directory / file).stat().st_size for file in files}
    except (OSError, ValueError):
        return False
    return listed == files and all(size in (None, sizes[file]) for file, (size, _) in files.items())
