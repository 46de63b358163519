"""Balance connections: how many each worker has, in memory that all of them share."""

import mmap

_NOT_READY = -1


class Balance:
    """A count of connections for each worker, which writes its own and reads all."""

    def __init__(self, workers):
        # Four slots for each worker: during a reload there are twice as many, and each may overlap with a dead one.
        self._counts = memoryview(mmap.mmap(-1, 4 * 4 * workers)).cast("i")
        self._taken = set()
        for slot in range(len(self._counts)):
            self._counts[slot] = _NOT_READY

    def reserve(self):
        """Return a slot for a worker that is about to be forked."""
        slot = next(slot for slot in range(len(self._counts)) if slot not in self._taken)
        self._taken.add(slot)
        return slot

    def give_back(self, slot):
        """Forget a worker that has ended, however it did."""
        self._counts[slot] = _NOT_READY
        self._taken.discard(slot)

    def publish(self, slot, connections):
        """Publish how many connections a worker has, and that it is ready."""
        self._counts[slot] = connections

    def is_ready(self, slot):
        """Return whether a worker has published that it is ready."""
        return self._counts[slot] != _NOT_READY

    def any_ready(self):
        """Return whether a worker is ready."""
        return any(count != _NOT_READY for count in self._counts)

    def is_fair(self, slot):
        """Return whether a worker may accept another connection; one that is not ready may if none is."""
        mine, ready = self._counts[slot], [count for count in self._counts if count != _NOT_READY]
        return not ready or (mine != _NOT_READY and mine <= min(ready))
