"""Text for LaTeX: whatever a name holds, it is typeset and not obeyed."""

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "-": "-{}",  # two of them would be a dash
    "'": "'{}",  # as are these a quotation mark
    "–": "--",
    "×": r"$\times$",
    "†": r"\dag{}",
    "*": r"\textasteriskcentered{}",
}


def escaped(text: object) -> str:
    """One line of text as LaTeX shows it. Letters beyond Latin ones, for which it has no fonts, become U+ codes."""
    line = " ".join(str(text).split())
    return "".join(_letter(letter) for letter in line)


def _letter(letter: str) -> str:
    if letter in _COMMANDS:
        return _COMMANDS[letter]
    # Latin-1 letters, but for signs that need packages of their own.
    if letter.isascii() or ("À" <= letter <= "ÿ" and letter.isalpha() and letter not in "ÐÞðþ"):
        return letter if letter.isprintable() else f"U+{ord(letter):04X}"
    return f"U+{ord(letter):04X}"


def cell(text: object) -> str:
    """A cell of a table: what stands in brackets behind a figure, its interval, goes below it, from--to."""
    figure, bracket, rest = str(text).partition(" (")
    if not bracket:
        return escaped(text)
    interval = "--".join(escaped(end) for end in rest.split(" to "))
    return rf"\shortstack[r]{{{escaped(figure)}\\({interval}}}"


def heading(text: object) -> str:
    """The heading of a column, a word a line."""
    lines = r"\\".join(escaped(word) for word in str(text).split())
    return rf"\shortstack[r]{{{lines}}}"
