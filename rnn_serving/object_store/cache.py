"""The directory of all mirrors on this machine: where it is, what is in it, and whose turn it is to write there."""

import contextlib
import fcntl
import hashlib
import os
import re
from pathlib import Path

from rnn_serving.object_store.store import StoreError

DIRECTORY_VARIABLE = "RNN_SERVING_CACHE_DIR"
# Environment variables that let the same URI name another store.
_ENDPOINTS = re.compile(r"ENDPOINT_URL|EMULATOR_HOST|AWS_PROFILE")


def directory():
    """Return the directory of all mirrors. Raises: StoreError if it depends on a home directory that is unknown."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = os.environ.get(DIRECTORY_VARIABLE) or f"{caches}/rnn-serving"
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # a user without HOME and without an entry in passwd, as in containers
        raise _unusable(path, str(error).rstrip(".")) from error


def require_writable():
    """Raise StoreError unless mirrors can be written."""
    cache = directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(cache, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise _unusable(cache, reason)


def _unusable(path, reason):
    return StoreError(f"{path}: {reason}; expected to keep models there, {DIRECTORY_VARIABLE} names another place")


def mirror_name(uri, policy):
    """Return the name of a mirror, readable, and unique for a URI at a store with a policy."""
    endpoints = sorted(item for item in os.environ.items() if _ENDPOINTS.search(item[0]))
    digest = hashlib.sha256(repr((uri, policy, endpoints)).encode()).hexdigest()
    return re.sub(r"[^A-Za-z0-9.]+", "-", uri)[-100:].strip("-.") + "-" + digest[:12]


@contextlib.contextmanager
def try_lock(path):
    """Yield whether this process got the lock of a file; it ends with the body, or with the process."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
