"""The corpus: lines of a question, a tab and its answer. No TensorFlow."""

import hashlib
from pathlib import Path

from examples.seq2seq import text
from rnn_serving.command_line import UserError

EXPECTED = "expected lines of question, tab and answer"


def read_corpus(path):
    """Return the (question, answer) pairs of a file; raise UserError with the first line that is invalid."""
    corpus, seen = [], {}
    for number, line in enumerate(_read_lines(path), 1):
        question, tab, answer = line.partition("\t")
        try:
            words = tuple(text.question_words(question.encode()))
            if not tab or not words:
                raise text.InvalidText(EXPECTED)
            if seen.setdefault(words, number) != number:
                raise text.InvalidText(f"asks the same as line {seen[words]}; expected each question once")
            check_answer(answer)
        except text.InvalidText as error:
            raise UserError(f"{path}, line {number}, {line[:60]!r}: {error}") from error
        corpus.append((question, answer))
    return corpus


def check_answer(answer):
    """Raise InvalidText for an answer that the model could not write word for word."""
    words = text.answer_words(answer)
    if len(words) >= text.MAX_REPLY:
        raise text.InvalidText(
            f"the answer has {len(words)} words and punctuation marks; expected at most {text.MAX_REPLY - 1}"
        )
    if text.join_words(words) != answer or not all(words) or set(words) & set(text.ANSWER_SPECIALS) or "\t" in answer:
        raise text.InvalidText(
            "the answer is not a plain sentence; expected one space between words, none before punctuation"
        )


def content_hash(corpus):
    """Return the SHA-256 of a corpus's pairs, hexadecimal."""
    return hashlib.sha256("\n".join("\t".join(pair) for pair in corpus).encode()).hexdigest()


def _read_lines(path):
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid UTF-8; {EXPECTED}") from error
    if not lines:
        raise UserError(f"{path}: empty; {EXPECTED}")
    return lines
