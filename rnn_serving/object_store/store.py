"""A base path in an object store, by fsspec, which is imported when it is needed: it is an extra."""

import contextlib

from rnn_serving import exports
from rnn_serving.command_line import error_reason

# Schemes -> the extra of this project that installs their back-end.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
# What tells one content of an object from the next, by the names that the back-ends give it.
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "updated", "modified", "mtime")


class StoreError(exports.ExportError):
    """A store that does not answer, refuses, or does not have what was expected."""


def is_remote(path):
    """Return whether a path is a URI of another scheme than file."""
    return exports.uri_scheme(path) not in (None, "file")


def require_backend(uri):
    """Import fsspec's back-end for a URI. Starts no thread: the process may still fork.

    Raises: StoreError if it is not installed, if there is none, or if the URI names nothing.
    """
    scheme = exports.uri_scheme(uri)
    try:
        import fsspec

        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise StoreError(f"{uri}: {error.__cause__ or error}; expected {_what_to_install(scheme, error)}") from error
    except ValueError as error:
        raise StoreError(
            f"{uri}: unknown scheme {scheme!r}; expected a path, file://, s3://, gs:// or another scheme of fsspec"
        ) from error
    if not uri.removeprefix(f"{scheme}://").strip("/"):
        raise StoreError(f"{uri}: expected {scheme}://<bucket>/<path of the model>")


def _what_to_install(scheme, error):
    if scheme in _EXTRAS:
        return f"pip install -e '.[{_EXTRAS[scheme]}]'"
    return "pip install fsspec" if error.name == "fsspec" else str(error)


class Store:
    """A base path at a store. Not for use before a fork, nor in the thread of an event loop."""

    def __init__(self, uri):
        """Prepare to use `uri`; nothing is sent yet."""
        self.uri = uri.rstrip("/")
        self._opened = None

    def listing(self):
        """Return {name: {file: [size in bytes or None, stamp]}} of the directories under the base path.

        A stamp changes when the file's content does. Names and files are in order; {} if there is nothing.
        Raises: StoreError.
        """
        with self._errors(expected="a store that lists it"):
            file_system, base = self._open()
            found = file_system.find(base, detail=True)
        directories = {}
        for path, info in sorted(found.items()):
            name, slash, file = path.removeprefix(base).lstrip("/").partition("/")
            if not slash:
                continue  # an object beside the directories, or one that stands for the base path
            files = directories.setdefault(name, {})
            if file and not file.endswith("/"):  # such an object stands for an empty directory
                files[file] = [info.get("size"), " ".join(str(info[key]) for key in _STAMPS if info.get(key))]
        return directories

    def download(self, file, path):
        """Copy a file, named relative to the base path, to a local `path`. Raises: StoreError."""
        with self._errors(file, "to download it"):
            file_system, base = self._open()
            path.parent.mkdir(parents=True, exist_ok=True)
            file_system.get_file(f"{base}/{file}", str(path))

    def upload(self, path, file):
        """Copy a local `path` to a file. Raises: StoreError."""
        self._write(file, lambda file_system, target: file_system.put_file(str(path), target))

    def create(self, file, content):
        """Write a file that must not exist yet; of several writers, one succeeds if the store can tell.

        Raises: FileExistsError, StoreError.
        """
        self._write(file, lambda file_system, target: file_system.pipe_file(target, content, mode="create"))

    def remove(self, file):
        """Remove a file. Raises: StoreError."""
        with self._errors(file, "to remove it"):
            file_system, base = self._open()
            file_system.rm_file(f"{base}/{file}")

    def _write(self, file, write):
        with self._errors(file, "to write there"):
            file_system, base = self._open()
            target = f"{base}/{file}"
            try:
                write(file_system, target)
            except FileNotFoundError:  # a back-end with real directories
                if exports.uri_scheme(self.uri) in _EXTRAS:
                    raise  # these have none: makedirs would create the bucket
                file_system.makedirs(target.rpartition("/")[0], exist_ok=True)
                write(file_system, target)

    def _open(self):
        """Return fsspec's file system and the base path in it; credentials and end point are the back-end's own."""
        if not self._opened:
            from fsspec.core import url_to_fs

            # A listing that is remembered would hide new versions; an instance that is shared, new credentials.
            self._opened = url_to_fs(self.uri, use_listings_cache=False, skip_instance_cache=True)
        return self._opened

    @contextlib.contextmanager
    def _errors(self, file="", expected=""):
        """Turn the errors of back-ends, which have no class in common, into StoreErrors."""
        try:
            yield
        except FileExistsError:
            raise
        except Exception as error:
            if isinstance(error, PermissionError):
                self._opened = None  # credentials may have been replaced
            place = f"{self.uri}/{file}" if file else self.uri
            reason = error_reason(getattr(error, "strerror", None) or error).rstrip(".")
            raise StoreError(f"{place}: {reason}; expected {expected}") from error
