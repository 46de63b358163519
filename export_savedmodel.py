"""Step 2: export the checkpoint as a versioned SavedModel, checkpoint -> exports/<data set>/<version>/.

    python export_savedmodel.py --data_dir data/mnist

A version is published only if it answers the test images as the checkpoint does.
"""

import contextlib
from pathlib import Path

from rnn_serving import checkpoint, command_line, dataset, model_flags, publish, saved_model
from rnn_serving.dataset import IMAGE_SHAPE
from rnn_serving.model import INPUT_KEY, INPUT_NAME, INPUT_SPEC, OUTPUT_KEY
from rnn_serving.quiet_tensorflow import tf


def write_saved_model(prefix, flags, directory):
    """Build the graph on a placeholder, restore the weights into it, and save both with the predict signature."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        # The same model code as in training; a placeholder takes the place of the training images.
        images = tf.compat.v1.placeholder(INPUT_SPEC.dtype, INPUT_SPEC.shape, INPUT_NAME)
        model = model_flags.create_model(flags)
        logits, _ = model(images)
        checkpoint.restore(model, prefix).run_restore_ops(session)
        # The signature is what clients see: x_input -> y_output, whatever the tensors are called inside.
        signature = tf.compat.v1.saved_model.predict_signature_def({INPUT_KEY: images}, {OUTPUT_KEY: logits})
        directory.rmdir()  # the builder creates it
        builder = tf.compat.v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            session,
            [saved_model.SERVE_TAG],
            signature_def_map={saved_model.DEFAULT_SIGNATURE: signature},
            strip_default_attrs=True,  # so that an older TensorFlow can load it
        )
        builder.save()


def check_saved_model(model, directory, images):
    """Return the largest absolute difference between the logits of checkpoint and SavedModel; UserError above 1e-5."""
    expected = tf.function(lambda batch: model(batch)[0], [INPUT_SPEC], autograph=False)(images).numpy()
    with contextlib.closing(saved_model.load(directory)) as loaded:
        exported = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({INPUT_KEY: images})[OUTPUT_KEY]
    return publish.check_outputs(expected, exported, "checkpoint")


def main(argv=None):
    """Export one checkpoint as one version; return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir)
    prefix = checkpoint.find(args.checkpoint_dir or f"checkpoints/{dataset.dataset_name(args.data_dir)}")
    run = checkpoint.read_run(Path(prefix).parent)
    model = checkpoint.load_model(prefix)
    base_path = args.export_base_path or f"exports/{run['dataset']['name']}"  # of the data set that it was trained on
    examples = [publish.ExampleInputs(saved_model.DEFAULT_SIGNATURE, {INPUT_KEY: test.images}, logits=(OUTPUT_KEY,))]
    warmup = publish.blank_predictions(saved_model.DEFAULT_SIGNATURE, INPUT_KEY, IMAGE_SHAPE)
    target = (base_path, args.model_version, origin(prefix, run))
    with publish.publish(*target, examples, warmup, args.overwrite) as version:
        write_saved_model(prefix, run["flags"], version.staging)
        difference = check_saved_model(model, version.staging, test.images)
        publish.print_signature(version.staging)
    print(f"Largest difference between checkpoint and SavedModel on {len(test)} images: {difference:g}")
    print(f"Checkpoint: {checkpoint_size(prefix):,} bytes, export: {version.size:,} bytes")
    print(f"Exported {prefix} to {version.directory}")
    return 0


def origin(prefix, run):
    """Return where a checkpoint comes from, for the version's model.json."""
    return {
        "dataset": run["dataset"],
        "testing_accuracy": run.get("testing_accuracy"),
        "step": int(tf.train.load_variable(prefix, "step/.ATTRIBUTES/VARIABLE_VALUE")),
        "flags": run["flags"],
    }


def checkpoint_size(prefix):
    """Return the bytes of a checkpoint's files."""
    return sum(path.stat().st_size for path in Path(prefix).parent.glob(Path(prefix).name + ".*"))


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--checkpoint_dir", help="what to export (default: checkpoints/<name of the data set>)")
    publish.add_flags(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
