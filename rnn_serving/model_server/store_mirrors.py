"""Local copies of the models whose base paths are at object stores; each is kept by a thread of its own.

So a store that is slow or down holds up neither other models nor reloads.
"""

import threading

from rnn_serving import exports
from rnn_serving.model_server import file_system_source
from rnn_serving.object_store.mirror import Mirror
from rnn_serving.object_store.store import is_remote

# Seconds between two attempts if versions are to be looked up only once.
_RETRY_S = 1.0


class StoreMirrors:
    """The mirrors of one server."""

    def __init__(self, interval_s, on_change):
        """Look for versions every `interval_s` seconds, 0 for until they have been found, negative for never.

        `on_change()` is called in the thread of a mirror when there may be other versions than before.
        """
        self._interval_s, self._on_change = interval_s, on_change
        self._threads = {}

    def keep(self, config):
        """Begin to mirror what is new in a ModelServerConfig, and end what is no longer in it; return at once."""
        models = {_key(model): model for model in config.model_config_list.config if is_remote(model.base_path)}
        for key in set(self._threads) - set(models):
            self._threads.pop(key).stop()
        for key in set(models) - set(self._threads):
            if self._interval_s >= 0:
                self._threads[key] = _MirrorThread(models[key], self._interval_s, self._on_change)
                self._threads[key].start()

    def local_path(self, model):
        """Return the directory of a model's versions; None for one at a store that has not been copied yet."""
        if not is_remote(model.base_path):
            return exports.local_path(model.base_path)
        thread = self._threads.get(_key(model))
        return thread and thread.local_path()

    def stop(self):
        """End all threads, without waiting for downloads."""
        for thread in list(self._threads.values()):
            thread.stop()


def _key(model):
    return model.base_path, model.model_version_policy.SerializeToString(deterministic=True)


class _MirrorThread(threading.Thread):
    def __init__(self, model, interval_s, on_change):
        super().__init__(name="mirror", daemon=True)
        policy = model.model_version_policy
        self._mirror = Mirror(model.base_path, lambda numbers: file_system_source.select(policy, numbers), str(policy))
        self._interval_s, self._on_change = interval_s, on_change
        self._was_tried, self._stopping = False, threading.Event()

    def run(self):
        """Keep the mirror in step until `stop`."""
        while not self._stopping.is_set():
            has_changed = self._mirror.update()
            is_last = self._interval_s == 0 and self._mirror.is_in_step
            if has_changed or is_last or not self._was_tried:  # at the last, another process may have downloaded
                self._was_tried = True
                self._on_change()
            if is_last:
                return
            if not has_changed:  # or else there may be more to download
                self._stopping.wait(self._interval_s or _RETRY_S)

    def local_path(self):
        """Return the mirror's directory once the store has been asked: what is there before that may be outdated."""
        return self._mirror.directory if self._was_tried and self._mirror.directory.is_dir() else None

    def stop(self):
        """End the thread after what it is doing."""
        self._stopping.set()
