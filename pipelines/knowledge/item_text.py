"""An item's text as data: how it is put before a model, and what a quote or a language is."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from feature_jobs.item_knowledge import WORD, plain_text

PATH = " > "
MAX_TITLE_CHARS = 500
MAX_ATTRIBUTES = 40
MAX_VALUE_CHARS = 200

REFUSAL = re.compile(
    r"\b(?:i'?m sorry|we'?re sorry|sorry,|as an? (?:ai|language model)\b|"
    r"i (?:can ?not|can'?t|am unable to|do not have)|unfortunately,? (?:i|the|this|we)\b|"
    r"(?:unable to|can ?not|could not) (?:be )?"
    r"(?:generated?|provided?|created?|described?|find|determined?)|"
    r"(?:book|item) is (?:currently )?not (?:currently )?available\b|"
    r"no (?:information|description) (?:is )?(?:available|provided)|please provide|"
    r"(?:not a|without a|is not|provide a) (?:\w+ ){0,2}(?:recogni[sz]able|valid|clear|specific)|"
    r"(?:valid|recogni[sz]able|proper) (?:book )?title|appears to be gibberish|couldn'?t find)",
    re.IGNORECASE,
)
# Common words that tell these languages from each other; none of the others has `a`.
FUNCTION_WORDS = {
    "en": "a the and of to in is for with that it on as are this from by or an be at your can "
    "his her their who has into about when but was which you while its he she they what",
    "de": "der die das und ist für mit den von zu ein eine auf nicht im dem des auch sich einen "
    "einer sind wird oder bei",
    "fr": "le la les et des est pour avec une dans du que sur au par plus ce pas aux qui sont ou",
    "es": "el la los las de es para con una en que del por se un su como más y lo son",
    "it": "il lo la gli di è per con una che del della un si da nel alla non sono delle",
    "pt": "os de é para com uma em que dos da um na por não mais são seu sua ao das",
    "nl": "de het een en van voor met dat op te zijn niet aan er om ook uw bij wordt die",
}
WORDS = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}
LANGUAGE_NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
}
WORDS_WORTH_JUDGING = 8


def item_fields(item: Mapping[str, Any], max_chars: int) -> dict[str, Any]:
    """Pick and bound what a model is told of an item.

    Args:
        item: a catalogue row.
        max_chars: characters of the description.
    """
    attributes = sorted(dict(item.get("attributes") or {}).items())[:MAX_ATTRIBUTES]
    fields = {
        "title": plain_text(item["title"])[:MAX_TITLE_CHARS],
        "description": plain_text(item.get("description") or "")[:max_chars],
        "category": list(item.get("category") or []),
        "brand": item.get("brand"),
        "attributes": {k[:MAX_VALUE_CHARS]: (v or "")[:MAX_VALUE_CHARS] for k, v in attributes},
    }
    return {name: value for name, value in fields.items() if value}


def as_data(tag: str, value: Any) -> str:
    """Delimit a value as JSON that cannot close its own delimiter."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return f"<{tag}>{text.replace('<', chr(92) + 'u003c').replace('>', chr(92) + 'u003e')}</{tag}>"


def said(fields: Mapping[str, Any]) -> str:
    """All that an item's text says, for looking up quotes."""
    attributes = [f"{name}: {value}" for name, value in fields.get("attributes", {}).items()]
    plain = [fields.get(name) or "" for name in ("title", "description", "brand")]
    return _folded(" \n ".join([*plain, *fields.get("category", []), *attributes]))


def stands_in(quote: str, text: str) -> bool:
    """Say whether a quote stands in what `said` returned, but for case and white space."""
    folded = _folded(quote)
    return bool(folded) and folded in text


def require_language(text: str, language: str) -> None:
    """Refuse a text that is evidently not in a language; unknown languages are not judged.

    Raises:
        ValueError: names what was found.
    """
    wanted = WORDS.get(language)
    letters = [letter for letter in text if letter.isalpha()]
    if wanted is None or not letters:
        return
    latin = sum("LATIN" in unicodedata.name(letter, "") for letter in letters)
    if latin < 0.7 * len(letters):
        raise ValueError(f"is not written in {LANGUAGE_NAMES[language]}")
    words = [word.lower() for word in WORD.findall(text)]
    counts = {name: sum(word in known for word in words) for name, known in WORDS.items()}
    best = max(counts, key=lambda name: (counts[name], name == language))
    # A foreign title within a sentence is no reason.
    is_another = counts[best] >= 3 and counts[best] > 2 * counts[language]
    if len(words) >= WORDS_WORTH_JUDGING and is_another:
        raise ValueError(f"is written in {LANGUAGE_NAMES[best]}, not in {LANGUAGE_NAMES[language]}")


def require_summary(text: str, language: str, max_words: int, context: Sequence[str] = ()) -> str:
    """Check a summary, or any sentence that people will read.

    Args:
        text: what was written.
        language: what it must be written in.
        max_words: how long it may be.
        context: texts that alone are not a summary, such as the title.

    Raises:
        ValueError: it is empty, too long, a refusal, a mere repetition or in another language, or
            holds a link, markup or a placeholder.
    """
    words = text.split()
    if not 3 <= len(words) <= max_words:
        raise ValueError(f"the summary has {len(words)} words, not 3 to {max_words}")
    if REFUSAL.search(text):
        raise ValueError("the summary is a refusal")
    if re.search(r"https?://|www\.|<[a-z/]", text, re.IGNORECASE):
        raise ValueError("the summary holds a link or markup")
    if re.search(r"\{\w+\}|\[(?:title|description|name|author|item)\]", text):
        raise ValueError("the summary has a placeholder that was never filled in")
    if any(_folded(text).strip(' ."') == _folded(other) for other in context):
        raise ValueError("the summary only repeats the title")
    try:
        require_language(text, language)
    except ValueError as error:
        raise ValueError(f"the summary {error}") from error
    return text


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).translate(QUOTES)
    return " ".join(plain.casefold().split())


QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
