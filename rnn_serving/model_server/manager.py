"""The life cycle of versions: which are loaded, which come next, and when the old ones go.

A version that takes over is loaded before the one that it replaces is unloaded (availability_preserving_policy.cc), so
that there is no moment without an answer; an unload waits for the requests that the version is still answering.
"""

import logging
import threading

from rnn_serving.model_server.errors import ServingError, not_found
from rnn_serving.model_server.servable import Servable, State

log = logging.getLogger(__name__)

# How long the manager sleeps when nobody wakes it.
TICK_S = 0.1


_DONE = {State.AVAILABLE: "loaded", State.END: "unloaded"}


class Manager:
    """Loads and unloads servables until what is aspired is what is available."""

    def __init__(self, options):
        self._options = options
        self._changed = threading.Condition()
        self._current = {}  # {model: {version: Servable}}, neither gone nor forgotten
        self._seen = {}  # the same of every version since the start: the status shows them for ever
        self._ready = {}  # what is AVAILABLE: {model: {version: Servable}}
        self._busy = set()  # models with a load or an unload under way
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="manager", daemon=True)

    def start(self):
        """Begin to load and unload."""
        self._thread.start()

    def stop(self):
        """End the manager's thread and free every loaded model once it has answered its last request."""
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
        """Say which versions there should be, {model: {version: directory}}; other models stay as they are."""
        with self._changed:
            for name, directories in aspired.items():
                current = self._current.setdefault(name, {})
                for number, servable in list(current.items()):
                    servable.aspired = number in directories
                    if not servable.aspired and servable.state in (State.START, State.END):
                        # Never loaded: nothing to unload, and the same number may come again with a better model.
                        servable.state = State.END
                        del current[number]
                for number, directory in directories.items():
                    if number not in current:
                        servable = current[number] = Servable(name, number, directory)
                        self._seen.setdefault(name, {})[number] = servable
            self._changed.notify_all()

    def acquire(self, name, number=None):
        """Return the available version of a model, the highest if none is named, to be used in a `with`.

        Raises: ServingError NOT_FOUND.
        """
        with self._changed:
            versions = self._ready.get(name)
            if versions and (number is None or number in versions):
                return versions[max(versions) if number is None else number].acquire()
        request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise not_found(f"Servable not found for request: {request}")

    def is_available(self, name, number):
        """Return whether a version can be asked."""
        return number in self._ready.get(name, {})

    def versions(self, name):
        """Return every `Servable` of a model since the start, the highest version first."""
        with self._changed:
            return [servable for _, servable in sorted(self._seen.get(name, {}).items(), reverse=True)]

    def wait_until_settled(self, names, go_on=lambda: True):
        """Wait until each model has an available version, or none left that could become so; return the failed ones.

        `go_on()` is asked every second, and the wait given up when it says no.
        """
        names = list(names)
        with self._changed:
            while not self._stopping.is_set() and go_on():
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

    def _work(self):
        """Start the next action of every model that has none under way, whenever something has changed."""
        while not self._stopping.is_set():
            with self._changed:
                for name in list(self._current):
                    action = None if name in self._busy else self._next_action(self._current[name])
                    if action:
                        self._busy.add(name)
                        threading.Thread(target=self._act, args=(name, *action), daemon=True).start()
                self._changed.wait(TICK_S)

    def _next_action(self, current):
        """Return (method, servable) for one model, None if there is nothing to do: unloads come before loads."""
        available = [servable for servable in current.values() if servable.state == State.AVAILABLE]
        lingering = [servable for servable in available if not servable.aspired]
        any_aspired = any(servable.aspired for servable in current.values())
        if lingering and (not any_aspired or len(lingering) > 1 or len(lingering) < len(available)):
            return self._unload, min(lingering, key=lambda servable: servable.number)
        new = [servable for servable in current.values() if servable.state == State.START and servable.aspired]
        return (self._load, max(new, key=lambda servable: servable.number)) if new else None

    def _act(self, name, method, servable):
        try:
            method(servable)
        finally:
            with self._changed:
                self._busy.discard(name)
                self._changed.notify_all()

    def _load(self, servable):
        """Load a servable, trying again as often as the options say."""
        self._set_state(servable, State.LOADING)
        for tries_left in reversed(range(1 + max(self._options.max_num_load_retries, 0))):
            try:
                servable.load(self._options)
            except ServingError as error:
                failure = error
            except Exception as error:
                # Whatever a model on disk makes of its loading must not end the server that serves the others.
                failure = ServingError.of(error)
            else:
                self._set_state(servable, State.AVAILABLE)
                return
            log.error("Loading servable: %s failed: %s", servable, failure)
            wait_s = max(self._options.load_retry_interval_micros, 0) / 1e6
            if not tries_left or not servable.aspired or self._stopping.wait(wait_s):
                break
        self._set_state(servable, State.END, failure)

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
        if state in _DONE and not error:
            log.info(
                "Successfully %s servable version %s", "loaded" if state == State.AVAILABLE else "unloaded", servable
            )
