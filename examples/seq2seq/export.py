"""Export the checkpoint twice, checkpoint -> exports/seq2seq/<version>/ and exports/seq2seq_ids/<version>/.

    python -m examples.seq2seq.export

The first is monolithic: strings in and out, with text work and vocabularies in the graph. The second is the network
alone, ids in and out, for the pipeline. They are published together, and only if both answer as the checkpoint does.
"""

import contextlib

import numpy as np

from examples.seq2seq import saved_run
from examples.seq2seq.text import IDS_KEY, REPLY_IDS_KEY, REPLY_KEY, TEXT_KEY
from examples.seq2seq.text_model import IdsModel, TextModel
from rnn_serving import command_line, exports, publish, saved_model
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import DEFAULT_SIGNATURE

# Asked before publishing, in addition to all questions of the corpus.
ODD_QUESTIONS = ("", "?!", "xyzzy", "HOW are \u2018you\u2019", "hello xyzzy", "caf\u00e9\u3000hello", 20 * "you ")


def write_saved_models(model, vocabulary, staging, ids_staging):
    """Write both SavedModels; the pipeline reads the vocabularies from files beside the network."""
    vocabulary_directory = (ids_staging / exports.PROVENANCE_FILE).parent
    vocabulary_directory.mkdir()
    vocabulary.write(vocabulary_directory)
    # The monolithic model's lookup tables read the same files, so that they become its assets.
    for module, directory in ((TextModel(model, vocabulary_directory), staging), (IdsModel(model), ids_staging)):
        tf.saved_model.save(module, str(directory), {DEFAULT_SIGNATURE: module.reply})


def check_saved_models(model, vocabulary, staging, ids_staging, texts):
    """Raise UserError unless checkpoint and SavedModels give the same answers to questions, bytes (N,)."""
    expected = vocabulary.reply(texts, lambda ids: model(ids).numpy())
    with contextlib.closing(saved_model.load(ids_staging)) as loaded:
        network = loaded.signatures[DEFAULT_SIGNATURE]
        by_pipeline = vocabulary.reply(texts, lambda ids: network({IDS_KEY: ids})[REPLY_IDS_KEY])
    with contextlib.closing(saved_model.load(staging)) as loaded:
        by_graph = loaded.signatures[DEFAULT_SIGNATURE]({TEXT_KEY: texts})[REPLY_KEY]
    for question, wanted, *found in zip(texts, expected, by_pipeline, (reply.decode() for reply in by_graph)):
        if found != [wanted, wanted]:
            raise UserError(f"{question!r} is answered {found}; expected twice {wanted!r}, nothing is published")


def main(argv=None):
    """Export one checkpoint as one version of each model; return the exit status."""
    args = parse_arguments(argv)
    base = args.export_base_path.rstrip("/")
    ids_base = f"{base}_ids"
    run, vocabulary, model = saved_run.load(args.checkpoint_dir)
    texts = np.array([question.encode() for question in (*run["questions"], *ODD_QUESTIONS)], object)
    version = args.model_version or max(publish.destination(path).next_version() for path in (base, ids_base))
    examples, ids_examples = example_inputs(vocabulary, texts)
    with (
        publish.publish(base, version, origin(run), examples, overwrite=args.overwrite) as version_of_texts,
        publish.publish(ids_base, version, origin(run), ids_examples, overwrite=args.overwrite) as version_of_ids,
    ):
        staging, ids_staging = version_of_texts.staging, version_of_ids.staging
        write_saved_models(model, vocabulary, staging, ids_staging)
        check_saved_models(model, vocabulary, staging, ids_staging, texts)
    print(f"Checkpoint and both SavedModels give the same answers to {len(texts)} questions")
    for published in (version_of_texts, version_of_ids):
        print(f"Exported {args.checkpoint_dir} to {published.directory}")
    return 0


def example_inputs(vocabulary, texts):
    """Return the inputs by which both models are shown to treat rows independently."""
    inputs = ({TEXT_KEY: texts}, {IDS_KEY: vocabulary.encode(texts)})
    return [[publish.ExampleInputs(DEFAULT_SIGNATURE, each)] for each in inputs]


def origin(run):
    """Return where both models come from, for model.json."""
    return {key: run.get(key) for key in ("dataset", "answered", "flags")}


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--checkpoint_dir", default="checkpoints/seq2seq", help="what to export")
    publish.add_flags(parser, base_path="exports/seq2seq")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
