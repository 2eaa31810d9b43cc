"""Tables that callers bring."""

import pytest

from corellarec.base.errors import DataError
from corellarec.base.frames import read_table


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_first_line_tells_the_separator(tmp_path, separator):
    path = tmp_path / "pairs.csv"
    path.write_text(f"user{separator}item\n1{separator}7\n")
    assert read_table(path, ("user", "item")).to_dicts() == [{"user": "1", "item": "7"}]


def test_a_comma_in_the_first_line_is_the_separator(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("user;id,item\n1,7\n")
    with pytest.raises(DataError, match="no column 'user'; found: user;id, item"):
        read_table(path, ("user", "item"))
