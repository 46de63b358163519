import numpy as np
import pytest

from rnn_serving.model import INPUT_SPEC, LSTMClassifier
from rnn_serving.quiet_tensorflow import tf

IMAGES = np.random.default_rng(0).random((3, 28, 28), np.float32)


def reference_lstm(model, images):
    """Compute the logits of an LSTM with NumPy, from the textbook's equations."""
    kernel = np.concatenate([model.kernel, model.recurrent_kernel])
    hidden = cell = np.zeros((len(images), model.num_hidden))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for row in range(28):
        gates = np.concatenate([images[:, row], hidden], axis=1) @ kernel + model.bias.numpy()
        i, j, f, o = np.split(gates, 4, axis=1)
        cell = cell * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
        hidden = np.tanh(cell) * sigmoid(o)
    return hidden @ model.output_weights.numpy() + model.output_biases.numpy()


def test_the_unrolled_graph_computes_an_lstm():
    model = LSTMClassifier(16)
    logits, prediction = model(tf.constant(IMAGES))
    np.testing.assert_allclose(logits, reference_lstm(model, IMAGES), atol=1e-5)
    np.testing.assert_allclose(prediction, tf.nn.softmax(logits))


def test_training_and_export_graphs_have_the_designs_names():
    model = LSTMClassifier(8)
    traced = tf.function(model, input_signature=[INPUT_SPEC]).get_concrete_function().graph
    with tf.Graph().as_default() as exported:
        images = tf.compat.v1.placeholder(INPUT_SPEC.dtype, INPUT_SPEC.shape, INPUT_SPEC.name)
        LSTMClassifier(8)(images)
    for graph in (traced, exported):
        for name, shape in {
            "Input_X:0": (None, 28, 28),
            "output_layer/add:0": (None, 10),
            "prediction:0": (None, 10),
        }.items():
            tensor = graph.get_tensor_by_name(name)
            assert tensor.dtype == tf.float32
            assert tuple(tensor.shape) == shape


def test_the_graph_is_unrolled_without_a_loop():
    graph = tf.function(LSTMClassifier(8), input_signature=[INPUT_SPEC]).get_concrete_function().graph
    types = [operation.type for operation in graph.get_operations()]
    assert types.count("MatMul") == 28 + 2
    assert not [name for name in types if "While" in name]


def test_the_seed_decides_the_weights():
    first, same, other = (LSTMClassifier(8, seed=seed).kernel.numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_articles_output_layer_is_drawn_from_a_standard_normal():
    weights = LSTMClassifier(512, output_init="normal").output_weights.numpy()
    assert weights.std() == pytest.approx(1, abs=0.05)
    assert np.abs(LSTMClassifier(512).output_weights.numpy()).max() < 0.2


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="incompatible"):
        LSTMClassifier(8)(tf.zeros((1, 784)))
