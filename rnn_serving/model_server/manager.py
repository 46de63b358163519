"""The life cycle of versions: load and unload until the versions to serve are the ones available.

A new version is loaded before the one it replaces is unloaded (availability_preserving_policy.cc), so that the model
is available throughout; an unload waits until the version has answered its last request.
"""

import logging
import threading
import time

from rnn_serving.model_server.errors import ServingError, not_found
from rnn_serving.model_server.servable import Servable, State

log = logging.getLogger(__name__)

# How often the manager looks for work without a notification.
POLL_S = 0.1

_OUTCOMES = {State.AVAILABLE: "loaded", State.END: "unloaded"}


class Manager:
    """Loads and unloads servables until the aspired versions are the available ones."""

    def __init__(self, options):
        self._options = options
        self._changed = threading.Condition()
        self._current = {}  # {model: {version: Servable}}, aspired or not yet unloaded
        self._seen = {}  # the same for every version since the start, which the status keeps listing
        self._ready = {}  # the same for versions that are AVAILABLE
        self._busy = {}  # {model: Servable} with a load or an unload under way
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self):
        """Start the manager's thread."""
        self._thread.start()

    def stop(self):
        """End the manager's thread, and free every loaded model once it has answered its last request."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            ready, self._ready = self._ready, {}
        if self._thread.ident:
            self._thread.join()
        for versions in ready.values():
            for servable in versions.values():
                servable.unload()

    def aspire(self, aspired):
        """Set the versions to serve, {model: {version: directory}}; models that are not listed stay as they are."""
        with self._changed:
            for name, directories in aspired.items():
                current = self._current.setdefault(name, {})
                for number, servable in list(current.items()):
                    servable.aspired = number in directories
                    if not servable.aspired and servable.state in (State.START, State.END):
                        # Not loaded, so nothing to unload; the same number may return with a model that loads.
                        servable.state = State.END
                        del current[number]
                for number, directory in directories.items():
                    if number not in current or self._may_be_replaced(current[number], directory):
                        servable = current[number] = Servable(name, number, directory)
                        self._seen.setdefault(name, {})[number] = servable
            self._changed.notify_all()

    def _may_be_replaced(self, servable, directory):
        """Return whether a version that moved to another directory may be replaced, because it is not loaded."""
        is_unloaded = servable.state in (State.START, State.LOADING, State.END)
        return servable.directory != directory and is_unloaded and self._busy.get(servable.name) is not servable

    def acquire(self, name, number=None):
        """Return an available version of a model, without `number` the highest, to be used in a `with`.

        Raises: ServingError NOT_FOUND.
        """
        with self._changed:
            versions = self._ready.get(name)
            if versions and (number is None or number in versions):
                return versions[max(versions) if number is None else number].acquire()
        request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise not_found(f"Servable not found for request: {request}")

    def is_available(self, name, number=None):
        """Return whether a version of a model, without `number` any version, can answer requests."""
        versions = self._ready.get(name, {})
        return bool(versions) if number is None else number in versions

    def versions(self, name):
        """Return every `Servable` of a model since the start, the highest version first."""
        with self._changed:
            return [servable for _, servable in sorted(self._seen.get(name, {}).items(), reverse=True)]

    def wait_until_settled(self, names, keep_waiting=lambda: True):
        """Wait until each model has an available version or all its versions have failed; return the failed servables.

        `keep_waiting()` is called at least once a second; the wait ends when it returns false.
        """
        names = list(names)
        with self._changed:
            while not self._stopping.is_set() and keep_waiting():
                waiting = [name for name in names if not self._ready.get(name) and not self._has_failed(name)]
                if not waiting:
                    break
                self._changed.wait(1)
            return [
                servable
                for name in names
                if not self._ready.get(name)
                for servable in self._current.get(name, {}).values()
                if servable.error
            ]

    def _has_failed(self, name):
        current = self._current.get(name, {}).values()
        return bool(current) and all(servable.state == State.END for servable in current)

    def _run(self):
        """Start the next load or unload of every model that has none under way, whenever something has changed."""
        while not self._stopping.is_set():
            with self._changed:
                for name in list(self._current):
                    action = None if name in self._busy else self._next_action(self._current[name])
                    if action:
                        self._busy[name] = action[1]
                        threading.Thread(target=self._run_action, args=action, daemon=True).start()
                self._changed.wait(POLL_S)

    def _next_action(self, current):
        """Return the next (method, servable) of one model, None if there is none; unloads come before loads."""
        available = [servable for servable in current.values() if servable.state == State.AVAILABLE]
        lingering = [servable for servable in available if not servable.aspired]
        any_aspired = any(servable.aspired for servable in current.values())
        if lingering and (not any_aspired or len(lingering) > 1 or len(lingering) < len(available)):
            return self._unload, min(lingering, key=lambda servable: servable.number)
        for servable in current.values():
            if servable.state == State.LOADING and not servable.aspired:
                return self._give_up, servable
        for state in (State.START, State.LOADING):  # a version that failed does not hold up the others
            due = [s for s in current.values() if s.state == state and s.aspired and s.next_attempt <= time.monotonic()]
            if due:
                return self._load, max(due, key=lambda servable: servable.number)
        return None

    def _run_action(self, method, servable):
        try:
            method(servable)
        finally:
            with self._changed:
                del self._busy[servable.name]
                self._changed.notify_all()

    def _load(self, servable):
        """Try to load a servable; if that fails, set the time of the next attempt, or give up after the last."""
        self._set_state(servable, State.LOADING)
        try:
            servable.load(self._options)
        except ServingError as error:
            servable.failure = error
        except Exception as error:
            # A model may fail to load in any way; the server goes on serving the others.
            servable.failure = ServingError.of(error)
        else:
            self._set_state(servable, State.AVAILABLE)
            return
        servable.attempts += 1
        log.error("Loading servable: %s failed: %s", servable, servable.failure)
        if servable.attempts > self._options.max_num_load_retries:
            self._give_up(servable)
        else:
            servable.next_attempt = time.monotonic() + max(self._options.load_retry_interval_micros, 0) / 1e6

    def _give_up(self, servable):
        """End a servable that could not be loaded."""
        self._set_state(servable, State.END, servable.failure)

    def _unload(self, servable):
        """Take a servable out of service, and free it once its last request is answered."""
        self._set_state(servable, State.UNLOADING)
        servable.unload()
        self._set_state(servable, State.END)

    def _set_state(self, servable, state, error=None):
        with self._changed:
            servable.state, servable.error = state, error
            ready = self._ready.setdefault(servable.name, {})
            if state == State.AVAILABLE:
                ready[servable.number] = servable
            else:
                ready.pop(servable.number, None)
            if state == State.END and not (error and servable.aspired):
                current = self._current.get(servable.name, {})
                if current.get(servable.number) is servable:
                    del current[servable.number]
            self._changed.notify_all()
        if state in _OUTCOMES and not error:
            log.info("Successfully %s servable version %s", _OUTCOMES[state], servable)
