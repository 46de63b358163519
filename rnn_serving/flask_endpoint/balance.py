"""Even shares: how many connections each worker has, in memory that all of them see."""

import mmap

_NOT_READY = -1


class Balance:
    """A count for each worker; a worker writes its own and reads all."""

    def __init__(self, workers):
        # Twice as many as there are workers: a dead one and its successor can overlap.
        self._counts = memoryview(mmap.mmap(-1, 4 * 2 * workers)).cast("i")
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
        """Tell the others how many connections a worker has, and that it is ready."""
        self._counts[slot] = connections

    def any_ready(self):
        """Return whether a worker is ready."""
        return any(count != _NOT_READY for count in self._counts)

    def is_fair(self, slot):
        """Return whether a worker may take one more connection; one that is not ready may if no other is."""
        mine, ready = self._counts[slot], [count for count in self._counts if count != _NOT_READY]
        return not ready or (mine != _NOT_READY and mine <= min(ready))
