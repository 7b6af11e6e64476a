"""Stop words: words that are too frequent to say what a title is about."""

from __future__ import annotations

from collections.abc import Collection

# articles, pronouns, prepositions, conjunctions, auxiliaries and contractions
_ENGLISH = """
a about above after again against ain't all am an and any are aren't as at
be because been before being below between both but by
can can't cannot could couldn't
did didn't do does doesn't doing don't down during
each either
few for from further
had hadn't has hasn't have haven't having he he'd he'll he's her here here's hers herself him
himself his how how's
i i'd i'll i'm i've if in into is isn't it it'd it'll it's its itself
just
let's
me more most mustn't my myself
neither no nor not now
of off on once only or other ought our ours ourselves out over own
per
same shan't she she'd she'll she's should shouldn't so some such
than that that'll that's the their theirs them themselves then there there's these they they'd
they'll they're they've this those through to too
under until up upon us
very via vs
was wasn't we we'd we'll we're we've were weren't what what's when when's where where's whether
which while who who's whom whose why why's will with within without won't would wouldn't
yet you you'd you'll you're you've your yours yourself yourselves
"""

ENGLISH_STOP_WORDS: frozenset[str] = frozenset(_ENGLISH.split())

# languages of the package stop-words, apart from English
_OTHERS = """
ar bg ca cs da de el es fa fi fr gu he hi hu id it ja ko ms nb nl pl pt ro ru sk sv tr uk vi zh
"""

LANGUAGES: tuple[str, ...] = ("none", "en", *_OTHERS.split())
"""Languages that `stop_words` knows, by ISO 639-1 code, and `"none"` for no stop words."""


def stop_words(language: str) -> frozenset[str]:
    """Return the stop words of a language; `"none"` gives the empty set.

    The English list is part of rarec. The other lists are in the package `stop-words`, which
    `pip install "rarec[languages]"` installs.

    Args:
        language: One of `LANGUAGES`.

    Raises:
        ValueError: If the language is not one of `LANGUAGES`.
        ImportError: If the list is in the package `stop-words` and this is not installed.

    Example:
        >>> "the" in stop_words("en")
        True
    """
    if language not in LANGUAGES:
        raise ValueError(f"expected a language of {', '.join(LANGUAGES)}, got {language!r}")
    if language == "none":
        return frozenset()
    if language == "en":
        return ENGLISH_STOP_WORDS
    try:
        from stop_words import get_stop_words
    except ImportError as error:
        raise ImportError(
            f"expected the package stop-words for the language {language!r}, got none; run "
            f'pip install "rarec[languages]"'
        ) from error
    return frozenset(get_stop_words(language))


def as_words(words: str | Collection[str]) -> list[str]:
    """Return the sorted stop words: those of a language, or those that are given.

    Args:
        words: One of `LANGUAGES`, or the words themselves.
    """
    return sorted(stop_words(words) if isinstance(words, str) else words)
