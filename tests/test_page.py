"""The page: whatever the words and names, sound HTML that needs nothing but its pictures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from browser import look_at
from hypothesis import given, settings
from hypothesis import strategies as st

from whyfake.report import Section, Tile, page, png_bytes

VOID = {"meta", "link", "img", "br", "hr"}
NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "a & b &lt; c &amp; d",
    "</title></style></body></html>",
    "<!-- -->",
    "{title} {0} %s {{}}",
    "größe 漢字 🙂 𝒳",
    "javascript:alert(1)",
    "\\ ` $ ; url(x)",
]
NAMES = [
    "plain.png",
    "with space.png",
    "50% of #1?.png",
    "größe 漢字 🙂.png",
    "a'b\"c<d>&e.png",
    "folder/in folder/%20.png",
    "[1] (2);=+,@.png",
    "&amp;.png",
]


class Reader(HTMLParser):
    """What a reader of the page sees; fails for tags that do not close as they opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []  # the tag around, and the text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/> is no HTML")

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1], data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all tags of that name."""
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag: str) -> list[str]:
        """The texts right inside tags of that name."""
        return [text for name, text in self.words if name == tag]


def nasty_page(text: str, name: str = "a.png") -> str:
    """A page with that text wherever a text goes."""
    tile = Tile(name, text, (text, "second"), share=0.5, mark=0.25)
    return page(
        text,
        [text, "lead"],
        [Section(text, text, (tile, tile)), Section("none", "", ())],
        warnings=[text],
        facts=[(text, text)],
    )


def seen(text: str) -> Reader:
    """The page read, and what holds for every page held against it."""
    reader = Reader(text)
    assert text.startswith("<!DOCTYPE html>\n<html")
    counts = {tag: len(reader.of(tag)) for tag in ("html", "head", "title", "body", "h1", "style")}
    assert set(counts.values()) == {1}, counts
    assert {"charset": "utf-8"} in reader.of("meta")
    assert not {"script", "iframe", "object", "form", "base"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        assert not [key for key in attributes if key.startswith("on")], tag
        for key in ("src", "href", "srcset", "data", "action", "background"):
            where = attributes.get(key)
            # a path beside the page, or data: nothing is fetched
            assert where is None or where == "data:," or not re.match(r"[\w+.-]+:|/", where), where
    [style] = reader.said("style")
    assert not re.search(r"url\(|@import|://", style)
    for image in reader.of("img"):
        assert image["alt"]
        assert {"href": image["src"]} in reader.of("a")
    return reader


@pytest.mark.parametrize("text", NASTY)
def test_words_come_out_as_they_went_in(text: str) -> None:
    reader = seen(nasty_page(text))
    assert reader.said("title") == [text]
    assert reader.said("h1") == [text]
    assert reader.said("h2") == [text, "none"]
    assert reader.said("p") == [text, text, "lead", text]  # warning, lead, lead, section
    assert reader.said("b") == [text] * 2
    assert reader.said("span") == [text, "second"] * 2
    assert (reader.said("dt"), reader.said("dd")) == ([text], [text])
    assert [image["alt"] for image in reader.of("img")] == [text] * 2
    assert len(reader.tags) == len(Reader(nasty_page("plain")).tags)  # no tag was smuggled in


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_named_by_quoted_paths(name: str) -> None:
    reader = seen(nasty_page("title", name))
    for image in reader.of("img"):
        source = image["src"]
        assert source is not None
        assert unquote(source) == name
        assert re.fullmatch(r"[\w./~%-]+", source, re.ASCII)  # neither a query nor a fragment


words = st.text(
    st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Zs")), min_size=1
).filter(str.strip)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=words, name=words.filter(lambda name: name[0] != "/"))
def test_any_words_and_any_names(text: str, name: str) -> None:
    reader = seen(nasty_page(text, name))
    assert reader.said("h1") == [text]
    assert {unquote(str(image["src"])) for image in reader.of("img")} == {name}


@pytest.mark.parametrize(
    ("share", "width"),
    [
        (0.0, "0.0%"),
        (0.123456, "12.3%"),
        (1.0, "100.0%"),
        (-0.5, "0.0%"),
        (7.0, "100.0%"),
        (float("inf"), "100.0%"),
        (float("-inf"), "0.0%"),
        (1e-9, "0.0%"),
        (np.float32(0.5), "50.0%"),
    ],
)
def test_a_bar_stays_inside_its_frame(share: float, width: str) -> None:
    def bars(tile: Tile) -> tuple[list[str | None], list[str | None]]:
        reader = seen(page("title", [], [Section("heading", "", (tile,))]))
        both = [[bar["style"] for bar in reader.of(tag)] for tag in ("i", "s")]
        return both[0], both[1]

    assert bars(Tile("a.png", "a", share=share)) == ([f"width:{width}"], [])
    assert bars(Tile("a.png", "a", share=0.5, mark=share)) == (["width:50.0%"], [f"left:{width}"])
    assert bars(Tile("a.png", "a")) == ([], [])
    assert bars(Tile("a.png", "a", mark=share)) == ([], [])  # a line on no bar


def test_order_and_what_is_left_out() -> None:
    text = page(
        "The title",
        ["lead one", "lead two"],
        [
            Section("First", "its text", (Tile("a.png", "A"), Tile("b.png", "B"))),
            Section("2", "", ()),
        ],
        warnings=["beware"],
        facts=[("key", "value"), ("other", "more")],
    )
    words = [text for tag, text in seen(text).words if tag not in ("title", "style")]
    wanted = "The title|beware|lead one|lead two|First|its text|A|B|2|key|value|other|more"
    assert words == wanted.split("|")
    bare = seen(page("only a title", [], []))
    assert [word for tag, word in bare.words if tag != "style"] == ["only a title"] * 2
    assert not {"p", "section", "dl", "img"} & {tag for tag, _ in bare.tags}


def test_the_same_words_give_the_same_page() -> None:
    assert nasty_page("x") == nasty_page("x")
    assert nasty_page("x") != nasty_page("y")


# --- in a browser


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A page with every odd text and name, in a folder with its pictures."""
    folder = tmp_path / "größe #1 50%"
    tiles = []
    for index, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_bytes(np.full((40, 60, 3), 20 * index, np.uint8)))
        tiles.append(Tile(name, NASTY[index], tuple(NASTY), share=index / 7, mark=0.5))
    sections = [Section(text, text, tuple(tiles)) for text in NASTY[:3]]
    facts = [(text, "0123456789abcdef" * 8) for text in NASTY]
    path = folder / "index.html"
    path.write_text(page("odd <b>", NASTY, sections, NASTY, facts), encoding="utf-8")
    return path


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_browser_has_nothing_to_say(built: Path, tmp_path: Path, width: int) -> None:
    found = look_at(built, tmp_path, width)
    assert found.console == []
    assert found.missing == []
    assert [unquote(source) for source in found.pictures] == NAMES * 3
    assert found.overhang == 0


@pytest.mark.browser
def test_the_browser_does_see_what_is_wrong(built: Path, tmp_path: Path) -> None:
    (built.parent / NAMES[2]).unlink()
    text = built.read_text(encoding="utf-8")
    wrong = '<script>console.error("here I am")</script><p style="width: 1000px">wide</p></body>'
    built.write_text(text.replace("</body>", wrong), encoding="utf-8")
    found = look_at(built, tmp_path, 390)
    assert len(found.console) == 1
    assert "here I am" in found.console[0]
    assert [unquote(source) for source in found.missing] == [NAMES[2]] * 3
    assert found.overhang > 300


@pytest.mark.browser
def test_a_long_word_does_not_widen_the_page(tmp_path: Path) -> None:
    """Titles are often file names, and warnings hold paths."""
    (tmp_path / "a.png").write_bytes(png_bytes(np.zeros((40, 60, 3), np.uint8)))
    long = "/home/someone/" + "aligned_frames_of_the_first_video_" * 4
    path = tmp_path / "index.html"
    path.write_text(nasty_page(long), encoding="utf-8")
    assert look_at(path, tmp_path, 390).overhang == 0
