r"""Plain text for the LaTeX that models write into `\boxed{}`: `\text{Velm}` is Velm, `1{,}234\,\%` is 1,234 %.

Commands that only set their content in another type are removed, escaped signs and a few symbols are replaced, and a
fraction is written with a slash.  Other commands, such as a root, stay as they are: mathematics is not computed.
"""

from __future__ import annotations

import re

DEEPEST = 20  # levels of braces in braces
_CONTENT = r"\{((?:[^{}\\]|\\.)*)\}"
_TYPES = (
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|md|normal)?|math(?:rm|bf|it|sf|tt|cal|bb|normal)|boldsymbol|operatorname\*?|mbox"
    r"|emph|underline|boxed)\s*(?=\{)"
)
_FRACTION = rf"\\[dt]?frac\s*{_CONTENT}\s*{_CONTENT}"
_GROUP = rf"(?<![\\\w}}^_*]){_CONTENT}"
_NESTED = re.compile(rf"{_TYPES}{_CONTENT}|{_FRACTION}|{_GROUP}", re.DOTALL)
_SYMBOLS = {
    r"\%": "%",
    r"\$": "$",
    r"\&": "&",
    r"\#": "#",
    r"\_": "_",
    r"\,": "\u202f",  # a space that does not break, as between thousands
    r"\;": " ",
    r"\:": " ",
    r"\ ": " ",
    r"\!": "",
    r"\(": "",
    r"\)": "",
    r"\[": "",
    r"\]": "",
    r"\left": "",
    r"\right": "",
    r"\displaystyle": "",
    r"\quad": " ",
    r"\qquad": " ",
    r"^\circ": "\u00b0",
    r"^{\circ}": "\u00b0",
    r"\degree": "\u00b0",
    r"\times": "\u00d7",
    r"\cdot": "\u00b7",
    r"\pm": "\u00b1",
    r"\pi": "\u03c0",
    r"\infty": "\u221e",
}
_NAMES = sorted(_SYMBOLS, key=len, reverse=True)
_SYMBOL = re.compile("|".join(re.escape(name) + r"(?![A-Za-z])" * name[-1].isalpha() for name in _NAMES))
_BRACE = re.compile(r"\\([{}])")
_COMMAND = re.compile(rf"{_TYPES}|{_FRACTION}|{_SYMBOL.pattern}|{_BRACE.pattern}")
_FORMULA = re.compile(r"(\$\$?)([^$]+)\1")


def content(box: str) -> str:
    r"""Return the plain text of what a box holds, which may be a formula between dollar signs.

    >>> content(r"$\frac{1}{2}$"), content("$5 and $6")
    ('1/2', '$5 and $6')
    """
    formula = _FORMULA.fullmatch(box.strip())
    return plain(box.strip() if formula is None else formula[2].strip())


def plain(text: str) -> str:
    r"""Return a text without the LaTeX around its words and numbers; a text without LaTeX is unchanged.

    >>> plain(r"\text{Ada \textbf{Lorn}}"), plain("C:\\temp {a}")
    ('Ada Lorn', 'C:\\temp {a}')
    """
    text = text.replace("{,}", ",")
    if not _COMMAND.search(text):
        return text
    text = _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)
    for _ in range(DEEPEST):
        text = _NESTED.sub(_inside, text)
    return _BRACE.sub(r"\1", text).strip()


def _inside(match: re.Match[str]) -> str:
    """Return what a command or a pair of braces holds."""
    kept, above, below, group = match.groups()
    return f"{above}/{below}" if above is not None else kept if kept is not None else group
