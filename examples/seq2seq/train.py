"""Train the model on lines of question and answer, corpus -> checkpoint.

    python -m examples.seq2seq.train --corpus examples/seq2seq/corpus.txt

A checkpoint and run.json, which has the vocabulary, are written when the training ends.
"""

import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from examples.seq2seq import saved_run
from examples.seq2seq.batches import draw_batches
from examples.seq2seq.corpus import read_corpus
from examples.seq2seq.model import IDS_SPEC, Seq2Seq
from examples.seq2seq.vocabulary import Vocabulary
from rnn_serving import command_line
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf

CORPUS = Path(__file__).with_name("corpus.txt")


def train(model, batches, steps, learning_rate):
    """Minimize the cross-entropy of the words of the answers; yield (step, loss) after each batch."""
    schedule = tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    # Clipping keeps a batch with steep gradients, which recurrent networks have, from undoing the training.
    train_step = compile_train_step(model, tf.keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    for step in tqdm(range(1, steps + 1), disable=None):
        ids, targets = next(batches)  # int32 (batch_size, longest question), (batch_size, longest answer)
        loss = float(train_step(tf.constant(ids), tf.constant(targets)))
        if not np.isfinite(loss):
            raise UserError(f"step {step}: the loss is {loss}; expected a finite number, try a lower --learning_rate")
        yield step, loss


def compile_train_step(model, optimizer):
    """Return `train_step(ids, targets) -> loss`, which updates the model by one batch."""
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def train_step(ids, targets):
        with tf.GradientTape() as tape:
            loss = model.loss(ids, targets)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return train_step


def share_answered(ask, corpus, vocabulary):
    """Return the share of the questions that `ask(ids) -> ids` answers word for word as the corpus does."""
    replies = vocabulary.reply([question.encode() for question, _ in corpus], ask)
    return float(np.mean([reply == answer for reply, (_, answer) in zip(replies, corpus)]))


def main(argv=None):
    """Train, grade and save one model; return the exit status."""
    args = parse_arguments(argv)
    corpus = read_corpus(args.corpus)
    vocabulary = Vocabulary.from_corpus(corpus)
    model = Seq2Seq(len(vocabulary.questions), len(vocabulary.answers), args.num_hidden, args.seed)
    print(f"{len(corpus)} pairs, {len(vocabulary.questions)} words of questions, {len(vocabulary.answers)} of answers")
    answer = tf.function(model, [IDS_SPEC], autograph=False)
    batches = draw_batches(corpus, vocabulary, args.batch_size, args.word_dropout, args.seed)
    began = time.perf_counter()
    for step, loss in train(model, batches, args.training_steps, args.learning_rate):
        if step % args.display_step == 0 or step == args.training_steps:
            share = share_answered(lambda ids: answer(ids).numpy(), corpus, vocabulary)
            tqdm.write(f"Step {step}, Minibatch Loss= {loss:.4f}, Answered word for word= {share:.3f}")
    seconds = time.perf_counter() - began
    saved_run.save(args, corpus, vocabulary, model, {"answered": share, "seconds": round(seconds, 1)})
    print(f"{args.training_steps} steps in {seconds:.1f} s; checkpoint and run.json are in {args.checkpoint_dir}")
    if share < args.min_answered:
        return command_line.fail(f"answered word for word: {share:.3f}; expected at least {args.min_answered}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    add, positive_int, fraction = parser.add_argument, command_line.positive_int, command_line.fraction
    add("--corpus", default=str(CORPUS), help="file with lines of question, tab and answer")
    add("--checkpoint_dir", default="checkpoints/seq2seq", help="directory of the checkpoint")
    add("--training_steps", type=positive_int, default=1000, help="optimizer steps")
    add("--batch_size", type=positive_int, default=64, help="pairs in a step")
    add("--learning_rate", type=command_line.positive_float, default=0.005, help="initial learning rate")
    add("--num_hidden", type=positive_int, default=128, help="units of each GRU")
    add("--word_dropout", type=fraction, default=0.05, help="share of question words shown as unknown")
    add("--display_step", type=positive_int, default=100, help="steps between printed lines")
    add("--seed", type=command_line.seed, default=0, help="seed of the weights and of the order of the data")
    add("--min_answered", type=fraction, default=0.0, help="exit with 1 below this share of answers word for word")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
