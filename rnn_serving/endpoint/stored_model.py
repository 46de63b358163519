"""Serve versions that are at an object store: a `LiveModel` of a local copy of them."""

import time

from rnn_serving import exports
from rnn_serving.endpoint.live_model import REFRESH_S, LiveModel, identity_of
from rnn_serving.object_store.mirror import Mirror

# The newest version, and the one to fall back to if it is broken or removed.
_KEPT_VERSIONS = 2


class StoredModel(LiveModel):
    """A `LiveModel` whose versions are at an object store.

    `load` and `refresh` take as long as a download. A process must not fork once it has called one of them.
    """

    waits_for_store = True

    def __init__(self, uri, pinned_version, open_version):
        """Serve versions of `uri`: a base path, or one version; `pinned_version` is its number or None."""
        base, _, name = uri.rstrip("/").rpartition("/")
        if not pinned_version and exports.version_number(name):
            uri, pinned_version = base, exports.version_number(name)
        if pinned_version:
            self._mirror = Mirror(uri, lambda numbers: numbers & {pinned_version}, f"version {pinned_version}")
        else:
            self._mirror = Mirror(uri, self._select, f"newest {_KEPT_VERSIONS}", self._may_be_needed)
        super().__init__(self._mirror.directory, open_version)

    def load(self):
        """Wait until a version is here, at once if there is a copy from before, and load the newest that is not broken.

        Raises: the error of the newest if all that the store has are broken.
        """
        failures = []
        while not self.is_ready:
            self._mirror.update()
            new = self._update()
            failures += new
            if self.is_ready:
                break
            if failures and not new and self._mirror.is_in_step:  # after new ones, the mirror selects older versions
                raise failures[0]
            time.sleep(REFRESH_S)
        self._log(failures)

    def refresh(self):
        """Download what is new, or remove what is gone; then do the same as `LiveModel.refresh`."""
        self._mirror.update()
        super().refresh()

    def _select(self, numbers):
        """Return the newest versions down to the second that is not known to be broken.

        The broken ones are among them: other processes with the same copy need not download them again.
        """
        here, selected, usable = exports.versions(self._mirror.directory), [], 0
        for number in sorted(numbers, reverse=True):
            selected.append(number)
            usable += number not in here or identity_of(here[number]) not in self._broken
            if usable == _KEPT_VERSIONS:
                break
        return selected

    def _may_be_needed(self, number):
        """Return whether a version serves, or may have to: any before the first is loaded, no older ones after that."""
        return self._current is None or number >= exports.version_number(self._current.identity[0])
