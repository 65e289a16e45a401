"""The documents: what they point to is there."""

import re

import pytest

from tests.conftest import REPOSITORY

PAGES = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").glob("*.md"),
]
TESTS = {path: path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            names = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            names |= set(re.findall(r'<a id="([^"]*)">', linked.read_text()))
            assert anchor[1:] in names, anchor


@pytest.mark.parametrize("page", ["promises.md", "security.md"])
def test_tests_that_are_named_exist(page):
    """``file.py: test_a`` is in that file; a test without a file is in the one named before it."""
    named = re.findall(r"(test_\w+\.py)|(test_\w+)", (REPOSITORY / "docs" / page).read_text())
    assert len(named) > 20
    texts = ""
    for file, test in named:
        if file:
            texts = "\n".join(text for path, text in TESTS.items() if path.name == file)
            assert texts, file
        else:
            assert re.search(rf"^def {test}\(", texts, re.MULTILINE), test


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 120
