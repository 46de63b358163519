"""Seeded, resumable batches of training images."""

import functools

import numpy as np

from rnn_serving.augment import augment
from rnn_serving.quiet_tensorflow import tf


class BatchStream:
    """An endless stream of batches; `images_drawn`, an int64 variable, is its whole state.

    Every epoch is a permutation of its own. A batch may span two epochs.
    """

    def __init__(self, split, batch_size, seed, augment=False):
        self._split, self._batch_size, self._seed, self._augment = split, batch_size, seed, augment
        self.images_drawn = tf.Variable(0, dtype=tf.int64)

    def next_batch(self):
        """Return the next images, float32 (batch_size, 28, 28), and labels, int32 (batch_size,)."""
        drawn, count = int(self.images_drawn.numpy()), len(self._split)
        positions = range(drawn, drawn + self._batch_size)
        indices = np.array(
            [_permutation(self._seed, position // count, count)[position % count] for position in positions]
        )
        self.images_drawn.assign_add(self._batch_size)
        images = self._split.images[indices]
        if self._augment:
            images = augment(images, np.random.default_rng((self._seed, drawn, 1)))
        return images, self._split.labels[indices].astype(np.int32)


@functools.lru_cache(maxsize=2)
def _permutation(seed, epoch, count):
    """Return the order of `count` images in one epoch, int (count,)."""
    return np.random.default_rng((seed, epoch)).permutation(count)
