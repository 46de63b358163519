"""One request with many images, against the bare call of the model: what a server adds to a large batch."""

import numpy as np

from benchmarks.figures import Figure
from benchmarks.rounds import in_turns, median_call_ms, ratios

MANY_IMAGES = 128


def repeat_images(test):
    """Return 128 images, float32 (128, 28, 28), from those of a `Split`."""
    return np.resize(test.images, (MANY_IMAGES, *test.images.shape[1:]))


def many_images_figures(rounds, name, request, call_model, at_most):
    """Return the figures of `request()`, by name, and of `call_model()`, both with the same many images.

    `at_most` is how many times as long as the model call the request should take.
    """
    calls = {name: request, "the model call": call_model}
    medians = in_turns(rounds, {of: lambda c=call: median_call_ms(c) for of, call in calls.items()})
    return [
        *(Figure.of(f"{MANY_IMAGES} images: {of}, ms", values) for of, values in medians.items()),
        Figure.of(f"{MANY_IMAGES} images: {name} / the model call", ratios(*medians.values()), at_most=at_most),
    ]
