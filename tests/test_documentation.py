"""The pages tell the truth: links lead somewhere, the map is that of the imports. Their Python: test_fitting.py."""

import re
from pathlib import Path

import blocks
import pytest
import test_architecture

import audioconfit

README = blocks.ROOT / "README.md"
PAGES = blocks.pages()
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(blocks.ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            path, _, heading = target.partition("#")
            assert (page.parent / path).exists(), target
            assert not heading, "link to pages, headings change"


def test_every_room_with_a_page_is_on_the_front_door() -> None:
    linked = {(README.parent / target).resolve() for target in LINK.findall(README.read_text()) if "://" not in target}
    models = blocks.ROOT / "audioconfit" / "encoders" / "pretrained"
    fixtures = blocks.ROOT / "tests" / "support"
    rooms = [page for page in PAGES if not page.is_relative_to(models) and not page.is_relative_to(fixtures)]
    assert {page for page in rooms if page != README} <= linked


def test_the_front_door_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 165


def test_the_map_is_drawn_from_the_imports() -> None:
    (shown,) = re.findall(r"^<!-- map -->\n```text\n(.*?)\n```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert shown == test_architecture.draw(), "run `python tests/test_architecture.py` and paste what it prints"


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.findall(r"^## (\S+?),?(?: |$)", (blocks.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == audioconfit.__version__
