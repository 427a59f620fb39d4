"""Removes from an HTML page what a browser does not show, and what is not content: navigation, banners, footers.

What is hidden is removed, and so are menus and footers by their element or role.  Other elements that look like
boilerplate, by their element, role or name, are removed only if trafilatura leaves them out too: on its own it also
loses code, tables and whole sections, and names alone are wrong about many pages.  Style sheets are not read and
scripts are not run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

UNSEEN = {"script", "style", "noscript", "template", "svg", "iframe", "object", "video", "audio"}
CONTROLS = {"button", "select", "datalist", "input"}
MENUS = {"navigation", "search", "menu", "menubar"}
FRAMES = {"banner", "complementary"}
FRAME_ELEMENTS = {"header", "aside"}  # outside of the article, which may have its own
ARTICLES = ["main", "article", "section"]
NAMED_ELEMENTS = ("div", "ul", "ol", "p", "td", "form", "header", "footer", "aside")
LINE = 4  # words of a string that does not stand in a text by chance
_UNSEEN_STYLE = re.compile(r"(^|;)\s*(display\s*:\s*none|visibility\s*:\s*(hidden|collapse))", re.IGNORECASE)
_NAME = re.compile(
    r"(^|[\s_-])(nav|navbar|navigation|menu|topbar|sidebar|footer|cookies?|consent|banner|breadcrumbs?|share|social|"
    r"related|newsletter|advert|ads?|skip)($|[\s_-])",
    re.IGNORECASE,
)


def remove_unseen(soup: BeautifulSoup) -> None:
    """Remove the elements that a browser does not show, and those that take input."""
    _remove(soup.find_all(_is_unseen))


def remove_boilerplate(soup: BeautifulSoup) -> None:
    """Remove menus, footers and what else is around the content of a page; one that is nothing else stays as it is."""
    menus = _outermost(soup.find_all(_is_menu))
    body = soup.body or soup
    if len(body.get_text().split()) <= sum(len(tag.get_text().split()) for tag in menus):
        return
    _remove(menus)
    suspects = [tag for tag in soup.find_all(_may_be_frame) if tag.get_text(strip=True)]
    content = _content(str(soup)) if suspects else ""
    if not content.strip():
        return
    frames = [tag for tag in suspects if not _is_in(content, tag)]
    heads = soup.find_all("h1")
    for tag in frames:
        if not tag.decomposed and tag.find("h1") is not None and len(heads) == 1:
            tag.insert_before(heads[0].extract())  # the heading of the article
    _remove(frames)


def _is_unseen(tag: Tag) -> bool:
    if tag.name in UNSEEN or tag.name in CONTROLS or (tag.name == "dialog" and not tag.has_attr("open")):
        return True
    hidden = tag.has_attr("hidden") or str(tag.get("aria-hidden", "")).lower() == "true"
    return hidden or bool(_UNSEEN_STYLE.search(str(tag.get("style", ""))))


def _is_menu(tag: Tag) -> bool:
    """Whether an element is a menu, or the footer of the page."""
    if tag.name == "nav" or _role(tag) in MENUS:
        return True
    return (tag.name == "footer" or _role(tag) == "contentinfo") and tag.find_parent(ARTICLES) is None


def _may_be_frame(tag: Tag) -> bool:
    """Whether an element is a part of the frame around the content by its element, role or name."""
    frame = (tag.name in FRAME_ELEMENTS or _role(tag) in FRAMES) and tag.find_parent(ARTICLES) is None
    return (frame or _has_frame_name(tag)) and tag.find(["main", "article"]) is None


def _has_frame_name(tag: Tag) -> bool:
    if tag.name not in NAMED_ELEMENTS:
        return False
    if any(_NAME.search(name) for name in tag.get("class") or ()):
        return True
    # in an article, ids are made of its headings
    return bool(_NAME.search(str(tag.get("id", "")))) and tag.find_parent(_is_article) is None


def _is_article(tag: Tag) -> bool:
    return tag.name in ("main", "article") or _role(tag) == "main"


def _role(tag: Tag) -> str:
    return str(tag.get("role", "")).lower()


def _content(markup: str) -> str:
    """Return the words that trafilatura takes for content, between single spaces."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports pages without content
    found = trafilatura.extract(markup, output_format="txt", include_comments=True, include_tables=True)
    return f" {_words(found or '')} "


def _is_in(content: str, tag: Tag) -> bool:
    """Whether the content has the text of an element, or most of its longer lines."""
    if f" {_words(tag.get_text(' '))} " in content:
        return True
    lines = [words for words in map(_words, tag.stripped_strings) if words.count(" ") >= LINE - 1]
    return 2 * sum(f" {line} " in content for line in lines) > len(lines)


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).strip().lower()


def _outermost(tags: Iterable[Tag]) -> list[Tag]:
    """Return the elements that are in none of the others."""
    known = {id(tag) for tag in tags}
    return [tag for tag in tags if not any(id(above) in known for above in tag.parents)]


def _remove(tags: Iterable[Tag]) -> None:
    for tag in tags:
        if not tag.decomposed:
            tag.decompose()
