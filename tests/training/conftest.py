"""Shared by the tests of training."""

import pytest
from support.training_data import write_labels


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "labels.extxyz"
    write_labels(path)
    return path
