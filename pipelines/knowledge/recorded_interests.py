"""Take over what a model wrote elsewhere about what people like, where their history bears it out.

The texts come in paragraphs. One that opens with a taste (`LIKE:`, `TASTE:`, `INTEREST:`) is an
interest; the titles that it names are its evidence, if they stand in the person's history. What
somebody dislikes is none, nor has a refusal any: only its preamble may sound like one. Other
formats, such as made-up ratings of single films, hold no interest.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.knowledge.interests import Found, kept
from pipelines.knowledge.item_text import REFUSAL
from pipelines.knowledge.user_history import Line

MAX_INTEREST_CHARS = 80
TASTE = re.compile(
    r"^\W*(?:\d+[.)]\s*)?(?:LIKE|TASTE|INTEREST)S?\W*:\s*(?P<what>.+)$", re.IGNORECASE
)
# "I enjoy ..." says no more than "...".
LEAD = re.compile(
    r"^(?:I|The user)(?:'m| am| have| also)?\s+(?:a |an )?"
    r"(?:enjoys?|likes?|loves?|appreciates?|drawn to|fan of|"
    r"(?:preference|taste|fondness|fascination|soft spot|interest|appreciation) "
    r"(?:for|in|with))\s+",
    re.IGNORECASE,
)
# A taste that explains low ratings is none.
DISTASTE = re.compile(
    r"\b(?:not (?:a (?:big )?fan|interested|enjoy)|dislikes?d?|low(?:er)? rat|"
    r"(?:don't|do not|didn't|did not) (?:like|enjoy)|rated .{0,80} (?:low|poorly)\b)",
    re.IGNORECASE,
)
YEAR = re.compile(r"\s*\((?:\d{4})\)\s*$")
ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>the|a|an|les?|la|das|der|die|il|el)$")
# Shorter titles are words of the language: "M", "Go", "Up".
TITLE_CHARS_AT_LEAST = 4


def recorded_interests(
    text: str, lines: Sequence[Line], items: Mapping[str, Mapping[str, Any]], most: int
) -> tuple[list[Found], int]:
    """Read the interests out of a text; returns those with evidence, and how many were claimed.

    Args:
        text: what was written.
        lines: the person's history.
        items: titles of its items.
        most: interests kept at most.

    Raises:
        ValueError: the text is empty, a refusal, or holds no interest, or none has evidence.
    """
    if not text.strip():
        raise ValueError("the text is empty")
    claimed = [taste for paragraph in _paragraphs(text) if (taste := _taste(paragraph))]
    if not claimed and REFUSAL.match(text.strip()):
        raise ValueError("the text is a refusal")
    if not claimed:
        raise ValueError("no paragraph begins with LIKE:, TASTE: or INTEREST:")
    titles = {
        line.number: plain_title(items[line.item_id]["title"])
        for line in lines
        if line.item_id in items
    }
    named = [(what, _evidence(said, titles), ()) for what, said in claimed]
    found = kept(named, lines, most)
    if not found:
        raise ValueError("no interest names a title of the history")
    return found, len(claimed)


def plain_title(title: str) -> str:
    """Fold a title as people write it in a sentence: `Matrix, The (1999)` is `the matrix`."""
    bare = YEAR.sub("", _folded(title))
    bare = re.sub(r"\s*\([^()]*\)", "", bare).strip()
    article = ARTICLE.match(bare)
    return f"{article['article']} {article['rest']}" if article else bare


def _paragraphs(text: str) -> list[list[str]]:
    """Cut a text before each line that opens with a taste."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if TASTE.match(line.strip()):
            found.append([])
        if found and line.strip():
            found[-1].append(line.strip())
    return found


def _taste(paragraph: Sequence[str]) -> tuple[str, str] | None:
    """An interest's name, and all that its paragraph says."""
    match = TASTE.match(paragraph[0])
    assert match is not None
    what = LEAD.sub("", " ".join(match["what"].split())).rstrip(" .;")
    if not what:
        return None
    return what[:MAX_INTEREST_CHARS], " ".join(paragraph)


def _evidence(said: str, titles: Mapping[int, str]) -> list[int]:
    """The numbers of the titles that a paragraph names, in either form; none for a distaste."""
    if DISTASTE.search(said):
        return []
    words = _words(said)
    turned = _words(re.sub(r"([^;:,]+), (The|A|An|Les?|La)\b", r"\2 \1", said))
    numbers = []
    for number, title in titles.items():
        looked_for = _words(title)
        long_enough = len(looked_for.strip()) >= TITLE_CHARS_AT_LEAST
        if long_enough and (looked_for in words or looked_for in turned):
            numbers.append(number)
    return numbers


def _words(text: str) -> str:
    """Words between single blanks, and one at either end, so that whole words alone match."""
    return f" {' '.join(re.findall(r'[a-z0-9]+', _folded(text)))} "


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return " ".join(bare.casefold().split())
