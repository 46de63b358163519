"""The error of an answer that came but does not count."""


class InvalidAnswer(Exception):
    """An answer with another status than that of success; the message has the status and what the server said."""
