"""Serve versions that are at an object store: a `LiveModel` of a local copy of them."""

import time

from rnn_serving import exports
from rnn_serving.endpoint.live_model import REFRESH_S, LiveModel
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
        self._mirror = _mirror(uri, pinned_version)
        super().__init__(self._mirror.directory, open_version)

    def load(self):
        """Wait until a version is here, at once if there is a copy from before, and load the newest that is not broken.

        Raises: the error of the newest if all that the store has are broken.
        """
        failures = []
        while not self.is_ready:
            self._mirror.update()
            failures += self._update()
            if self.is_ready:
                break
            if failures and self._mirror.is_in_step:
                raise failures[0]
            time.sleep(REFRESH_S)
        self._log(failures)

    def refresh(self):
        """Download what is new, or remove what is gone; then do the same as `LiveModel.refresh`."""
        self._mirror.update()
        super().refresh()


def _mirror(uri, pinned_version):
    if pinned_version:
        return Mirror(uri, lambda numbers: numbers & {pinned_version}, f"version {pinned_version}")
    return Mirror(uri, lambda numbers: sorted(numbers)[-_KEPT_VERSIONS:], f"newest {_KEPT_VERSIONS}")
