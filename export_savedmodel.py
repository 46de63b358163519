"""Step 2: export the checkpoint as a versioned SavedModel, checkpoint -> exports/mnist/<version>/.

    python export_savedmodel.py --data_dir data/mnist

A version appears whole or not at all, and only if it answers real images as the checkpoint does.
"""

import contextlib
from pathlib import Path

from rnn_serving import checkpoint, command_line, dataset, exporting, exports, saved_model
from rnn_serving.dataset import IMAGE_SHAPE
from rnn_serving.model import INPUT_KEY, INPUT_NAME, INPUT_SPEC, OUTPUT_KEY, LSTMClassifier
from rnn_serving.quiet_tensorflow import tf


def main(argv=None):
    """Export one checkpoint as one version; return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir)
    directory = Path(args.checkpoint_dir or f"checkpoints/{dataset.dataset_name(args.data_dir)}")
    prefix = checkpoint.latest(directory)
    run = checkpoint.read_run(Path(prefix).parent)
    model = checkpoint.load_model(prefix)
    version = exports.free_version(args.export_base_path, args.model_version, args.overwrite)
    with exports.publishing(args.export_base_path, version, args.overwrite) as staging:
        write_version(staging, args, version, prefix, run)
        difference = largest_difference(model, staging, test.images)
    target = Path(args.export_base_path) / str(version)
    exporting.print_signature(target)
    print(f"Largest difference between checkpoint and SavedModel on {len(test)} images: {difference:g}")
    print(f"Checkpoint: {checkpoint_size(prefix):,} bytes, export: {exports.directory_size(target):,} bytes")
    print(f"Exported {prefix} to {target}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--checkpoint_dir", help="what to export (default: checkpoints/<name of the data set>)")
    exporting.add_flags(parser, base_path="exports/mnist")
    return parser.parse_args(argv)


def write_version(staging, args, version, prefix, run):
    """Write the SavedModel and what goes with it into the staging directory."""
    warmup = exporting.blank_predictions(saved_model.DEFAULT_SIGNATURE, INPUT_KEY, IMAGE_SHAPE)
    with exporting.writing(staging):
        write_saved_model(prefix, staging)
        exporting.write_warmup_requests(staging, args.export_base_path, warmup)
        exporting.write_provenance(staging, args.export_base_path, version, provenance(prefix, run))


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


def provenance(prefix, run):
    """Return where a checkpoint comes from."""
    return {
        "dataset": run["dataset"],
        "testing_accuracy": run.get("testing_accuracy"),
        "step": int(tf.train.load_variable(prefix, "step/.ATTRIBUTES/VARIABLE_VALUE")),
        "flags": run["flags"],
    }


def largest_difference(model, directory, images):
    """Return the largest absolute difference between the logits of checkpoint and SavedModel on `images`.

    Raises: UserError if it is more than rounding can explain.
    """
    expected = tf.function(lambda batch: model(batch)[0], [INPUT_SPEC], autograph=False)(images).numpy()
    with contextlib.closing(saved_model.load(directory)) as loaded:
        exported = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({INPUT_KEY: images})[OUTPUT_KEY]
    return exporting.largest_difference(expected, exported, "checkpoint")


def checkpoint_size(prefix):
    """Return the bytes of a checkpoint's files."""
    return sum(path.stat().st_size for path in Path(prefix).parent.glob(Path(prefix).name + ".*"))


if __name__ == "__main__":
    command_line.run(main)
