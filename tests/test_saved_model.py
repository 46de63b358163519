import shutil

import numpy as np
import pytest

from rnn_serving import exports, saved_model
from rnn_serving.exports import ExportError
from rnn_serving.quiet_tensorflow import tf


def test_the_newest_version_is_loaded_and_answers_as_tensorflow_does(export_base, test_images):
    images = test_images.images[:7]
    with saved_model.ServedModel(export_base) as model:
        assert (model.name, model.version, model.dataset) == ("mnist", 1, "digits")
        assert model.signature.inputs["x_input"].shape == (None, 28, 28)
        assert model.signature.outputs["y_output"].dtype == "float32"
        logits = model.predict({"x_input": images})["y_output"]
    expected = tf.saved_model.load(str(export_base / "1")).signatures["serving_default"](tf.constant(images))
    np.testing.assert_allclose(logits, expected["y_output"], atol=1e-6)


def test_a_model_of_tensorflow_2_with_another_signature_is_served_too(tmp_path):
    class Doubler(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
        def double(self, x):
            return {"twice": self.factor * x}

    module = Doubler()
    module.factor = tf.Variable(2.0)
    tf.saved_model.save(module, str(tmp_path / "doubler" / "3"), signatures={"double": module.double})
    with saved_model.ServedModel(tmp_path / "doubler", "double") as model:
        assert (model.name, model.version, model.dataset) == ("doubler", 3, None)
        np.testing.assert_array_equal(model.predict({"x": np.float32([1, 2])})["twice"], [2, 4])
    with pytest.raises(ExportError, match="no signature 'serving_default'; expected one of .*'double'"):
        saved_model.ServedModel(tmp_path / "doubler")


def test_wrong_input_is_tensorflows_error_in_its_own_words(export_base):
    with saved_model.ServedModel(export_base) as model:
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            model.predict({"x_input": np.zeros((1, 28, 28), np.int32)})
        assert "to be float but int32 is provided" in error.value.message


def empty(version):
    shutil.rmtree(version / "variables")


def cut_off(version):
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [empty, cut_off, lambda version: (version / "saved_model.pb").write_bytes(b"\xff")])
def test_a_broken_export_is_an_error_that_names_it(export, tmp_path, damage):
    base = export(tmp_path / "mnist")
    damage(base / "1")
    with pytest.raises(ExportError, match="mnist/1: does not load .*expected a SavedModel with the tag 'serve'"):
        saved_model.ServedModel(base)


def test_nothing_to_load_is_an_error(tmp_path):
    with pytest.raises(exports.ExportError, match="no exported model"):
        saved_model.ServedModel(tmp_path)
