"""The site builds without a warning, loads nothing from the network, and has all pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import opened

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("sphinx", "numpydoc", "myst_parser", "furo", "sklearn"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(folder)]
    command += ["-D", "gates_page_steps=20"]  # a model that has learned little
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_exists(site):
    for page in DOCS.rglob("*.md"):
        assert site.joinpath(page.relative_to(DOCS)).with_suffix(".html").exists(), page


def test_a_model_reads_in_a_page(site, tmp_path):
    """The build makes the page of the gates in both languages; it opens from disk, and its notes can be shown."""
    browser = opened(tmp_path)
    for page, links in (("gates-page.html", ("index", "gates", "how-to/gates")), ("gates-page.zh.html", ("gates.zh",))):
        for link in links:
            assert f"{page}" in (site / f"{link}.html").read_text(encoding="utf-8")
        assert (site / page).stat().st_size < 1.5e6
        browser.open((site / page).as_uri(), "return document.documentElement.dataset.ready")
        counts = browser.driver.execute_script("""
            document.querySelectorAll(".note button").forEach((button) => button.click());
            const parts = "#explained tbody tr,.note,#comparison polyline,#checkpoint,#typed,#norms .bars".split(",");
            return parts.map((selector) => document.querySelectorAll(selector).length)""")
        assert counts == [100, 10, 2, 1, 1, 1]
    complaints = browser.complaints()
    browser.driver.quit()
    assert not complaints


def test_pages_load_nothing_from_the_network(site):
    """No script, style, font, picture or formula is loaded from another host; links may lead there."""
    elsewhere = r"=[\"']?(?:https?:)?//"
    loads = re.compile(rf"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc{elsewhere}")
    styles = re.compile(rf"<link\b[^>]*\bhref{elsewhere}")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not loads.search(text) and not styles.search(text), page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import[^;]*//", sheet.read_text(encoding="utf-8")), sheet


def test_pictures_are_links_to_their_files(site):
    found = 0
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        pictures = re.findall(r"<img\b[^>]*\bsrc=\"([^\"]*_images/[^\"]*)\"", text)
        linked = re.findall(r"<a [^>]*\bhref=\"([^\"]*_images/[^\"]*)\"[^>]*>\s*<img\b", text)
        assert linked == pictures, page
        found += len(pictures)
    assert found > 10


def test_compiled_code_is_documented_like_the_rest(site):
    text = (site / "api" / "streaming.html").read_text(encoding="utf-8")
    for name in ("step", "reset", "copy", "state", "batch_size"):
        assert f'id="lstm_cy.stepper.Stepper.{name}"' in text
    assert "Array for the result" in text and "x_t" in text
