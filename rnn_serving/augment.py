"""Augmentation: shift, rotate, zoom and shear images a little, each at random about its centre."""

import math

import numpy as np

from rnn_serving.dataset import IMAGE_SIZE
from rnn_serving.quiet_tensorflow import tf

# Maximum shift in pixels, rotation in degrees, relative zoom, and shear factor.
MAX_SHIFT, MAX_ROTATION, MAX_ZOOM, MAX_SHEAR = 2.0, 10.0, 0.1, 0.1


def augment(images, rng):
    """Return images, float32 (N, 28, 28), each transformed as a NumPy random generator says."""
    count, centre = len(images), (IMAGE_SIZE - 1) / 2
    angle, shear = rng.uniform(-1, 1, (2, count)) * [[math.radians(MAX_ROTATION)], [MAX_SHEAR]]
    zoom = rng.uniform(1 - MAX_ZOOM, 1 + MAX_ZOOM, (2, count))
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, (2, count))
    # The pixel at (x, y) is read from (a x + b y + left, c x + d y + top).
    a, b = zoom[0] * np.cos(angle), zoom[0] * (shear * np.cos(angle) - np.sin(angle))
    c, d = zoom[1] * np.sin(angle), zoom[1] * (shear * np.sin(angle) + np.cos(angle))
    left, top = centre - (a + b) * centre + shift[0], centre - (c + d) * centre + shift[1]
    transforms = np.stack([a, b, left, c, d, top, np.zeros(count), np.zeros(count)], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images[..., np.newaxis],
        transforms=transforms.astype(np.float32),
        output_shape=images.shape[1:],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[..., 0]
