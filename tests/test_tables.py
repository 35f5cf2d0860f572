"""Tables and the places of documents that they are written to."""
from pathlib import Path

import pytest

from nomul.tables import put_in, table

ROOT = Path(__file__).resolve().parents[1]


def test_thousands_are_parted() -> None:
    assert table(("a", "b"), [(1234, 0.5), ("x", 7)]) == (
        "| a | b |\n|---|---|\n| 1,234 | 0.5 |\n| x | 7 |")


def test_text_goes_between_its_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->\n")
    put_in(page, "a", "new\nlines")
    assert page.read_text() == (
        "before\n<!-- a -->\nnew\nlines\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->\n")


@pytest.mark.parametrize("text", ["nothing", "<!-- a --> no end", "<!-- /a --> <!-- a -->"])
def test_a_page_without_the_place_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="must have <!-- a --> and, after it, <!-- /a -->"):
        put_in(page, "a", "new")
    assert page.read_text() == text


@pytest.mark.parametrize("name", ["figures", "boards"])
def test_the_readme_has_the_places_that_benches_write_to(tmp_path: Path, name: str) -> None:
    page = tmp_path / "README.md"
    page.write_text((ROOT / "README.md").read_text())
    put_in(page, name, "measured")
    assert f"<!-- {name} -->\nmeasured\n<!-- /{name} -->" in page.read_text()
