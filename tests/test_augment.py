import numpy as np

from rnn_serving import augment


def test_an_augmented_image_stays_the_same_digit_in_about_the_same_place(test_images):
    images = test_images.images[:100]
    augmented = np.asarray(augment.augment(images, np.random.default_rng(0)))
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    rows = np.arange(28)
    for axis in (1, 2):
        centres = [(shown.sum(axis=axis) * rows).sum(axis=1) / shown.sum(axis=(1, 2)) for shown in (images, augmented)]
        assert 0.5 < np.abs(centres[1] - centres[0]).max() < 2 * augment.MAX_SHIFT


def test_without_any_change_the_image_is_the_same(test_images, monkeypatch):
    for name in ("MAX_SHIFT", "MAX_ROTATION", "MAX_ZOOM", "MAX_SHEAR"):
        monkeypatch.setattr(augment, name, 0.0)
    augmented = augment.augment(test_images.images[:10], np.random.default_rng(0))
    np.testing.assert_allclose(augmented, test_images.images[:10], atol=1e-5)
