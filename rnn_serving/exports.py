"""Find and publish version directories, `<base>/<version>/saved_model.pb`. Does not import TensorFlow."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from rnn_serving.command_line import UserError

SAVED_MODEL_FILE = "saved_model.pb"
SAVED_MODEL_FILES = (SAVED_MODEL_FILE, "saved_model.pbtxt")
PROVENANCE_FILE = "assets.extra/model.json"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


_URI = re.compile(r"([a-zA-Z][0-9a-zA-Z.]*)://([^/]*)(.*)", re.DOTALL)


class ExportError(UserError):
    """A version that is missing, is broken or exists already."""


class VersionExistsError(ExportError):
    """A version that exists and may not be replaced."""


def uri_scheme(path):
    """Return the scheme of a URI such as gs://bucket/model, None for a path."""
    uri = _URI.fullmatch(str(path))
    return uri and uri[1]


def local_path(path):
    """Return the path that a file:// URI names; other paths stay as they are."""
    return (uri_scheme(path) == "file" and _URI.fullmatch(path)[3]) or path


def version_number(path):
    """Return the version in a directory's name, a positive int, or None."""
    name = Path(path).name
    is_number = name.isascii() and name.isdigit() and len(name.lstrip("0")) < 20
    return int(name) if is_number and 0 < int(name) < 2**63 else None


def version_path(path):
    """Return the absolute path that names a version: `path` as it is, or where it links to if it is not a number."""
    path = Path(os.path.abspath(path))
    return path if version_number(path) else path.resolve()


def is_version(path):
    """Return whether a path is a version directory."""
    return bool(version_number(version_path(path))) and has_saved_model(path)


def has_saved_model(directory):
    """Return whether a directory has a SavedModel, binary or as text."""
    return any((Path(directory) / name).exists() for name in SAVED_MODEL_FILES)


def versions(base):
    """Return {version: directory} of the published versions under `base`, ascending."""
    base = Path(base)
    # Sorted: of 001 and 1 the last one counts, as in TensorFlow Serving.
    children = sorted(base.iterdir()) if base.is_dir() else ()
    found = {version_number(path): path for path in children if has_saved_model(path)}
    return dict(sorted((version, path) for version, path in found.items() if version))


def newest(path):
    """Return the directory of the newest version under `path`, or `path` itself if it is a version directory.

    Raises: ExportError if there is no version.
    """
    path = Path(path)
    if is_version(path):
        return path
    found = versions(path)
    if not found:
        raise ExportError(
            f"{path}: no exported model; expected {path}/<version>/{SAVED_MODEL_FILE}, "
            "as export_savedmodel.py writes it"
        )
    return found[max(found)]


def next_version(base):
    """Return the number after the highest version directory under `base`, complete or not; 1 if there is none."""
    children = Path(base).iterdir() if Path(base).is_dir() else ()
    return max((version_number(path) or 0 for path in children), default=0) + 1


def check_version_free(base, version=None, overwrite=False):
    """Raise ExportError if a version exists and may not be replaced, or if `base` is not a directory.

    A `version` of None, which stands for the next free one, always passes.
    """
    if Path(base).exists() and not Path(base).is_dir():
        raise ExportError(f"{base} is a file; expected a directory of versions, existing or new")
    target = Path(base) / str(version)
    if version and target.exists() and not overwrite:
        raise _exists(target)


@contextlib.contextmanager
def staging_directory(base, version, overwrite=False):
    """Yield a staging directory to fill, and rename it to `<base>/<version>` after the body.

    The version appears whole or not at all: the name of the staging directory is not a number, so no server loads it,
    and it is removed if the body raises.
    Raises: ExportError if the version exists and may not be replaced; checked before and after the body.
    """
    base = Path(base)
    target = base / str(version)
    if target.exists() and not overwrite:
        raise _exists(target)
    with temporary_directory(base) as staging:
        yield staging
        put_in_place(staging, target, overwrite)


@contextlib.contextmanager
def temporary_directory(base):
    """Yield a new directory under `base` that no server takes for a version; remove what is left of it at the end."""
    base = Path(base)
    base.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix="staging-", dir=base))
    staging.chmod(0o755)  # mkdtemp's 0700 would keep out a server that runs as another user
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging, target, overwrite=False):
    """Rename a filled staging directory to a version directory.

    Raises: VersionExistsError if that exists and may not be replaced.
    """
    if target.exists() and overwrite:
        _replace(target, staging)
        return
    try:
        staging.rename(target)
    except OSError as error:
        if target.exists():
            raise _exists(target) from error
        raise


def _replace(target, staging):
    """Rename `staging` to `target` and remove the version that was there; restore it if the rename fails."""
    retired = staging.with_name(staging.name + "-retired")
    target.rename(retired)
    try:
        staging.rename(target)
    except OSError:
        retired.rename(target)
        raise
    shutil.rmtree(retired)


def _exists(target):
    return VersionExistsError(f"{target} exists; expected a new --model_version, or --overwrite to replace it")


def provenance(directory):
    """Return the origin that a version records: model, data set, accuracy, flags; {} for exports of other programs."""
    try:
        found = json.loads((Path(directory) / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("dataset", {}), dict) else {}


def described_signature(origin, signature_name):
    """Return what the origin of a version says of a signature, {} if it says nothing or is not ours."""
    signatures = origin.get("signatures")
    found = signatures.get(signature_name) if isinstance(signatures, dict) else None
    return found if isinstance(found, dict) and isinstance(found.get("logits", []), list) else {}


def directory_size(path):
    """Return the size of all files under `path` in bytes."""
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
