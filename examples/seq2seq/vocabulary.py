"""Sentences to ids and back, in Python: the text work of the pipeline, and the reference for the graph. No TensorFlow.

`TextModel` in text_model.py does the same with TensorFlow's ops.
"""

from pathlib import Path

import numpy as np

from examples.seq2seq.text import (
    ANSWER_SPECIALS,
    END,
    MAX_REPLY,
    MAX_WORDS,
    PAD,
    QUESTION_SPECIALS,
    SILENCE_REPLY,
    UNKNOWN,
    UNKNOWN_REPLY,
    answer_words,
    join_words,
    question_words,
)
from rnn_serving.command_line import UserError

# Assets of the monolithic model, files in assets.extra/ beside the network.
QUESTION_FILE, ANSWER_FILE = "question_words.txt", "answer_words.txt"


class Vocabulary:
    """The words of questions and of answers; the id of a word is its index in its list."""

    def __init__(self, questions, answers):
        """Take the words of questions and of answers, two lists, each with its special words first."""
        self.questions, self.answers = list(questions), list(answers)
        self._question_ids = {word: number for number, word in enumerate(self.questions)}
        self._answer_ids = {word: number for number, word in enumerate(self.answers)}

    @classmethod
    def from_corpus(cls, corpus):
        """Return the vocabulary of (question, answer) pairs."""
        questions = {word for question, _ in corpus for word in question_words(question.encode())}
        answers = {word for _, answer in corpus for word in answer_words(answer)}
        return cls([*QUESTION_SPECIALS, *sorted(questions)], [*ANSWER_SPECIALS, *sorted(answers)])

    @classmethod
    def read(cls, directory):
        """Return the vocabulary that `write` wrote; raise UserError if it is missing."""
        try:
            files = [Path(directory, name).read_text(encoding="utf-8") for name in (QUESTION_FILE, ANSWER_FILE)]
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; expected a file that export.py writes") from error
        return cls(*(text.splitlines() for text in files))

    def write(self, directory):
        """Write two files, one word a line."""
        for name, words in ((QUESTION_FILE, self.questions), (ANSWER_FILE, self.answers)):
            Path(directory, name).write_text("".join(f"{word}\n" for word in words), encoding="utf-8")

    def encode(self, texts):
        """Return padded ids, int32 (N, MAX_WORDS), of N questions, bytes; raise InvalidText if one is invalid."""
        ids = np.full((len(texts), MAX_WORDS), PAD, np.int32)
        for row, text in zip(ids, texts):
            words = question_words(text)
            row[: len(words)] = [self._question_ids.get(word, UNKNOWN) for word in words]
        return ids

    def encode_answers(self, answers):
        """Return padded ids, int32 (N, MAX_REPLY), of N answers whose words are all in the vocabulary."""
        ids = np.full((len(answers), MAX_REPLY), END, np.int32)
        for row, answer in zip(ids, answers):
            words = answer_words(answer)
            row[: len(words)] = [self._answer_ids[word] for word in words]
        return ids

    def decode(self, ids):
        """Return the answer with the given ids, (MAX_REPLY,)."""
        return join_words(self.answers[number] for number in ids if number != END)

    def reply(self, texts, ask):
        """Return the N answers to N questions, bytes.

        `ask(ids (n, MAX_WORDS)) -> (n, MAX_REPLY)` is the model, called once with the questions that have a known word.
        Raises: InvalidText, and what `ask` raises.
        """
        ids = self.encode(texts)
        replies = [SILENCE_REPLY if not row.any() else UNKNOWN_REPLY for row in ids]
        known = np.flatnonzero((ids > UNKNOWN).any(axis=1))
        if len(known):
            for row, answer in zip(known, ask(ids[known])):
                replies[row] = self.decode(answer)
        return replies
