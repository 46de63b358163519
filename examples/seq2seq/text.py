"""The rules by which sentences become words and words sentences, for Python and for the graph. No TensorFlow.

The rules are applied in Python by vocabulary.py and in the graph by text_model.py.
"""

import re

# Words of a question, and words and punctuation marks of an answer including its end.
MAX_WORDS, MAX_REPLY = 20, 20
# The first lines of the vocabularies. The end of an answer also pads it, and starts the decoder.
PAD, UNKNOWN = range(2)
END = 0
QUESTION_SPECIALS, ANSWER_SPECIALS = ("<pad>", "<unknown>"), ("<end>",)
# The keys of the signatures: with sentences, and with ids.
TEXT_KEY, REPLY_KEY = "text", "reply"
IDS_KEY, REPLY_IDS_KEY = "ids", "reply_ids"

SILENCE_REPLY = "Please say something."
UNKNOWN_REPLY = "Sorry, I know none of these words."
NOT_UTF8 = "text is not valid UTF-8; expected a sentence"
TOO_LONG = f"text has more than {MAX_WORDS} words; expected a shorter sentence"

# Substitutions in a question whose A-Z are already lower case: (pattern, replacement), which Python's re and
# TensorFlow's RE2 read alike. "What's" and "whats" are one word; punctuation and spaces, ASCII and Unicode, separate
# words; letters other than a-z stay, and make the word an unknown one.
QUESTION_RULES = (("['\u2019]", ""), ("[\\x00-/:-`{-\u00bf\u2000-\u206f\u3000-\u303f\ufeff]+", " "))
# Punctuation marks are words of an answer; in its sentence they follow the word before without a space.
SPLIT_MARKS, JOIN_MARKS = (r"([.,:!?])( |$)", r" \1\2"), (r" ([.,:!?])", r"\1")


class InvalidText(ValueError):
    """A question that cannot be answered; the message says what was expected."""


def question_words(text):
    """Return the words of a question, bytes; raise InvalidText if it is too long or not valid UTF-8."""
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
    """Return the words and punctuation marks of an answer."""
    return re.sub(*SPLIT_MARKS, text).split(" ")


def join_words(words):
    """Return the sentence made of the words and punctuation marks of an answer."""
    return re.sub(*JOIN_MARKS, " ".join(words))
