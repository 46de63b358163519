"""Train the model on question and answer lines, corpus -> checkpoint.

    python -m examples.seq2seq.train --corpus examples/seq2seq/corpus.txt

A checkpoint appears when the training ends, together with run.json, which names it and has the vocabulary.
"""

import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from examples.seq2seq import text
from examples.seq2seq.corpus import content_hash, read_corpus
from examples.seq2seq.model import IDS_SPEC, Seq2Seq
from rnn_serving import checkpoint, command_line, environment, files
from rnn_serving.command_line import UserError, first_line
from rnn_serving.quiet_tensorflow import tf

CORPUS = Path(__file__).with_name("corpus.txt")


def main(argv=None):
    """Train, grade and write down one model; return the exit status."""
    args = parse_arguments(argv)
    corpus = read_corpus(args.corpus)
    vocabulary = text.Vocabulary.of(corpus)
    model = Seq2Seq(len(vocabulary.questions), len(vocabulary.answers), args.num_hidden, args.seed)
    print(f"{len(corpus)} pairs, {len(vocabulary.questions)} words of questions, {len(vocabulary.answers)} of answers")
    ask = tf.function(model, [IDS_SPEC], autograph=False)
    began = time.perf_counter()
    for step, loss in train(model, corpus, vocabulary, args):
        share = answered(lambda ids: ask(ids).numpy(), corpus, vocabulary)
        tqdm.write(f"Step {step}, Minibatch Loss= {loss:.4f}, Answered word for word= {share:.3f}")
    seconds = time.perf_counter() - began
    save(args, corpus, vocabulary, model, {"answered": share, "seconds": round(seconds, 1)})
    print(f"{args.training_steps} steps in {seconds:.1f} s; checkpoint and run.json are in {args.checkpoint_dir}")
    if share < args.min_answered:
        return command_line.fail(f"answered word for word: {share:.3f}; expected at least {args.min_answered}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--corpus", default=str(CORPUS), help="file with lines of question, tab and answer")
    parser.add_argument("--checkpoint_dir", default="checkpoints/seq2seq", help="where the checkpoint goes")
    parser.add_argument("--training_steps", type=command_line.positive_int, default=1000, help="optimizer steps")
    parser.add_argument("--batch_size", type=command_line.positive_int, default=64, help="pairs a step")
    parser.add_argument("--learning_rate", type=command_line.positive_float, default=0.005, help="first learning rate")
    parser.add_argument("--num_hidden", type=command_line.positive_int, default=128, help="units of each GRU")
    parser.add_argument(
        "--word_dropout", type=command_line.fraction, default=0.05, help="share of words shown as unknown ones"
    )
    parser.add_argument("--display_step", type=command_line.positive_int, default=100, help="steps between two lines")
    parser.add_argument("--seed", type=command_line.seed, default=0, help="of weights and data order")
    parser.add_argument(
        "--min_answered", type=command_line.fraction, default=0.0, help="share of answers below which to exit with 1"
    )
    return parser.parse_args(argv)


def train(model, corpus, vocabulary, args):
    """Train `model`; yield (step, loss of the last minibatch) every `--display_step` steps and at the end."""
    # Columns that no sentence is long enough for would only cost time.
    questions = without_blanks(vocabulary.encode([question.encode() for question, _ in corpus]))
    answers = without_blanks(vocabulary.encode_answers([answer for _, answer in corpus]), margin=1)
    optimizer = tf.keras.optimizers.Adam(
        tf.keras.optimizers.schedules.CosineDecay(args.learning_rate, args.training_steps), global_clipnorm=1.0
    )
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def train_step(ids, targets):
        with tf.GradientTape() as tape:
            loss = model.loss(ids, targets)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    random, order = np.random.default_rng(args.seed), np.array([], int)
    for step in tqdm(range(1, args.training_steps + 1), disable=None):
        while len(order) < args.batch_size:
            order = np.concatenate([order, random.permutation(len(corpus))])
        batch, order = order[: args.batch_size], order[args.batch_size :]
        ids, targets = questions[batch], answers[batch]
        # Words that are now and then unknown teach the model what to do about an unknown word.
        is_dropped = (random.random(ids.shape) < args.word_dropout) & (ids != text.PAD)
        ids = np.where(is_dropped, text.UNKNOWN, ids).astype(np.int32)
        loss = float(train_step(tf.constant(ids), tf.constant(targets)))
        if not np.isfinite(loss):
            raise UserError(f"step {step}: the loss is {loss}; expected a finite number, try a lower --learning_rate")
        if step % args.display_step == 0 or step == args.training_steps:
            yield step, loss


def without_blanks(ids, margin=0):
    """Return rows of numbers without the columns at the right that are blank in all, but for `margin` of them."""
    return ids[:, : ids.any(axis=0).sum() + margin]


def answered(ask, corpus, vocabulary):
    """Return the share of the questions that get their answer word for word from `ask(ids) -> ids`."""
    replies = vocabulary.reply([question.encode() for question, _ in corpus], ask)
    return float(np.mean([reply == answer for reply, (_, answer) in zip(replies, corpus)]))


def save(args, corpus, vocabulary, model, results):
    """Write a checkpoint under a new name, then run.json, which makes it the one that counts; delete older ones."""
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
        raise UserError(f"{directory}: {first_line(error)}; expected to write a checkpoint") from error
    files.write_json(directory / checkpoint.RUN_FILE, run)
    for path in directory.glob("ckpt-*"):
        if not path.name.startswith(run["checkpoint"] + "."):
            path.unlink()


if __name__ == "__main__":
    command_line.run(main)
