"""docs/rankers.md says what the code says."""

from pathlib import Path

from models.rankers_page import rankers_page


def test_the_page_is_current() -> None:
    written = Path("docs/rankers.md").read_text()
    assert written == rankers_page(), "run: python -m models.rankers_page > docs/rankers.md"
