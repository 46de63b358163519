"""Build the image of deploy/Dockerfile without a container engine, and run programs in it, by buildah and `unshare`."""

import ast
import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path

from conftest import ROOT

BASE, IMAGE = "localhost/base", "localhost/rnn-serving"
# Debian's own Python, 3.11, and what a base image needs beside it.
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
# What a container engine does: the root read-only, the models too, a file system in memory for /tmp, no capabilities.
_RUN = """
set -e
root=$1 models=$2 user=$3
shift 3
mkdir -p "$root/models"
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$models" "$root/models"
mount -o remount,bind,ro "$root/models"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all env --ignore-environment --chdir=/tmp "$@"
"""


class Image:
    """An image that has been built: its settings, and its files under `root`."""

    def __init__(self, storage, root):
        config = json.loads(storage.run("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        self.root, self.user, self.environment = Path(root), config["User"], config["Env"]
        self.entrypoint, self.command, self.health_check = (
            config["Entrypoint"],
            config["Cmd"],
            config["Healthcheck"]["Test"][1:],
        )

    def words(self, models, command):
        """Return the words that run a command in the image as PID 1, with a directory of models."""
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _RUN, "sh"]
        return [*unshare, str(self.root), str(models), self.user, *self.environment, *command]

    def size_mb(self):
        """Return how much the files are, in MB."""
        return sum(path.lstat().st_size for path in self.root.rglob("*") if not path.is_symlink()) / 1e6


class Storage:
    """Images of buildah in a directory of their own."""

    def __init__(self, directory):
        self._directory = directory

    def run(self, *words, timeout_s=1800):
        """Return the output of a buildah command. Raises: AssertionError with what it said."""
        places = ["--root", self._directory / "images", "--runroot", self._directory / "run"]
        command = ["buildah", *places, *words]
        ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout_s)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout.strip()

    def delete(self):
        """Delete all images and containers."""
        self.run("rm", "--all")
        self.run("rmi", "--all", "--force")


@contextlib.contextmanager
def built(directory):
    """Yield the `Image` of the Dockerfile on a base made of Debian's packages."""
    storage = Storage(directory)
    try:
        make_base(storage, directory)
        flags = ["--isolation", "chroot", "--network", "host", "--format", "docker", *pip_volumes(directory)]
        dockerfile = ROOT / "deploy" / "Dockerfile"
        storage.run("build", *flags, "--build-arg", f"BASE_IMAGE={BASE}", "--tag", IMAGE, "--file", dockerfile, ROOT)
        yield Image(storage, storage.run("mount", storage.run("from", IMAGE)))
    finally:
        storage.delete()


def make_base(storage, directory):
    """Make a base image with Python."""
    archive = directory / "base.tar"
    words = ["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", archive]
    subprocess.run(words, check=True, capture_output=True, timeout=600)
    container = storage.run("from", "scratch")
    storage.run("add", container, archive)
    storage.run("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
    storage.run("commit", "--rm", container, BASE)
    archive.unlink()


def pip_volumes(directory):
    """Return the flags that give the build this machine's settings of pip, and the local files that they name."""
    if not shutil.which("pip3"):
        return []
    listed = subprocess.run(["pip3", "config", "list"], check=True, capture_output=True, text=True).stdout
    settings = {name.rpartition(".")[2]: ast.literal_eval(value) for name, value in re.findall("(.*?)=(.*)", listed)}
    config = directory / "pip.conf"
    config.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items())]))
    text = " ".join(settings.values())
    # The files of a local index are beside it.
    paths = {Path(path).parent for path in re.findall(r"file://(/\S+)", text)}
    paths |= {Path(path) for path in re.findall(r"(?:^|\s)(/\S+)", text)}
    volumes = {"/etc/pip.conf": config} | {path: path for path in paths if path.exists()}
    return [word for target, source in volumes.items() for word in ("--volume", f"{source}:{target}:ro")]
