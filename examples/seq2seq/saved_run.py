"""What training leaves behind, and export reads: a checkpoint and run.json with the vocabulary."""

from pathlib import Path

from examples.seq2seq.corpus import content_hash
from examples.seq2seq.model import Seq2Seq
from examples.seq2seq.vocabulary import Vocabulary
from rnn_serving import checkpoint, environment, files
from rnn_serving.command_line import UserError, error_reason
from rnn_serving.quiet_tensorflow import tf


def save(args, corpus, vocabulary, model, results):
    """Write a checkpoint under a new name, then run.json, which names the checkpoint; delete older checkpoints."""
    directory = Path(args.checkpoint_dir)
    number = int((checkpoint.newest(directory) or "ckpt-0").rsplit("-", 1)[1]) + 1
    run = {
        "checkpoint": f"ckpt-{number}",
        "flags": vars(args),
        "dataset": {"name": Path(args.corpus).stem, "hash": content_hash(corpus), "pairs": len(corpus)},
        **results,
        "questions": [question for question, _ in corpus],
        "question_words": vocabulary.questions,
        "answer_words": vocabulary.answers,
        "versions": environment.versions(),
    }
    try:
        tf.train.Checkpoint(model=model).write(str(directory / run["checkpoint"]))
    except tf.errors.OpError as error:
        raise UserError(f"{directory}: {error_reason(error)}; expected to write a checkpoint") from error
    files.write_json(directory / checkpoint.RUN_FILE, run)
    for path in directory.glob("ckpt-*"):
        if not path.name.startswith(run["checkpoint"] + "."):
            path.unlink()


def load(directory):
    """Return (contents of run.json, vocabulary, model) that `save` wrote; raise UserError if they are missing."""
    if not (Path(directory) / checkpoint.RUN_FILE).exists():
        raise UserError(f"{directory}: no checkpoint; expected one that `python -m examples.seq2seq.train` writes")
    run = checkpoint.read_run(directory)
    try:
        vocabulary = Vocabulary(run["question_words"], run["answer_words"])
        model = Seq2Seq(len(vocabulary.questions), len(vocabulary.answers), run["flags"]["num_hidden"])
        status = tf.train.Checkpoint(model=model).read(str(Path(directory) / run["checkpoint"]))
        status.assert_existing_objects_matched().expect_partial()
    except (*checkpoint.READ_ERRORS, AssertionError, TypeError) as error:
        raise checkpoint.unreadable(directory, error) from error
    return run, vocabulary, model
