import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from rnn_serving import dataset, digits
from rnn_serving.command_line import UserError


def test_a_digit_fits_a_20_by_20_box_and_is_centred_by_its_mass(data_dir):
    pixels = dataset.load(data_dir).train.pixels
    rows, columns = pixels.any(axis=2).sum(axis=1), pixels.any(axis=1).sum(axis=1)
    assert np.maximum(rows, columns).max() <= 20
    assert np.median(np.maximum(rows, columns)) >= 19
    mass = pixels.astype(float)
    centre = (mass.sum(axis=2) * np.arange(28)).sum(axis=1) / mass.sum(axis=(1, 2))
    assert np.abs(centre - 13.5).max() <= 1


def test_both_sets_have_every_digit_and_share_no_image(data_dir):
    data = dataset.load(data_dir)
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert set(data.train.labels) == set(data.test.labels) == set(range(10))


def test_writing_twice_gives_the_same_bytes(tmp_path):
    assert digits.main([str(tmp_path / "a")]) is None
    assert digits.main([str(tmp_path / "b")]) is None
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_existing_files_are_never_replaced(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"mine")
    with pytest.raises(UserError, match="expected a whole gzip file"):
        digits.main([str(tmp_path)])
    assert (tmp_path / "train-images-idx3-ubyte.gz").read_bytes() == b"mine"


def test_a_file_where_the_directory_should_be_is_an_error(tmp_path):
    (tmp_path / "digits").write_text("")
    with pytest.raises(UserError, match="is a file; expected a directory"):
        digits.main([str(tmp_path / "digits")])


def test_two_at_once_leave_one_data_set(tmp_path):
    command = [sys.executable, "-m", "rnn_serving.digits", str(tmp_path / "digits")]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(dataset.load(tmp_path / "digits").train) == 1437


def test_a_data_set_with_a_missing_file_is_not_completed_silently(tmp_path):
    digits.main([str(tmp_path)])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte.gz does not exist"):
        digits.main([str(tmp_path)])
