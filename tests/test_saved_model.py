import shutil

import numpy as np
import pytest
from google.protobuf import text_format

from rnn_serving import saved_model
from rnn_serving.exports import ExportError
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.protobuf import saved_model_pb2


def test_the_newest_version_is_loaded_and_gives_tensorflows_answers(export_base, test_images):
    images = test_images.images[:7]
    with saved_model.ServedModel(export_base) as model:
        assert (model.name, model.version, model.dataset) == ("mnist", 1, "digits")
        assert model.signature.inputs["x_input"].shape == (None, 28, 28)
        assert model.signature.outputs["y_output"].dtype == "float32"
        logits = model.predict({"x_input": images})["y_output"]
    expected = tf.saved_model.load(str(export_base / "1")).signatures["serving_default"](tf.constant(images))
    np.testing.assert_allclose(logits, expected["y_output"], atol=1e-6)


def test_a_tensorflow_2_model_with_another_signature_is_loaded_too(tmp_path):
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


def test_a_saved_model_that_is_text_is_loaded_too(export_base, tmp_path):
    shutil.copytree(export_base / "1", version := tmp_path / "mnist" / "2")
    binary = version / "saved_model.pb"
    text = text_format.MessageToString(saved_model_pb2.SavedModel.FromString(binary.read_bytes()))
    binary.with_suffix(".pbtxt").write_text(text)
    binary.unlink()
    images = np.ones((2, 28, 28), np.float32)
    with saved_model.ServedModel(export_base) as model, saved_model.ServedModel(tmp_path / "mnist") as of_text:
        assert of_text.version == 2
        expected, got = (one.predict({"x_input": images})["y_output"] for one in (model, of_text))
    np.testing.assert_array_equal(got, expected)


def test_wrong_input_raises_tensorflows_own_error(export_base):
    with saved_model.ServedModel(export_base) as model:
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            model.predict({"x_input": np.zeros((1, 28, 28), np.int32)})
        assert "to be float but int32 is provided" in error.value.message


def remove_variables(version):
    shutil.rmtree(version / "variables")


def truncate_graph(version):
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:1000])


def overwrite_graph(version):
    (version / "saved_model.pb").write_bytes(b"\xff")


@pytest.mark.parametrize("damage", [remove_variables, truncate_graph, overwrite_graph])
def test_a_broken_export_is_an_error_with_its_path(export, tmp_path, damage):
    base = export(tmp_path / "mnist")
    damage(base / "1")
    with pytest.raises(ExportError, match="mnist/1: does not load .*expected a SavedModel with the tag 'serve'"):
        saved_model.ServedModel(base)


def test_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="no exported model"):
        saved_model.ServedModel(tmp_path)


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [("links/4", "links", 4), ("links", "links", 4), ("one", "mnist", 1), (".", "links", 4)],
)
def test_a_linked_version_has_the_number_and_the_name_of_the_link(
    export_base, tmp_path, monkeypatch, path, name, version
):
    store = shutil.copytree(export_base / "1", tmp_path / "store" / "abc123")
    (store / "assets.extra" / "model.json").unlink()
    shutil.copytree(store, tmp_path / "mnist" / "1")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "4").symlink_to(store)
    (tmp_path / "one").symlink_to("mnist/1")
    monkeypatch.chdir(tmp_path / "links" if path == "." else tmp_path)
    with saved_model.ServedModel(path) as model:
        assert (model.name, model.version) == (name, version)


class Lookup(tf.Module):
    """A model with an asset and a variable."""

    def __init__(self, words):
        super().__init__()
        self.factor = tf.Variable(tf.ones((100, 100)))
        lines = (tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
        words = tf.lookup.TextFileInitializer(str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, *lines)
        self.table = tf.lookup.StaticHashTable(words, -1)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "x")])
    def look_up(self, x):
        return {"y": tf.cast(self.table.lookup(x), tf.float32) * self.factor[0, 0]}


@pytest.fixture(scope="module")
def lookup_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lookup")
    (directory / "words.txt").write_text("a\nb\n")
    module = Lookup(directory / "words.txt")
    tf.saved_model.save(module, str(directory / "model"), signatures={"serving_default": module.look_up})
    return directory / "model"


def only(directory, pattern):
    (found,) = directory.glob(pattern)
    return found


def cut(path, size=1000):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: (d / "assets" / "words.txt").unlink(), "assets/words.txt; No such file or directory"),
        (lambda d: (d / "assets" / "words.txt").write_text("a\na\n"), "HashTable has different value for same key"),
        (lambda d: cut(only(d, "variables/*.data*")), "Read less bytes than requested"),
        (lambda d: only(d, "variables/*.data*").unlink(), "data-00000-of-00001; No such file or directory"),
        (lambda d: only(d, "variables/*.index").write_bytes(b"x" * 500), "not an sstable"),
        (lambda d: only(d, "variables/*.index").unlink(), "not a valid checkpoint"),
    ],
)
def test_the_reason_why_a_model_does_not_load_is_shown(lookup_model, tmp_path, damage, reason):
    directory = shutil.copytree(lookup_model, tmp_path / "lookup" / "1")
    damage(directory)
    with pytest.raises(ExportError, match=rf"does not load \(.*{reason}"):
        saved_model.ServedModel(directory)


def test_a_model_that_is_placed_on_a_gpu_says_so(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session(config=tf.compat.v1.ConfigProto(allow_soft_placement=True)) as s:
        x = tf.compat.v1.placeholder(tf.float32, (None,), "x")
        with tf.device("/GPU:0"):
            weight = tf.compat.v1.get_variable("w", initializer=2.0, use_resource=False)
            y = x * weight
        s.run(tf.compat.v1.global_variables_initializer())
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "gpu" / "1"))
        builder.add_meta_graph_and_variables(s, ["serve"], {"serving_default": signature})
        builder.save()
    with pytest.raises(ExportError, match=r"does not load \(Cannot assign a device for operation w: .*/device:GPU:0"):
        saved_model.ServedModel(tmp_path / "gpu")
