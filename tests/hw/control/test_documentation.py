"""The generated reference pages are up to date."""

import pytest

from hw.control.documentation import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name):
    assert (FOLDER / name).read_text() == PAGES[name](), "run `python -m hw.control.documentation`"
