"""Step 2: export the checkpoint as a versioned SavedModel, checkpoint -> exports/mnist/<version>/.

    python export_savedmodel.py --data_dir data/mnist

A version appears whole or not at all, and only if it answers real images as the checkpoint does.
"""

import contextlib
from pathlib import Path

import numpy as np

from rnn_serving import checkpoint, command_line, dataset, environment, exports, files, saved_model
from rnn_serving.command_line import UserError, first_line
from rnn_serving.dataset import IMAGE_SHAPE
from rnn_serving.model import INPUT_KEY, INPUT_NAME, INPUT_SPEC, OUTPUT_KEY, LSTMClassifier
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

MAX_DIFFERENCE = 1e-5
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
# One image from a client, and what batching makes of many: the first request of a new shape is the slow one.
# Not more: a server that batches refuses to load a version whose warm-up is larger than its max_batch_size.
WARMUP_BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def main(argv=None):
    """Export one checkpoint as one version; return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir)
    directory = Path(args.checkpoint_dir or f"checkpoints/{dataset.dataset_name(args.data_dir)}")
    prefix = checkpoint.latest(directory)
    run = checkpoint.read_run(Path(prefix).parent)
    model = checkpoint.load_model(prefix)
    version = args.model_version or exports.next_version(args.export_base_path)
    with exports.publishing(args.export_base_path, version, args.overwrite) as staging:
        write_version(staging, args, version, prefix, run)
        difference = largest_difference(model, staging, test.images)
    target = Path(args.export_base_path) / str(version)
    print_signature(target)
    print(f"Largest difference between checkpoint and SavedModel on {len(test)} images: {difference:g}")
    print(f"Checkpoint: {checkpoint_size(prefix):,} bytes, export: {exports.directory_size(target):,} bytes")
    print(f"Exported {prefix} to {target}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--checkpoint_dir", help="what to export (default: checkpoints/<name of the data set>)")
    parser.add_argument("--export_base_path", default="exports/mnist", help="directory of the model's versions")
    parser.add_argument(
        "--model_version", type=command_line.version_number, help="number to publish (default: the next one)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the version if it exists")
    return parser.parse_args(argv)


def write_version(staging, args, version, prefix, run):
    """Write the SavedModel and what goes with it into the staging directory."""
    try:
        write_saved_model(prefix, staging)
        write_warmup_requests(staging, Path(args.export_base_path).resolve().name)
        write_provenance(staging, args.export_base_path, version, prefix, run)
    except tf.errors.OpError as error:
        raise UserError(
            f"{staging}: {first_line(error)}; expected to write an export there, nothing is published"
        ) from error


def write_saved_model(prefix, directory):
    """Build the graph on a placeholder, restore the weights into it, and save both with the predict signature."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(INPUT_SPEC.dtype, INPUT_SPEC.shape, INPUT_NAME)
        model = LSTMClassifier(checkpoint.num_hidden(prefix))
        logits, _ = model(images)
        checkpoint.restore(model, prefix).run_restore_ops(session)
        signature = tf.compat.v1.saved_model.predict_signature_def({INPUT_KEY: images}, {OUTPUT_KEY: logits})
        # The builder wants to make the last directory itself.
        directory.rmdir()
        builder = tf.compat.v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            session,
            [saved_model.SERVE_TAG],
            signature_def_map={saved_model.DEFAULT_SIGNATURE: signature},
            strip_default_attrs=True,
        )
        builder.save()


def write_warmup_requests(directory, model_name):
    """Write the requests that TensorFlow Serving asks of a version before it goes live."""
    path = directory / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as records:
        for batch_size in WARMUP_BATCH_SIZES:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = saved_model.DEFAULT_SIGNATURE
            # A tensor with fewer values than its shape repeats the last one: blank images in 30 bytes.
            shape = tf.TensorShape((batch_size, *IMAGE_SHAPE)).as_proto()
            tensor = tf.make_tensor_proto(0.0, tf.float32)
            tensor.tensor_shape.CopyFrom(shape)
            request.inputs[INPUT_KEY].CopyFrom(tensor)
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            records.write(log.SerializeToString())


def write_provenance(directory, base_path, version, prefix, run):
    """Write down beside the model where it comes from."""
    origin = {
        "model": Path(base_path).resolve().name,
        "version": version,
        "dataset": run["dataset"],
        "testing_accuracy": run.get("testing_accuracy"),
        "step": int(tf.train.load_variable(prefix, "step/.ATTRIBUTES/VARIABLE_VALUE")),
        "flags": run["flags"],
        "versions": environment.versions(),
    }
    files.write_json(directory / exports.PROVENANCE_FILE, origin)


def largest_difference(model, directory, images):
    """Return the largest absolute difference between the logits of checkpoint and SavedModel on `images`.

    Raises: UserError if it is more than rounding can explain.
    """
    expected = tf.function(lambda batch: model(batch)[0], [INPUT_SPEC], autograph=False)(images).numpy()
    with contextlib.closing(saved_model.load(directory)) as loaded:
        exported = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({INPUT_KEY: images})[OUTPUT_KEY]
    difference = float(np.abs(exported - expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"SavedModel and checkpoint differ by {difference:g}; expected at most {MAX_DIFFERENCE:g}, "
            "nothing is published"
        )
    return difference


def print_signature(directory):
    """Print the signature as `saved_model_cli show --tag_set serve --signature_def serving_default` does."""
    with saved_model.ServedModel(directory) as model:
        signature = model.signature
    for kind, tensors in {"input": signature.inputs, "output": signature.outputs}.items():
        print(f"The given SavedModel SignatureDef contains the following {kind}(s):")
        for key, info in tensors.items():
            shape = ", ".join("-1" if size is None else str(size) for size in info.shape)
            print(f"  {kind}s['{key}'] tensor_info:")
            dtype = types_pb2.DataType.Name(tf.as_dtype(info.dtype).as_datatype_enum)
            print(f"      dtype: {dtype}\n      shape: ({shape})\n      name: {info.name}")
    print(f"Method name is: {signature.method_name}")


def checkpoint_size(prefix):
    """Return the bytes of a checkpoint's files."""
    return sum(path.stat().st_size for path in Path(prefix).parent.glob(Path(prefix).name + ".*"))


if __name__ == "__main__":
    command_line.run(main)
