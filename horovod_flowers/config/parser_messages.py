"""What jsonargparse says of words that it cannot read, in one sentence of the user's terms.

It says it in text alone. The patterns are those of one version: tests/single/test_parser_messages.py asks that version
for each message, and fails when another is pinned.
"""

import difflib
import re
from collections.abc import Iterable

WRITTEN_FOR = "4.53.0"

NO_SUCH_FLAG = re.compile(r"[Uu]nrecognized arguments: (?P<word>\S+)")
NO_SUCH_KEY = re.compile(r"Option '(?P<key>\S+)' is not accepted")
WRONG_VALUE = re.compile(r'Parser key "(?P<key>\S+?)":[; ]*Expected a (?P<hint>.+?)\. Got value: (?P<value>.+)')
WRONG_VALUE_OF_SEVERAL_KINDS = re.compile(
    r'Parser key "(?P<key>\S+?)":[; ]*Does not validate against any of the Union subtypes.*?'
    r"Subtypes: \[(?P<hint>.+?)\]; .*Given value: (?P<value>.+)"
)

_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def in_one_sentence(message: str, flags: Iterable[str]) -> str:
    """What was given, what is allowed; `flags`: all that there are, to find the one that was meant."""
    folded = re.sub(r"\s+", " ", "; ".join(line.strip(" -\t") for line in message.splitlines() if line.strip()))
    if found := NO_SUCH_FLAG.match(folded):
        word = found["word"].split("=")[0]
        return f"there is no option {word}: {nearest(word, flags)}"
    if found := NO_SUCH_KEY.match(folded):
        return f"there is no option {found['key']!r}: {nearest(found['key'], flags)}"
    if found := WRONG_VALUE.match(folded) or WRONG_VALUE_OF_SEVERAL_KINDS.match(folded):
        return f"{found['key']} is {found['value']!r}: {_allowed(found['hint'])}"
    return f"{folded.rstrip('.')} (--help lists what is allowed)"


def nearest(flag: str, known: Iterable[str]) -> str:
    """What may have been meant by a flag or key that does not exist, as the end of a sentence."""
    close = difflib.get_close_matches(flag.replace("_", "-"), list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "--help lists them"


def _allowed(hint: str) -> str:
    """Say a type hint in words: 'a whole number', "one of 'adam', 'sgd'"."""
    if choices := re.search(r"Literal\[(.+?)\]", hint):
        return f"allowed is one of {choices[1]}"
    if re.search(r"\bdict\b", hint):
        return "allowed is a mapping of names to values, such as '{name: 1}'"
    kinds = [words for name, words in _WORDS.items() if re.search(rf"\b{name}\b", hint)]
    return f"allowed is {' or '.join(kinds) or hint}"
