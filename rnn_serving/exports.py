"""Version directories, `<base>/<version>/saved_model.pb`: finding and publishing them. No TensorFlow."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from rnn_serving.command_line import UserError

SAVED_MODEL_FILE = "saved_model.pb"
PROVENANCE_FILE = "assets.extra/model.json"


class ExportError(UserError):
    """A version that is missing, broken or there already."""


def version_number(path):
    """Return the version a directory's name stands for, a positive int, or None."""
    name = Path(path).name
    is_number = name.isascii() and name.isdigit() and len(name.lstrip("0")) < 20
    return int(name) if is_number and 0 < int(name) < 2**63 else None


def is_version(path):
    """Return whether a path is the directory of one version."""
    return bool(version_number(Path(path).resolve())) and (Path(path) / SAVED_MODEL_FILE).exists()


def versions(base):
    """Return {version: directory} of the published versions under `base`, ascending."""
    base = Path(base)
    children = base.iterdir() if base.is_dir() else ()
    found = {version_number(path): path for path in children if (path / SAVED_MODEL_FILE).exists()}
    return dict(sorted((version, path) for version, path in found.items() if version))


def newest(path):
    """Return the directory of the newest version under `path`, or `path` itself where that is a version.

    Raises: ExportError if there is none.
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
    """Return the number after the highest that a child of `base` has, 1 where there is none."""
    children = Path(base).iterdir() if Path(base).is_dir() else ()
    return max((version_number(path) or 0 for path in children), default=0) + 1


def free_version(base, version=None, overwrite=False):
    """Return the number to publish: `version`, or without one the next.

    Raises: ExportError if there is such a version and it may not be replaced, or if `base` is no directory.
    """
    if Path(base).exists() and not Path(base).is_dir():
        raise ExportError(f"{base} is a file; expected a directory of versions, there or to be made")
    target = Path(base) / str(version or next_version(base))
    if target.exists() and not overwrite:
        raise _exists(target)
    return int(target.name)


@contextlib.contextmanager
def publishing(base, version, overwrite=False):
    """Give the body a directory to fill, and rename it to `<base>/<version>` when the body is done.

    The version appears whole or, if the body raises, not at all: the staging directory's name is no number, so no
    server takes it for a version, and it is removed.
    Raises: ExportError if the version exists and may not be replaced, before the body or, if it came meanwhile, after.
    """
    base = Path(base)
    target = base / str(version)
    if target.exists() and not overwrite:
        raise _exists(target)
    base.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"staging-{version}-", dir=base))
    staging.chmod(0o755)  # mkdtemp's 0700 would keep out a server that runs as another user
    try:
        yield staging
        if target.exists() and overwrite:
            _replace(target, staging)
        else:
            _rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _rename(staging, target):
    try:
        staging.rename(target)
    except OSError as error:
        if target.exists():
            raise _exists(target) from error
        raise


def _replace(target, staging):
    """Put `staging` in the place of `target`, and what was there into `staging`, to be removed with it."""
    retired = staging.with_name(staging.name + "-retired")
    target.rename(retired)
    try:
        staging.rename(target)
    except OSError:
        retired.rename(target)
        raise
    shutil.rmtree(retired)


def _exists(target):
    return ExportError(f"{target} exists; expected a new --model_version, or --overwrite to replace it")


def provenance(directory):
    """Return what a version says of its origin: model, data set, accuracy, flags ({} for exports of others)."""
    try:
        found = json.loads((Path(directory) / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("dataset", {}), dict) else {}


def directory_size(path):
    """Return the bytes of all files below `path`."""
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
