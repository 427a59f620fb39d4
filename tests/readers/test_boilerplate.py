"""Pages of many kinds: all of their content is in the text, and what is hidden or around the content is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import trafilatura

from memfold.readers.html import read_html

SENTENCES = (
    "The river Sanu rises in the hills of Tor and runs for ninety kilometres to the sea at Velm.",
    "Its mills once ground all the grain of the province, and the guild of millers kept the books.",
    "In 1873 a flood carried away four of the six mills, and the guild never recovered from the loss.",
    "Today a single mill still turns in summer, for the visitors who come to see the wheel.",
)
ARTICLE = "".join(f"<p>{sentence}</p>" for sentence in SENTENCES)
CELLS = "".join(f"<tr><td>{2000 + year}<td>{100 + year}" for year in range(9))
YEARS = tuple(f"| {2000 + year} | {100 + year} |" for year in range(9))


class Page(NamedTuple):
    """A page, what its text must have, and what it must not have."""

    markup: str
    content: tuple[str, ...]
    noise: tuple[str, ...] = ()


PAGES = {
    "landmarks": Page(
        "<header><a href=/>Velm Gazette</a><nav><ul><li><a href=/n>News front page</a></ul></nav></header>"
        f"<main><article><h1>The mills</h1>{ARTICLE}</article></main>"
        "<aside><h2>Related</h2><ul><li><a href=x>Ten bridges to see before lunch</a></ul></aside>"
        "<footer><p>Copyright 2026 Velm Gazette. All rights reserved.</p></footer>",
        (*SENTENCES, "# The mills"),
        ("News front page", "Ten bridges", "All rights reserved"),
    ),
    "divisions with names": Page(
        '<div id="topbar"><div class="menu"><a href=/>Home page</a> <a href=/c>Contact desk</a></div></div>'
        '<div class="cookie-banner">We use cookies to improve your visit. <a href=c>Rules</a></div>'
        f'<div class="content"><h1>The mills</h1><div>{SENTENCES[0]}</div><div>{SENTENCES[1]}</div>'
        f"<p>{SENTENCES[2]}</p><p>{SENTENCES[3]}</p></div>"
        '<div class="sidebar"><h3>Most read</h3><ul><li><a href=1>Ten bridges to see before lunch</a></ul></div>'
        '<div class="footer">Copyright 2026 Velm Gazette. <a href=x>Privacy rules</a></div>',
        (*SENTENCES, "# The mills"),
        ("Contact desk", "cookies", "Most read", "Ten bridges", "Privacy rules"),
    ),
    "hidden": Page(
        '<div hidden>Hidden one</div><div style="display:none">Hidden two</div><span aria-hidden="true">Hidden three'
        '</span><p style="color: red; DISPLAY : none !important">Hidden four</p><div style="visibility: hidden">'
        "Hidden five</div><template><p>Hidden six</template><noscript>Hidden seven</noscript><dialog>Hidden eight"
        "</dialog><select><option>Hidden nine</select><button>Hidden ten</button><script>'Hidden'</script>"
        f"<dialog open>An open dialog.</dialog><details><summary>More</summary><p>Details.</details>{ARTICLE}",
        (*SENTENCES, "An open dialog.", "More", "Details."),
        ("Hidden",),
    ),
    "documentation": Page(
        '<div role="navigation" class="sphinxsidebar"><ul><li><a href=a>Installation guide</a></ul></div>'
        '<div role="main"><section id="navigation-and-menus"><h1>fold</h1><p>It folds a document into a file.</p>'
        "<pre><code>memfold fold a.txt -o a.fold\n    memfold ask a.fold</code></pre>"
        "<table><tr><th>Option<th>Meaning<tr><td><code>--ratio</code><td>tokens per slot</table>"
        "<ol><li>Read.<li>Fold.<ul><li>block by block</ul></ol></section></div>"
        '<div role="contentinfo">Built with a generator of pages, version 9</div>',
        ("# fold", "a.fold\n    memfold ask", "| --ratio | tokens per slot |", "1. Read.", "- block by block"),
        ("Installation guide", "Built with"),
    ),
    "code in a post": Page(
        '<div class="navbar"><a href=/>Archive of all posts</a></div><div class="post"><h1>Loops</h1>'
        f'<p>{SENTENCES[0]}</p><div class="highlight"><pre><span class="k">for</span> x in y:\n    use(x)</pre></div>'
        f'<p>{SENTENCES[1]}</p></div><div class="share-buttons">Share this on Flitter</div>'
        '<div class="comments"><h3>Comments</h3><p>Nice post, thank you very much for it.</div>',
        ("# Loops", SENTENCES[0], "for x in y:\n    use(x)", SENTENCES[1]),
        ("Archive of all posts", "Share this"),
    ),
    "answers": Page(
        '<div class="nav"><a href=/>Log in</a></div>'
        '<div class="post"><b class="author">ada</b><p>How do I fold a folder?</div>'
        '<div class="post"><b class="author">ben</b><p>Name it. It is one command.</div>'
        '<div class="footer">Powered by some software</div>',
        ("ada", "How do I fold a folder?", "ben", "Name it. It is one command."),
        ("Powered by",),
    ),
    "headings in headers": Page(
        '<header class="site"><p>The Velm Gazette of today</p></header><article><header><h1>The mills</h1>'
        f"<p>By Ada Lorn</p></header>{ARTICLE}<footer><p>Ada Lorn writes about rivers.</p></footer></article>",
        (*SENTENCES, "# The mills", "By Ada Lorn", "Ada Lorn writes about rivers."),
    ),
    "a heading in the frame": Page(
        f'<header class="banner"><h1>The mills</h1></header><div>{ARTICLE}</div>', (*SENTENCES, "# The mills")
    ),
    "a table alone": Page(f"<table><tr><th>Year<th>Income{CELLS}</table>", YEARS),
    "a list alone": Page("<h1>List</h1><ul><li>six eggs<li>a loaf<li>salt</ul>", ("- six eggs", "- a loaf", "- salt")),
    "questions": Page(
        "<main><details><summary>Is it free?</summary><p>Yes.</details><details><summary>And big?</summary><p>No."
        "</details></main>",
        ("Is it free?", "Yes.", "And big?", "No."),
    ),
    "a letter": Page("<p>Dear Ada,<p>the mill is sold.<p>Ben Sor", ("Dear Ada,", "the mill is sold.", "Ben Sor")),
    "a menu alone": Page("<nav><a href=/>Home page</a></nav>", ("Home page",)),
}


def plain(text: str) -> str:
    return re.sub(r"[*`]", "", text)


@pytest.mark.parametrize("name", PAGES)
def test_the_content_of_a_page_is_kept_and_nothing_else(tmp_path: Path, name: str) -> None:
    page = PAGES[name]
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><title>A page</title><body>{page.markup}</body>", encoding="utf-8")
    text = "".join(read_html(path))
    assert text.startswith("A page\n")
    assert [part for part in page.content if part not in text] == []
    assert [part for part in page.noise if part in text] == []


def test_trafilatura_alone_loses_content() -> None:
    """The reason why its verdict counts for elements only that look like boilerplate."""
    found = {name: trafilatura.extract(page.markup, output_format="markdown") or "" for name, page in PAGES.items()}
    lost = {name for name, page in PAGES.items() if any(part not in plain(found[name]) for part in page.content)}
    assert {"code in a post", "hidden"} <= lost
