"""The modules to export: the network with the text work around it, and the network alone.

The text work follows the rules in text.py with ops that every TensorFlow server has; the vocabularies are assets.
"""

from pathlib import Path

from examples.seq2seq import text
from examples.seq2seq.model import IDS_SPEC
from examples.seq2seq.text import REPLY_IDS_KEY, REPLY_KEY, TEXT_KEY
from examples.seq2seq.vocabulary import ANSWER_FILE, QUESTION_FILE
from rnn_serving.quiet_tensorflow import tf


class TextModel(tf.Module):
    """Sentences in, sentences out: `Vocabulary.reply` with TensorFlow's ops, around the network."""

    def __init__(self, model, directory):
        """Read the vocabularies from two files in `directory`, which saving copies as assets."""
        super().__init__()
        line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        questions, answers = (str(Path(directory) / name) for name in (QUESTION_FILE, ANSWER_FILE))
        self.model = model
        self.question_ids = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(questions, tf.string, line, tf.int64, number), text.UNKNOWN
        )
        self.answer_words = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(answers, tf.int64, number, tf.string, line), ""
        )

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, TEXT_KEY)], autograph=False)
    def reply(self, texts):
        """Return {"reply": string (N,)} for strings (N,)."""
        ids = self.encode(tf.ensure_shape(texts, (None,)))
        replies = self.decode(self.model(ids))
        replies = tf.where(tf.reduce_any(ids > text.UNKNOWN, axis=1), replies, text.UNKNOWN_REPLY)
        return {REPLY_KEY: tf.where(tf.reduce_any(ids != text.PAD, axis=1), replies, text.SILENCE_REPLY)}

    def encode(self, texts):
        """Return ids, int32 (N, MAX_WORDS); InvalidArgumentError if a text is too long or not valid UTF-8."""
        # Transcoding puts a replacement character in the place of invalid bytes.
        is_utf8 = tf.equal(texts, tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace"))
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_utf8), [text.NOT_UTF8])]):
            texts = tf.strings.lower(texts)
        for pattern, replacement in text.QUESTION_RULES:
            texts = tf.strings.regex_replace(texts, pattern, replacement)
        words = tf.strings.split(texts)
        is_short = words.row_lengths() <= text.MAX_WORDS
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_short), [text.TOO_LONG])]):
            ids = words.with_values(tf.cast(self.question_ids.lookup(words.values), tf.int32))
        return ids.to_tensor(text.PAD, shape=(None, text.MAX_WORDS))

    def decode(self, ids):
        """Return the sentences, string (N,), with the given ids, int32 (N, MAX_REPLY)."""
        words = tf.where(tf.equal(ids, text.END), "", self.answer_words.lookup(tf.cast(ids, tf.int64)))
        sentences = tf.strings.strip(tf.strings.reduce_join(words, axis=1, separator=" "))
        return tf.strings.regex_replace(sentences, *text.JOIN_MARKS)


class IdsModel(tf.Module):
    """Ids in, ids out: the network alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @tf.function(input_signature=[IDS_SPEC], autograph=False)
    def reply(self, ids):
        """Return {"reply_ids": int32 (N, MAX_REPLY)} for int32 (N, MAX_WORDS)."""
        return {REPLY_IDS_KEY: self.model(tf.ensure_shape(ids, IDS_SPEC.shape))}
