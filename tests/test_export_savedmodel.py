import json
import resource
import shutil

import numpy as np
import pytest
from conftest import run_script

import export_savedmodel
from rnn_serving import checkpoint, exports, model, publish, saved_model
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import prediction_log_pb2


@pytest.mark.slow
def test_saved_model_cli_shows_the_documented_names(export_base, capsys):
    shown = run_script("-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir", export_base / "1", "--all")
    for line in (
        "signature_def['serving_default']:",
        "inputs['x_input'] tensor_info:",
        "shape: (-1, 28, 28)",
        "name: Input_X:0",
        "outputs['y_output'] tensor_info:",
        "shape: (-1, 10)",
        "name: output_layer/add:0",
        "Method name is: tensorflow/serving/predict",
    ):
        assert line in shown.stdout
    publish.print_signature(export_base / "1")
    own = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert own
    assert set(own) <= {line.strip() for line in shown.stdout.splitlines()}


def test_an_export_takes_the_next_version_and_changes_no_other(export, tmp_path, capsys):
    base = export(tmp_path / "mnist")
    first = (base / "1" / "saved_model.pb").stat().st_mtime_ns
    export(base)
    export(base, "--model_version", "7")
    export(base)
    assert list(exports.versions(base)) == [1, 2, 7, 8]
    assert (base / "1" / "saved_model.pb").stat().st_mtime_ns == first
    output = capsys.readouterr().out
    assert "Largest difference between checkpoint and SavedModel on 360 images: 0\n" in output
    assert "Checkpoint: " in output


def test_the_export_holds_no_optimizer_state(export_base, checkpoint_dir):
    names = [name for name, _ in tf.train.list_variables(str(export_base / "1" / "variables" / "variables"))]
    assert sorted(names) == [
        *("lstm/bias", "lstm/kernel", "lstm/recurrent_kernel"),
        *("output_layer/biases", "output_layer/weights"),
    ]
    prefix = checkpoint.find(checkpoint_dir)
    assert exports.directory_size(export_base / "1" / "variables") < export_savedmodel.checkpoint_size(prefix) / 2


def test_model_json_records_the_origin_of_the_version(export_base, checkpoint_dir):
    origin = exports.provenance(export_base / "1")
    run = checkpoint.read_run(checkpoint_dir)
    assert origin["model"] == "mnist"
    assert origin["version"] == 1
    assert origin["dataset"] == run["dataset"]
    assert origin["testing_accuracy"] == run["testing_accuracy"]
    assert origin["step"] == 120
    assert origin["flags"]["num_hidden"] == 32


def test_warm_up_requests_are_predict_logs_of_several_batch_sizes(export_base):
    path = str(export_base / "1" / "assets.extra" / "tf_serving_warmup_requests")
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(path)]
    requests = [log.predict_log.request for log in logs]
    shapes = [[dim.size for dim in request.inputs["x_input"].tensor_shape.dim] for request in requests]
    assert shapes == [[size, 28, 28] for size in (1, 2, 4, 8, 16, 32)]
    assert {request.model_spec.name for request in requests} == {"mnist"}
    # One value is stored; decoders repeat it to fill the shape, as C++ does.
    assert tf.make_ndarray(requests[2].inputs["x_input"]).shape == (4, 28, 28)


def test_it_loads_as_a_tf2_saved_model_too(export_base, checkpoint_dir, test_images):
    images = test_images.images[:5]
    loaded = tf.saved_model.load(str(export_base / "1")).signatures["serving_default"]
    expected, _ = checkpoint.load_model(checkpoint.find(checkpoint_dir))(tf.constant(images))
    np.testing.assert_allclose(loaded(tf.constant(images))["y_output"], expected, atol=1e-5)


def test_an_export_that_answers_differently_is_not_published(export, tmp_path, monkeypatch):
    original = saved_model.Signature.__call__
    monkeypatch.setattr(
        saved_model.Signature,
        "__call__",
        lambda self, inputs: {key: value + 2e-5 for key, value in original(self, inputs).items()},
    )
    with pytest.raises(UserError, match="differ by .*expected at most 1e-05"):
        export(tmp_path / "mnist")
    assert list((tmp_path / "mnist").iterdir()) == []


@pytest.mark.parametrize("version", ["0", "-1", "abc", "1.5"])
def test_a_version_that_is_not_a_positive_integer_ends_with_status_2(version, capsys):
    with pytest.raises(SystemExit) as end:
        export_savedmodel.main([f"--model_version={version}"])
    assert end.value.code == 2
    assert f"argument --model_version: '{version}' is not a whole number of at least 1" in capsys.readouterr().err


def test_a_version_that_exists_needs_overwrite(export, tmp_path):
    base = export(tmp_path / "mnist")
    with pytest.raises(UserError, match="1 exists; expected a new --model_version, or --overwrite"):
        export(base, "--model_version", "1")
    export(base, "--model_version", "1", "--overwrite")
    assert list(exports.versions(base)) == [1]


def run_export(data_dir, checkpoint_dir, base):
    arguments = ["--data_dir", str(data_dir), "--checkpoint_dir", str(checkpoint_dir), "--export_base_path", str(base)]
    return export_savedmodel.main(arguments)


def test_no_checkpoint_is_an_error(data_dir, tmp_path):
    with pytest.raises(UserError, match="no checkpoint; expected one that train_lstm.py wrote"):
        run_export(data_dir, tmp_path / "none", tmp_path / "mnist")
    assert not (tmp_path / "mnist").exists()


def test_a_checkpoint_of_another_architecture_is_an_error(data_dir, checkpoint_dir, tmp_path):
    tf.train.Checkpoint(dense=tf.Variable(tf.zeros((784, 10)))).write(str(tmp_path / "ckpt-1"))
    shutil.copy(checkpoint_dir / "run.json", tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    with pytest.raises(UserError, match=r"another model, with variables none; expected lstm/bias \[128\], "):
        run_export(data_dir, tmp_path, tmp_path / "mnist")


def test_a_damaged_checkpoint_is_an_error(data_dir, checkpoint_dir, tmp_path):
    shutil.copytree(checkpoint_dir, tmp_path / "run")
    data = next((tmp_path / "run").glob("ckpt-120.data*"))
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match="not readable as a checkpoint"):
        run_export(data_dir, tmp_path / "run", tmp_path / "mnist")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [300, 5_000, 20_000])
def test_a_full_disk_publishes_nothing(data_dir, checkpoint_dir, tmp_path, limit):
    ended = run_script(
        *("export_savedmodel.py", "--data_dir", data_dir, "--checkpoint_dir", checkpoint_dir),
        *("--export_base_path", tmp_path / "mnist"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert ended.returncode == 1, ended.stderr
    assert "export_savedmodel.py: error: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "mnist").iterdir()) == []


def test_provenance_of_a_foreign_export_is_empty_not_an_error(tmp_path):
    assert exports.provenance(tmp_path) == {}
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "model.json").write_text(json.dumps([1]))
    assert exports.provenance(tmp_path) == {}


def test_a_model_that_was_edited_since_is_refused(data_dir, checkpoint_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "FORGET_BIAS", 0.5)
    with pytest.raises(UserError, match="LSTMClassifier in rnn_serving/model.py was edited since .*--restart"):
        run_export(data_dir, checkpoint_dir, tmp_path / "mnist")
    assert not (tmp_path / "mnist").exists()


@pytest.mark.parametrize("name", ["mnist", "digits", "fashion_mnist"])
def test_path_and_name_follow_the_data_set_by_default(data_dir, checkpoint_dir, tmp_path, monkeypatch, name):
    shutil.copytree(data_dir, tmp_path / "data" / name)
    run = shutil.copytree(checkpoint_dir, tmp_path / "checkpoints" / name) / "run.json"
    content = json.loads(run.read_text())
    content["dataset"]["name"] = name
    run.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    assert export_savedmodel.main(["--data_dir", f"data/{name}"]) == 0
    assert [path.name for path in (tmp_path / "exports").iterdir()] == [name]
    assert exports.provenance(tmp_path / "exports" / name / "1")["model"] == name
