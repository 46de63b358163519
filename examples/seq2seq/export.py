"""Export the checkpoint twice, checkpoint -> exports/seq2seq/<version>/ and exports/seq2seq_ids/<version>/.

    python -m examples.seq2seq.export

The first is monolithic: strings in and out, text work and vocabularies inside. The second is the network alone, numbers
in and out, for the pipeline. Both appear whole or not at all, and only if they answer as the checkpoint does.
"""

import contextlib
from pathlib import Path

import numpy as np

from examples.seq2seq import text
from examples.seq2seq.model import Seq2Seq
from examples.seq2seq.text import IDS_KEY, REPLY_IDS_KEY, REPLY_KEY, TEXT_KEY
from examples.seq2seq.text_model import IdsModel, TextModel
from rnn_serving import checkpoint, command_line, exports, files, saved_model
from rnn_serving.command_line import UserError, first_line
from rnn_serving.quiet_tensorflow import tf

# What is asked before publishing, besides all questions of the corpus.
ODD_QUESTIONS = ("", "?!", "xyzzy", "HOW are \u2018you\u2019", "hello xyzzy", "caf\u00e9\u3000hello", 20 * "you ")


def main(argv=None):
    """Export one checkpoint as one version of each model; return the exit status."""
    args = parse_arguments(argv)
    base, ids_base = Path(args.export_base_path), Path(f"{args.export_base_path}_ids")
    run, vocabulary, model = load(args.checkpoint_dir)
    version = args.model_version or max(exports.next_version(base), exports.next_version(ids_base))
    with contextlib.ExitStack() as published_together:
        staging, ids_staging = (
            published_together.enter_context(exports.publishing(path, version, args.overwrite))
            for path in (base, ids_base)
        )
        try:
            write(staging, ids_staging, model, vocabulary)
        except tf.errors.OpError as error:
            raise UserError(f"{staging}: {first_line(error)}; expected to write an export there") from error
        for path, directory in ((base, staging), (ids_base, ids_staging)):
            write_provenance(directory, path.resolve().name, version, run)
        questions = check(staging, ids_staging, model, vocabulary, run["questions"])
    print(f"Checkpoint and both SavedModels give the same answers to {questions} questions")
    for path in (base, ids_base):
        print(f"Exported {args.checkpoint_dir} to {path / str(version)}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--checkpoint_dir", default="checkpoints/seq2seq", help="what to export")
    parser.add_argument(
        "--export_base_path", default="exports/seq2seq", help="directory of the versions; <it>_ids is the other one"
    )
    parser.add_argument(
        "--model_version", type=command_line.version_number, help="number to publish (default: the next one)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the version if it exists")
    return parser.parse_args(argv)


def load(directory):
    """Return (run.json, vocabulary, model) that train.py left in a directory; raise UserError if they are not there."""
    if not (Path(directory) / checkpoint.RUN_FILE).exists():
        raise UserError(f"{directory}: no checkpoint; expected what `python -m examples.seq2seq.train` writes")
    run = checkpoint.read_run(directory)
    try:
        vocabulary = text.Vocabulary(run["question_words"], run["answer_words"])
        model = Seq2Seq(len(vocabulary.questions), len(vocabulary.answers), run["flags"]["num_hidden"])
        reader = tf.train.Checkpoint(model=model).read(str(Path(directory) / run["checkpoint"]))
        reader.assert_existing_objects_matched().expect_partial()
    except (*checkpoint.READ_ERRORS, AssertionError, TypeError) as error:
        raise checkpoint.unreadable(directory, error) from error
    return run, vocabulary, model


def write(staging, ids_staging, model, vocabulary):
    """Write the SavedModels into the directories; the pipeline finds the vocabularies beside the network."""
    beside = ids_staging / exports.PROVENANCE_FILE
    beside.parent.mkdir()
    vocabulary.write(beside.parent)
    for module, directory in ((TextModel(model, beside.parent), staging), (IdsModel(model), ids_staging)):
        tf.saved_model.save(module, str(directory), {saved_model.DEFAULT_SIGNATURE: module.reply})


def write_provenance(directory, name, version, run):
    """Write down beside the model where it comes from."""
    told = {key: run.get(key) for key in ("dataset", "answered", "flags", "versions")}
    files.write_json(directory / exports.PROVENANCE_FILE, {"model": name, "version": version, **told})


def check(staging, ids_staging, model, vocabulary, questions):
    """Return how many questions were asked of checkpoint and SavedModels; raise UserError unless all answers agree."""
    texts = np.array([question.encode() for question in (*questions, *ODD_QUESTIONS)], object)
    expected = vocabulary.reply(texts, lambda ids: model(ids).numpy())
    with contextlib.closing(saved_model.load(ids_staging)) as loaded:
        call = loaded.signatures[saved_model.DEFAULT_SIGNATURE]
        by_pipeline = vocabulary.reply(texts, lambda ids: call({IDS_KEY: ids})[REPLY_IDS_KEY])
    with contextlib.closing(saved_model.load(staging)) as loaded:
        replies = loaded.signatures[saved_model.DEFAULT_SIGNATURE]({TEXT_KEY: texts})[REPLY_KEY]
    for question, wanted, *got in zip(texts, expected, by_pipeline, (reply.decode() for reply in replies)):
        if got != [wanted] * 2:
            raise UserError(f"{question!r} is answered {got}; expected twice {wanted!r}, nothing is published")
    return len(texts)


if __name__ == "__main__":
    command_line.run(main)
