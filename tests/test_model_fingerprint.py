import pytest

from rnn_serving import model, model_fingerprint, model_flags
from rnn_serving.quiet_tensorflow import tf

SOURCE = """
class Classifier(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(tf.ones((784, 10)), name="weights")
        self.scale = tf.constant(2.0)

    def __call__(self, images):
        pixels = tf.reshape(images, (-1, 784))
        _, pixels = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x * 0.5), (0, pixels))
        logits = tf.matmul(pixels, self.weights) * self.scale
        return logits, tf.nn.softmax(logits)
"""


def describe(source):
    names = {"tf": tf}
    exec(source, names)
    return model_fingerprint.describe(names["Classifier"]())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        pixels = ", "        # A comment\n\n        pixels  =  "),
        ("    def __call__(self, images):", '    def __call__(self, images):\n        """A docstring."""'),
        ("logits", "scores"),
        ("(-1, 784)", "(\n            -1,\n            28 * 28,\n        )"),
        ("lambda i, x: (i + 1, x * 0.5)", "lambda number, y: (number + 1, y * 0.5)"),
    ],
)
def test_comments_formatting_and_names_do_not_matter(old, new):
    before, now = describe(SOURCE), describe(SOURCE.replace(old, new))
    assert SOURCE.replace(old, new) != SOURCE
    assert not model_fingerprint.was_edited(before, now)
    assert not model_fingerprint.was_edited(now, before)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tf.constant(2.0)", "tf.constant(3.0)"),
        ("x * 0.5", "x * 0.25"),
        ("x * 0.5", "x + 0.5"),
        ("i < 3", "i < 4"),
        ("tf.matmul(pixels, self.weights)", "tf.nn.relu(tf.matmul(pixels, self.weights))"),
        ("return logits, tf.nn.softmax(logits)", "return logits, tf.nn.sigmoid(logits)"),
        ("tf.reshape(images, (-1, 784))", "tf.reshape(tf.transpose(images, (0, 2, 1)), (-1, 784))"),
        ("tf.reshape(images, (-1, 784))", "tf.reshape(1 - images, (-1, 784))"),
    ],
)
def test_an_edit_that_keeps_all_variables_is_noticed(old, new):
    before, now = describe(SOURCE), describe(SOURCE.replace(old, new))
    assert before["variables"] == now["variables"]
    assert model_fingerprint.was_edited(before, now)


def test_variables_of_one_shape_that_change_places_are_noticed():
    class Classifier(tf.Module):
        def __init__(self, order):
            super().__init__()
            self.a, self.b, self.order = tf.Variable(tf.ones((28, 28))), tf.Variable(tf.ones((28, 28))), order

        def __call__(self, images):
            first, second = (self.a, self.b)[:: self.order]
            return images - first, images + second

    one, other = (model_fingerprint.describe(Classifier(order)) for order in (1, -1))
    assert model_fingerprint.was_edited(one, other)


def test_it_is_the_same_in_every_trace_and_unknown_for_another_tensorflow(monkeypatch):
    before, now = (model_fingerprint.describe(model_flags.create_model({"num_hidden": 8})) for _ in range(2))
    assert before == now
    monkeypatch.setattr(model, "FORGET_BIAS", 0.0)
    edited = model_fingerprint.describe(model_flags.create_model({"num_hidden": 8}))
    assert model_fingerprint.was_edited(before, edited)
    assert not model_fingerprint.was_edited(before | {"tensorflow": "2.16.1"}, edited)
    assert not model_fingerprint.was_edited({}, edited)
