import numpy as np
from conftest import random_split

from rnn_serving.batch_stream import BatchStream
from rnn_serving.dataset import Split


def next_images(split, count=3, **arguments):
    stream = BatchStream(split, 16, seed=0, **arguments)
    return [np.asarray(stream.next_batch()[0]) for _ in range(count)]


def test_augmented_batches_depend_on_the_seed_and_differ_in_every_epoch():
    split = Split(*random_split(16))  # one batch is one epoch
    plain, augmented, again = (next_images(split, augment=augment) for augment in (False, True, True))
    assert all(batch.shape == (16, 28, 28) and batch.dtype == np.float32 for batch in augmented)
    assert not any(np.allclose(one, other) for one, other in zip(plain, augmented))
    np.testing.assert_array_equal(augmented, again)
    first, second = (batch[np.argsort(old.sum(axis=(1, 2)))] for batch, old in zip(augmented[:2], plain[:2]))
    assert not np.allclose(first, second)


def test_every_epoch_has_every_image_once_and_a_batch_may_span_two():
    split = Split(*random_split(24))
    images = np.concatenate(next_images(split, count=3))  # 48 images: two epochs of 24
    for epoch in (images[:24], images[24:]):
        assert sorted(epoch.sum(axis=(1, 2))) == sorted(split.images.sum(axis=(1, 2)))
    assert not np.array_equal(images[:24], images[24:])


def test_the_number_of_images_drawn_is_the_whole_state():
    split = Split(*random_split(24))
    expected = next_images(split, count=3)[2]
    stream = BatchStream(split, 16, seed=0)
    stream.images_drawn.assign(32)
    np.testing.assert_array_equal(stream.next_batch()[0], expected)
