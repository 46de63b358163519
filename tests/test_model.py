import numpy as np
import pytest

from rnn_serving.dataset import IMAGE_SHAPE, IMAGE_SIZE
from rnn_serving.model import FORGET_BIAS, INPUT_SPEC, LSTMClassifier
from rnn_serving.quiet_tensorflow import tf


@pytest.fixture
def images():
    """Three images of noise, float32 (3, 28, 28)."""
    return np.random.default_rng(0).random((3, *IMAGE_SHAPE), np.float32)


@pytest.fixture
def traced_graph():
    """The graph of a small model, as training traces it."""
    return tf.function(LSTMClassifier(8), input_signature=[INPUT_SPEC]).get_concrete_function().graph


@pytest.fixture
def placeholder_graph():
    """The graph of a small model, as the export builds it."""
    with tf.Graph().as_default() as graph:
        LSTMClassifier(8)(tf.compat.v1.placeholder(INPUT_SPEC.dtype, INPUT_SPEC.shape, INPUT_SPEC.name))
    return graph


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference_lstm(model, images):
    """Return the logits, (N, 10), of an LSTM in NumPy, written from the textbook's equations."""
    kernel = np.concatenate([model.kernel, model.recurrent_kernel])
    hidden = cell = np.zeros((len(images), model.num_hidden))
    for row in range(IMAGE_SIZE):
        gates = np.concatenate([images[:, row], hidden], axis=1) @ kernel + model.bias.numpy()
        input_gate, candidate, forget_gate, output_gate = np.split(gates, 4, axis=1)
        cell = cell * sigmoid(forget_gate + FORGET_BIAS) + sigmoid(input_gate) * np.tanh(candidate)
        hidden = np.tanh(cell) * sigmoid(output_gate)
    return hidden @ model.output_weights.numpy() + model.output_biases.numpy()


def test_the_unrolled_graph_computes_an_lstm(images):
    model = LSTMClassifier(16)
    logits, prediction = model(tf.constant(images))
    np.testing.assert_allclose(logits, reference_lstm(model, images), atol=1e-5)
    np.testing.assert_allclose(prediction, tf.nn.softmax(logits))


@pytest.mark.parametrize("graph", ["traced_graph", "placeholder_graph"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Input_X:0", (None, 28, 28)),
        ("output_layer/add:0", (None, 10)),
        ("prediction:0", (None, 10)),
    ],
)
def test_training_and_export_graphs_use_the_documented_names(request, graph, name, shape):
    tensor = request.getfixturevalue(graph).get_tensor_by_name(name)
    assert tensor.dtype == tf.float32
    assert tuple(tensor.shape) == shape


def test_the_graph_is_unrolled_without_a_loop(traced_graph):
    types = [operation.type for operation in traced_graph.get_operations()]
    assert types.count("MatMul") == IMAGE_SIZE + 2
    assert not [name for name in types if "While" in name]


def test_the_same_seed_gives_the_same_weights():
    first, same, other = (LSTMClassifier(8, seed=seed).kernel.numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_articles_output_weights_are_drawn_from_a_standard_normal():
    weights = LSTMClassifier(512, output_init="normal").output_weights.numpy()
    assert weights.std() == pytest.approx(1, abs=0.05)
    assert np.abs(LSTMClassifier(512).output_weights.numpy()).max() < 0.2


def test_images_of_another_shape_are_rejected():
    with pytest.raises(ValueError, match="incompatible"):
        LSTMClassifier(8)(tf.zeros((1, 784)))
