"""Join the arrays of several requests into one batch, split the batch's outputs again, and make arrays of strings."""

import numpy as np


def join(batches):
    """Return {key: array} with the rows of several {key: array}, which have the same keys, one after the other.

    Raises: ValueError if the rows differ in shape.
    """
    if len(batches) == 1:
        return batches[0]
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def object_array(elements):
    """Return strings as an array of objects (N,)."""
    return np.array([*elements, None], object)[:-1]  # the extra element keeps NumPy from inspecting the strings


def split(outputs, sizes):
    """Return {key: array} for each of several requests, which have `sizes` rows, from {key: array} of all rows."""
    ends = np.cumsum(sizes).tolist()
    return [{key: array[end - size : end] for key, array in outputs.items()} for size, end in zip(sizes, ends)]
