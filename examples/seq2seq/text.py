"""Sentences to numbers and back, in Python: the text work of the pipeline, and what the graph is held to.

The graph's twin is `TextModel` in text_model.py; both follow the patterns and the tables written here. No TensorFlow.
"""

import re
from pathlib import Path

import numpy as np

from rnn_serving.command_line import UserError

# Words of a question, and words and signs of an answer, its end included.
MAX_WORDS, MAX_REPLY = 20, 20
# The first lines of the vocabularies. The end of an answer is its padding too, and what its first word follows.
PAD, UNKNOWN = range(2)
END = 0
QUESTION_SPECIALS, ANSWER_SPECIALS = ("<pad>", "<unknown>"), ("<end>",)
# The signatures' keys: of sentences, and of numbers.
TEXT_KEY, REPLY_KEY = "text", "reply"
IDS_KEY, REPLY_IDS_KEY = "ids", "reply_ids"
# The vocabularies: assets of the monolithic model, files in assets.extra/ beside the other.
QUESTION_FILE, ANSWER_FILE = "question_words.txt", "answer_words.txt"

SILENCE_REPLY = "Please say something."
UNKNOWN_REPLY = "Sorry, I know none of these words."
NOT_UTF8 = "text is no UTF-8; expected a sentence"
TOO_LONG = f"text has more than {MAX_WORDS} words; expected a shorter sentence"

# What is done to a question whose A-Z have become a-z: (pattern, replacement), which Python's re and TensorFlow's RE2
# read alike. "What's" and "whats" are one word; ASCII's and Unicode's signs and spaces separate words; other letters
# than a-z stay, for they make a word that is unknown.
QUESTION_RULES = (("['\u2019]", ""), ("[\\x00-/:-`{-\u00bf\u2000-\u206f\u3000-\u303f\ufeff]+", " "))
# Signs are words of their own in an answer; afterwards they stick to the word before again.
SPLIT_SIGNS, JOIN_SIGNS = (r"([.,:!?])( |$)", r" \1\2"), (r" ([.,:!?])", r"\1")


class InvalidText(ValueError):
    """A question that has no answer; the message says what was expected."""


def question_words(text):
    """Return the words of a question, bytes; raise InvalidText for one that is too long or no UTF-8."""
    try:
        text = text.lower().decode()  # of bytes, `lower` changes A-Z only
    except UnicodeDecodeError as error:
        raise InvalidText(NOT_UTF8) from error
    for pattern, replacement in QUESTION_RULES:
        text = re.sub(pattern, replacement, text)
    words = [word for word in text.split(" ") if word]
    if len(words) > MAX_WORDS:
        raise InvalidText(TOO_LONG)
    return words


def answer_words(text):
    """Return the words and signs of an answer."""
    return re.sub(*SPLIT_SIGNS, text).split(" ")


def sentence(words):
    """Return the sentence that the words and signs of an answer make."""
    return re.sub(*JOIN_SIGNS, " ".join(words))


class Vocabulary:
    """The words of questions and of answers, each word's number being its place in the list."""

    def __init__(self, questions, answers):
        """Take two lists of words, the special ones first."""
        self.questions, self.answers = list(questions), list(answers)
        self._question_ids = {word: number for number, word in enumerate(self.questions)}
        self._answer_ids = {word: number for number, word in enumerate(self.answers)}

    @classmethod
    def of(cls, corpus):
        """Return the vocabulary of pairs of question and answer."""
        questions = {word for question, _ in corpus for word in question_words(question.encode())}
        answers = {word for _, answer in corpus for word in answer_words(answer)}
        return cls([*QUESTION_SPECIALS, *sorted(questions)], [*ANSWER_SPECIALS, *sorted(answers)])

    @classmethod
    def read(cls, directory):
        """Return what `write` wrote; raise UserError if it is not there."""
        try:
            files = [Path(directory, name).read_text(encoding="utf-8") for name in (QUESTION_FILE, ANSWER_FILE)]
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; expected what export.py wrote") from error
        return cls(*(text.splitlines() for text in files))

    def write(self, directory):
        """Write two files, one word a line."""
        for name, words in ((QUESTION_FILE, self.questions), (ANSWER_FILE, self.answers)):
            Path(directory, name).write_text("".join(f"{word}\n" for word in words), encoding="utf-8")

    def encode(self, texts):
        """Return int32 (N, MAX_WORDS), padded, of N questions, bytes; raise InvalidText if one has no answer."""
        ids = np.full((len(texts), MAX_WORDS), PAD, np.int32)
        for row, text in zip(ids, texts):
            words = question_words(text)
            row[: len(words)] = [self._question_ids.get(word, UNKNOWN) for word in words]
        return ids

    def encode_answers(self, answers):
        """Return int32 (N, MAX_REPLY), ended and padded, of N answers made of known words."""
        ids = np.full((len(answers), MAX_REPLY), END, np.int32)
        for row, answer in zip(ids, answers):
            words = answer_words(answer)
            row[: len(words)] = [self._answer_ids[word] for word in words]
        return ids

    def decode(self, ids):
        """Return the answer that a row of numbers, (MAX_REPLY,), stands for."""
        return sentence(self.answers[number] for number in ids if number != END)

    def reply(self, texts, ask):
        """Return the N answers to N questions, bytes.

        `ask(ids (n, MAX_WORDS)) -> (n, MAX_REPLY)` is the model, asked once, and only for questions with a known word.
        Raises: InvalidText, and what `ask` raises.
        """
        ids = self.encode(texts)
        replies = [SILENCE_REPLY if not row.any() else UNKNOWN_REPLY for row in ids]
        known = np.flatnonzero((ids > UNKNOWN).any(axis=1))
        if len(known):
            for row, answer in zip(known, ask(ids[known])):
                replies[row] = self.decode(answer)
        return replies
