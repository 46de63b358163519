"""The README's picture of a report of the comparison; the file says which report it shows."""

import hashlib
import io
import json
import tempfile
from pathlib import Path

from benchmarks.compare import contents, pictures
from benchmarks.compare.notes import is_disturbed
from benchmarks.compare.rows import label
from rnn_serving import files

# The name of the PNG's text with the SHA-256 of the report.
SOURCE = "report-sha256"
COLOURS = 128


def draw(path, report):
    """Draw the closed loop of a report, without disturbed rows."""
    rows = [row for row in report["rows"] if label(row) != "flask gateway" and not is_disturbed(row, report)]
    with tempfile.TemporaryDirectory() as directory:
        drawn = Path(directory) / "latency.png"
        pictures.write_png(drawn, rows, contents.title(report))
        files.write_bytes(path, _with_source(drawn, digest(report)))


def digest(report):
    """Return the SHA-256 of a report's content."""
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()


def source_of(path):
    """Return the SHA-256 of the report that a file shows, None if it does not say."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.text.get(SOURCE)


def _with_source(path, source):
    """Return the bytes of a PNG with the digest of its report, in few colours, which take few bytes."""
    from PIL import Image, PngImagePlugin

    info, written = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text(SOURCE, source)
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS).save(written, "PNG", pnginfo=info, optimize=True)
    return written.getvalue()
