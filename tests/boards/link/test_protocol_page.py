"""The page about the protocol is up to date."""

from boards.link.documentation import PAGE, protocol_page


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == protocol_page(), "run `python -m boards.link.documentation`"
