"""A few damaged files for every reader; scripts/faults tries ten thousand."""

import logging
from collections import Counter

import pytest

from tests.faults.inputs import READERS, fuzz, try_input, valid_content


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name):
    if name not in ("done.list",):
        assert try_input(name, valid_content(name)) == "read"
    fuzz(name, 15, 0, Counter())
