"""Time series as .ts files have them."""

from __future__ import annotations

import numpy as np
import pytest

from minivae import DataError, load_dataset

HEAD = "# about\n@problemName Toy\n@timeStamps false\n@equalLength true\n"


def written(tmp_path, text):
    path = tmp_path / "toy.ts"
    path.write_text(text)
    return path


def test_series_with_classes(tmp_path):
    data = load_dataset(written(tmp_path, HEAD + "@classLabel true a b\n@data\n1,2,3:a\n4,?,6.5:b\n\n7,8,9:a\n"))
    np.testing.assert_array_equal(data.train, [[1, 2, 3], [4, np.nan, 6.5], [7, 8, 9]])
    assert data.train_labels.tolist() == ["a", "b", "a"] and data.image_shape is None
    assert "3 series of 3 values, 1 of them missing" in data.notes


def test_channels_follow_one_another_and_targets_are_numbers(tmp_path):
    data = load_dataset(written(tmp_path, HEAD + "@targetlabel true\n@data\n1,2:3,4:0.5\n5,6:7,8:1.5\n"))
    np.testing.assert_array_equal(data.train, [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert data.train_labels.tolist() == [0.5, 1.5] and "2 channels of 2 values" in data.notes[0]


def test_series_without_labels(tmp_path):
    data = load_dataset(written(tmp_path, HEAD + "@classLabel false\n@data\n1,2\n3,4\n"))
    assert data.train_labels is None and data.train.shape == (2, 2)


@pytest.mark.parametrize(
    "text, words",
    [
        (HEAD, "no rows below a line @data"),
        (HEAD + "@data\n", "no rows below a line @data"),
        ("@timeStamps true\n@data\n(0,1),(1,2)\n", "time stamp beside each value"),
        (HEAD + "@classLabel true\n@data\n1,2:a\n1,2:b\n1,2,3:a\n", r"line 9: not 1 x 2 values, as 2 of 3 series have"),
        (HEAD + "@classLabel true\n@data\na\nb\n", "line 7: no values"),
        (HEAD + "@data\n1,2:1\n1,2:1\n", r"line 6: channels of \[1, 2\] values"),
        (HEAD + "@data\n1,2\n1,x\n", r"line 7: .*'x'.*correct the value"),
    ],
)
def test_what_is_no_table_of_series_is_refused(text, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load_dataset(written(tmp_path, text))
