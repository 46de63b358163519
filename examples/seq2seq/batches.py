"""Draw the training batches from a corpus. No TensorFlow."""

import numpy as np

from examples.seq2seq import text


def draw_batches(corpus, vocabulary, batch_size, word_dropout, seed):
    """Yield ids of questions and of their answers, int32 (batch_size, widths of the longest), without end.

    `word_dropout` is the share of the questions' words that are replaced by the unknown word.
    """
    questions = trim_padding(vocabulary.encode([question.encode() for question, _ in corpus]))
    answers = trim_padding(vocabulary.encode_answers([answer for _, answer in corpus]), keep=1)
    random, order = np.random.default_rng(seed), np.array([], int)
    while True:
        while len(order) < batch_size:
            order = np.concatenate([order, random.permutation(len(corpus))])
        batch, order = order[:batch_size], order[batch_size:]
        ids, targets = questions[batch], answers[batch]
        # Words that are sometimes unknown teach the model to answer a sentence with an unknown word.
        is_dropped = (random.random(ids.shape) < word_dropout) & (ids != text.PAD)
        yield np.where(is_dropped, text.UNKNOWN, ids).astype(np.int32), targets


def trim_padding(ids, keep=0):
    """Return ids, (N, width), without the columns at the right that are padding in every row, except `keep` of them."""
    return ids[:, : ids.any(axis=0).sum() + keep]
