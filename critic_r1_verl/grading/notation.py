# SPDX-License-Identifier: Apache-2.0
r"""One spelling for the many ways to write the same answer: LaTeX, Unicode and plain text become one plain text.

`\dfrac{1}{2}` and `½` become `\frac{1}{2}`, `2\,\text{cm}²` becomes `2 cm^{2}`, `\left[0,\infty\right)` becomes `[0,∞)`. Nothing is
evaluated. A matrix becomes ⟦ ⟧ with & and new lines, and the braces of a set ⦃ ⦄. All patterns take linear time.
"""

import re
import unicodedata

_SUPERSCRIPTS = {char: plain for char, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True)}
_SUBSCRIPTS = {char: plain for char, plain in zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n", strict=True)}
_SCRIPT_RUN = re.compile(f"([{''.join(_SUPERSCRIPTS)}]+)|([{''.join(_SUBSCRIPTS)}]+)")
_EMPHASIS = re.compile(r"\A\s*(?:\*\*|__)([^*]+)(?:\*\*|__)\.?\s*\Z")
_VULGAR_FRACTION = re.compile("[¼½¾⅐-⅞]")
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−‐‑‒–—﹣－", "-"),
        **dict.fromkeys("×∗✕", "*"),
        **dict.fromkeys("·⋅∙•", "*"),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("，、،", ","),
        **dict.fromkeys("；", ";"),
        **dict.fromkeys("：∶", ":"),
        **dict.fromkeys("≤⩽≦", "≤"),
        **dict.fromkeys("≥⩾≧", "≥"),
        **dict.fromkeys("≈≃≅", "≈"),
        **dict.fromkeys("′’‘´ʹ", "'"),
        **dict.fromkeys("˚º∘", "°"),
        **dict.fromkeys("∣｜", "|"),
        "″": "''",
        "。": ".",
        "√": "\\sqrt ",
        "∛": "\\sqrt[3]",
        "ϕ": "φ",
        "ϵ": "ε",
    }
)
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi omega"
_SYMBOLS = {
    **{name: unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if name == 'lambda' else name.upper()}") for name in _GREEK.split()},
    **{
        name.capitalize(): unicodedata.lookup(f"GREEK CAPITAL LETTER {'LAMDA' if name == 'lambda' else name.upper()}")
        for name in ["gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"]
    },
    **dict.fromkeys(("varepsilon",), "ε"),
    **dict.fromkeys(("varphi",), "φ"),
    **dict.fromkeys(("vartheta",), "θ"),
    **dict.fromkeys(("times", "cdot", "ast"), "*"),
    **dict.fromkeys(("le", "leq", "leqslant", "leqq"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant", "geqq"), "≥"),
    **dict.fromkeys(("ne", "neq"), "≠"),
    **dict.fromkeys(("approx", "simeq", "cong"), "≈"),
    **dict.fromkeys(("lt",), "<"),
    **dict.fromkeys(("gt",), ">"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("lbrack",), "["),
    **dict.fromkeys(("rbrack",), "]"),
    **dict.fromkeys(("emptyset", "varnothing"), "∅"),
    **dict.fromkeys(("degree", "circ"), "°"),
    **dict.fromkeys(("to", "rightarrow", "longrightarrow"), "→"),
    **{"div": "/", "pm": "±", "mp": "∓", "infty": "∞", "cup": "∪", "cap": "∩", "in": "∈", "colon": ":", "prime": "'"},
    **{
        "overrightarrow": "\\vec",
        "lbrace": "⦃",
        "rbrace": "⦄",
        "langle": "⟨",
        "rangle": "⟩",
        "percent": "%",
        "euro": "€",
        "pounds": "£",
        "yen": "¥",
    },
    **{"angle": "∠", "triangle": "△", "parallel": "∥", "perp": "⊥", "therefore": "", "because": "", "land": "∧", "lor": "∨"},
}
_ASCII_SYMBOLS = {"<=": "≤", ">=": "≥", "!=": "≠", "=<": "≤", "=>": "=>", "**": "^", "+-": "±", "+/-": "±", "==": "=", "~=": "≈"}
_ASCII_SYMBOL = re.compile("|".join(re.escape(text) for text in sorted(_ASCII_SYMBOLS, key=len, reverse=True)))
_ASCII_NAMES = {
    "sqrt": "\\sqrt ",
    "pi": "π",
    "infinity": "∞",
    "inf": "∞",
    "degrees": "°",
    "degree": "°",
    "deg": "°",
    "percent": "%",
    "per cent": "%",
    "percentage": "%",
    "pct": "%",
}
_ASCII_NAME = re.compile(rf"(?<![A-Za-z\\])({'|'.join(_ASCII_NAMES)})(?![A-Za-z])")
_NAMED_FIGURE = re.compile(r"(?<![A-Za-z\\])(?:(angle)|triangle) (?=[A-Z]{1,3}(?![A-Za-z]))", re.ASCII)
_CLOCK = re.compile(r"(?<=[0-9 ])([ap])\. ?m\.?(?![A-Za-z])", re.IGNORECASE)
_MAGNITUDE = re.compile(r"(?<=[0-9])\s*(hundred|thousand|million|billion|trillion)(?![A-Za-z])", re.IGNORECASE)
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}

# A text that is plain already, but for names. Groups of digits, 5 million and signs of two characters need the rest.
_SIMPLE = re.compile(
    r"(?!.*(?:[0-9][ .][0-9]{3}|[0-9] ?(?:[a-z]*illion|hundred|thousand)|[+=][-/=><]))[A-Za-z0-9.,:;()/%=+ -]+", re.IGNORECASE | re.ASCII
)
# What changes the look alone.
_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|tiny|small|normalsize|large|Large|LARGE|huge|Huge"
    r"|rm|bf|it|sf|tt|cal|mathstrut|strut|centering|boldmath|hfill|newline|notag|nonumber)(?![A-Za-z])\.?"
)
_FRACTIONS = re.compile(r"\\(?:[dtcsx]|nice)frac(?![A-Za-z])")
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}|\A([^{}\\]*)\\over(?![A-Za-z])([^{}\\]*)\Z")
_SWITCHED = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt)(?![A-Za-z])([^{}]*)\}")
WRAPPERS = (
    "text|mathbb|textbf|textrm|textit|textsf|texttt|textnormal|emph|underline|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb"
    "|mbox|hbox|fbox|boxed|operatorname|rm|bf|ensuremath|displaystyle"
)
"""The LaTeX commands whose argument is read as if the command were not there, as alternatives of a pattern."""
_WRAPPED = re.compile(rf"\\(?:{WRAPPERS})\*?\s*\{{([^{{}}]*)\}}")
_WRAPPER = re.compile(rf"\\(?:{WRAPPERS})(?![A-Za-z])\*?")
_COLOUR = re.compile(r"\\(?:textcolor|color|colorbox)\s*\{[^{}]*\}")
_SPACES = re.compile(r"\\[,;:! ]|\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|space|par)(?![A-Za-z])|~")
_MATRIX = re.compile(r"\\(begin|end)\s*\{(?:small|[pbB])?(?:matrix|array)\*?\}(?:\{[lcr|]*\})?")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{(?:cases|aligned|align|alignat|gathered|gather|split|equation|eqnarray|center)\*?\}")
# As JSON writes them; two backslashes before anything else end a row.
_TWICE_ESCAPED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|left|right|text|math(?:rm|bf)|boxed|pi|infty|cup|cap|pm|cdot|times|circ|leq?|geq?|neq?|in)(?![A-Za-z]))"
)
_ROW_END = re.compile(r"\\\\(?:\[[^\[\]]{0,9}\])?")
_DISPLAY_JOIN = re.compile(r"\$\$\s*\$\$|\\\]\s*\\\[|\\\)\s*\n\s*\\\(")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ESCAPED = {"\\{": "⦃", "\\}": "⦄", "\\%": "%", "\\$": "＄", "\\#": "#", "\\&": "＆", "\\_": "_", "\\|": "|"}
_ESCAPE = re.compile(r"\\[{}%$#&_|]")
_DEGREES = re.compile(r"\^\s*(?:\{\s*°\s*\}|°)")
# Commands and Greek letters mean something else in the other case.
_CASED = re.compile(r"(\\[A-Za-z]+|[Α-Ωα-ω]+)|([^\\Α-Ωα-ω]+)")
# Groups of three digits. A comma counts only outside brackets and without a space, so this is left to grouped_commas.
_SURE_GROUPS = re.compile(
    r"(?<![0-9.,])[0-9]{1,3}(?:(?:\{,\}|\{\\,\}|\\!?,\\! ?|,\\! ?|\\,\\!|\\,|\\!|\\ |\\thinspace |\\;|\\:|~|[ '_\u066c])[0-9]{3})+(?![0-9])"
)
_DOTTED_GROUPS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:\.[0-9]{3}){2,})(?:,([0-9]+))?(?![0-9.,])")
_COMMA_GROUPS = re.compile(r"(?<![0-9.,])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?![0-9]|,[0-9])")


def plain(text: str) -> str:
    """The text in the one spelling; several lines stay several lines, and math delimiters are dropped."""
    if _SIMPLE.fullmatch(text):
        return _with_symbols(" ".join(text.split()))
    text = _VULGAR_FRACTION.sub(_vulgar, _EMPHASIS.sub(r"\1", text).replace("{}", ""))
    text = _SCRIPT_RUN.sub(_script, text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    text = "".join(char for char in text if char == "\n" or unicodedata.category(char) not in ("Cf", "Cc"))
    text = text.replace("−", "-")
    text = _TWICE_ESCAPED.sub(r"\\", text)
    if "\\begin" in text:
        text = _MATRIX.sub(lambda match: "⟦" if match[1] == "begin" else "⟧", text.replace("\n", " "))
        text = _ENVIRONMENT.sub("", text) if "⟦" in text else _ENVIRONMENT.sub("", text).replace("&", " ")
    text = _ROW_END.sub("\n", _DISPLAY_JOIN.sub("\n", text))
    text = _ESCAPE.sub(lambda match: _ESCAPED[match[0]], text)
    text = _SURE_GROUPS.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), text)
    text = _DOTTED_GROUPS.sub(lambda match: match[1].replace(".", "") + (f".{match[2]}" if match[2] else ""), text)
    text = _SIZES.sub("", _SWITCHED.sub(r" \1 ", text))
    text = _OVER.sub(lambda match: f"\\frac{{{match[1] or match[3]}}}{{{match[2] or match[4]}}}", _FRACTIONS.sub(r"\\frac", text))
    text = _COLOUR.sub("", text)
    for _ in range(4):
        unwrapped = _WRAPPED.sub(r" \1 ", text)
        if unwrapped == text:
            break
        text = unwrapped
    text = _WRAPPER.sub("", text)
    text = _SPACES.sub(" ", text)
    text = _COMMAND.sub(lambda match: _SYMBOLS.get(match[1], match[0]), text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = _without_dollars(text)
    text = _DEGREES.sub("°", _ASCII_SYMBOL.sub(lambda match: _ASCII_SYMBOLS[match[0]], text))
    text = _with_symbols(text)
    text = re.sub("(?<=[0-9]) [xX] (?=10 ?\\^)", "*", text)
    text = _MAGNITUDE.sub(lambda match: f"*10^{{{_ZEROS[match[1].lower()]}}}", text)
    lines = (" ".join(line.split()) for line in text.replace("`", "").split("\n"))
    return "\n".join(line for line in lines if line)


def _with_symbols(text: str) -> str:
    """The text with the signs that its words stand for."""
    text = _CLOCK.sub(r"\1m", _NAMED_FIGURE.sub(lambda match: "∠" if match[1] else "△", text))
    return _ASCII_NAME.sub(lambda match: _ASCII_NAMES[match[1]], text)


def grouped_commas(text: str) -> str:
    """The text with `1,234` read as one number instead of two."""
    return _COMMA_GROUPS.sub(lambda match: match[0].replace(",", ""), text)


def key(text: str, *, folded: bool = True) -> str:
    """What two plain texts have in common if they differ in spaces, superfluous braces or the case of their letters only.

    Commands keep their case, and so do all letters of a text that uses one letter in both cases. A space between two letters or between
    two digits counts.
    """
    text = re.sub(r"\{([A-Za-z0-9])\}", r"\1", text.replace("\n", " "))
    text = re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=[0-9]) (?=[A-Za-z])", "", text)
    letters = {*re.sub(r"\\[A-Za-z]+", "", text)}
    if not folded or (len(letters) > len({letter.casefold() for letter in letters}) and re.search("[0-9=+^_\\\\]", text)):
        return text
    return _CASED.sub(lambda match: match[1] or match[2].casefold(), text)


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return f"\\frac{{{top}}}{{{bottom}}}" if top and bottom else match[0]


def _script(match: re.Match[str]) -> str:
    if match[1]:
        return f"^{{{''.join(_SUPERSCRIPTS[char] for char in match[1])}}}"
    return f"_{{{''.join(_SUBSCRIPTS[char] for char in match[2])}}}"


def _without_dollars(text: str) -> str:
    """Dollar signs are delimiters of maths in pairs; an escaped or a single one is money, and stays."""
    text = text.replace("$$", " ")
    if text.count("$") % 2 == 0:
        text = text.replace("$", " ")
    return text.replace("＄", "$")
