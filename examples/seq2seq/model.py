"""The network: a GRU encodes the question; another one decodes the answer, with attention to the question."""

import math

from examples.seq2seq.text import END, MAX_REPLY, MAX_WORDS, PAD, UNKNOWN
from rnn_serving.quiet_tensorflow import tf

IDS_SPEC = tf.TensorSpec((None, MAX_WORDS), tf.int32, "ids")


class GRU(tf.Module):
    """A gated recurrent unit (Cho et al., 2014), with the reset gate after the matrix product, as in cuDNN."""

    def __init__(self, inputs, units, seed):
        super().__init__()
        self.kernel = tf.Variable(_glorot(inputs, 3 * units, (seed, 0)))
        self.recurrent_kernel = tf.Variable(_glorot(units, 3 * units, (seed, 1)))
        self.bias, self.recurrent_bias = (tf.Variable(tf.zeros(3 * units)) for _ in range(2))

    def __call__(self, x, state):
        """Return the next state, (N, units), from an input, (N, inputs), and the state."""
        update, reset, candidate = tf.split(tf.matmul(x, self.kernel) + self.bias, 3, axis=1)
        recurrent = tf.matmul(state, self.recurrent_kernel) + self.recurrent_bias
        recurrent_update, recurrent_reset, recurrent_candidate = tf.split(recurrent, 3, axis=1)
        update = tf.sigmoid(update + recurrent_update)
        candidate = tf.tanh(candidate + tf.sigmoid(reset + recurrent_reset) * recurrent_candidate)
        return update * state + (1 - update) * candidate


class Seq2Seq(tf.Module):
    """Ids of questions, int32 (N, MAX_WORDS), to ids of answers, int32 (N, MAX_REPLY)."""

    def __init__(self, num_question_words, num_answer_words, units=128, seed=0):
        """Create the variables for vocabularies of the given sizes; the same `seed` gives the same values."""
        super().__init__(name="seq2seq")
        self.num_question_words, self.units, embedding = num_question_words, units, units // 2
        self.question_embedding = tf.Variable(_glorot(num_question_words, embedding, (seed, 2)))
        self.answer_embedding = tf.Variable(_glorot(num_answer_words, embedding, (seed, 3)))
        self.encoder, self.decoder = GRU(embedding, units, seed), GRU(embedding, units, seed + 1)
        self.attention = tf.Variable(_glorot(units, units, (seed, 4)))
        self.combination = tf.Variable(_glorot(2 * units, units, (seed, 5)))
        self.output = tf.Variable(_glorot(units, num_answer_words, (seed, 6)))

    def encode(self, ids):
        """Return states after each word (N, width, units), the last state, and which ids (N, width) are words."""
        ids = tf.where((ids >= 0) & (ids < self.num_question_words), ids, UNKNOWN)
        words, states = tf.not_equal(ids, PAD), []
        state = tf.zeros((tf.shape(ids)[0], self.units))
        embedded = tf.unstack(tf.gather(self.question_embedding, ids), axis=1)
        for x, is_word in zip(embedded, tf.unstack(words, axis=1)):
            state = tf.where(is_word[:, None], self.encoder(x, state), state)
            states.append(state)
        return tf.stack(states, axis=1), state, words

    def decode(self, previous, state, states, words):
        """Return the logits of the next word, (N, answer words), and the next state, given the previous word, (N,)."""
        state = self.decoder(tf.gather(self.answer_embedding, previous), state)
        scores = tf.linalg.matvec(states, tf.matmul(state, self.attention))
        weights = tf.nn.softmax(tf.where(words, scores, -1e9))
        context = tf.linalg.matvec(states, weights, transpose_a=True)
        combined = tf.tanh(tf.matmul(tf.concat([state, context], axis=1), self.combination))
        return tf.matmul(combined, self.output), state

    def loss(self, ids, answers):
        """Return the mean cross-entropy of the answers' words, each given those before it; both may be narrower."""
        states, state, words = self.encode(ids)
        targets, logits, previous = tf.unstack(answers, axis=1), [], tf.fill(tf.shape(answers)[:1], END)
        for target in targets:
            step_logits, state = self.decode(previous, state, states, words)
            logits.append(step_logits)
            previous = target
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(answers, tf.stack(logits, axis=1))
        # Only the first padding counts: it is the end of the answer.
        counts = tf.cast(tf.concat([tf.ones_like(answers[:, :1]), answers[:, :-1]], axis=1) != END, tf.float32)
        return tf.reduce_sum(losses * counts) / tf.reduce_sum(counts)

    def __call__(self, ids):
        """Return the answers, int32 (N, MAX_REPLY), by greedy decoding until all have ended."""
        states, state, words = self.encode(ids)

        def write_word(step, previous, state, replies):
            logits, state = self.decode(previous, state, states, words)
            # An answer that has ended stays ended, whatever the others in the batch do.
            ended = (step > 0) & tf.equal(previous, END)
            word = tf.where(ended, END, tf.argmax(logits, axis=1, output_type=tf.int32))
            return step + 1, word, state, replies + word[:, None] * tf.one_hot(step, MAX_REPLY, dtype=tf.int32)

        def has_more(step, previous, *_):
            return tf.equal(step, 0) | tf.reduce_any(tf.not_equal(previous, END))

        count = tf.shape(ids)[0]
        empty = tf.fill([count, MAX_REPLY], END)  # zeros, to which each word is added in its place
        start = (0, tf.fill([count], END), state, empty)
        return tf.while_loop(has_more, write_word, start, maximum_iterations=MAX_REPLY)[-1]


def _glorot(rows, columns, seed):
    """Return a random (rows, columns) matrix that keeps the variance of its inputs (Glorot & Bengio, 2010)."""
    limit = math.sqrt(6 / (rows + columns))
    return tf.random.stateless_uniform((rows, columns), seed, -limit, limit)
