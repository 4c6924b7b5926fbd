"""Tables and text for LaTeX, in the style of the package booktabs; everything is escaped, braces too."""

from collections.abc import Sequence

_SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}",
            "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "−": "$-$", "±": r"$\pm$",
            "×": r"$\times$", "→": r"$\to$", "≥": r"$\geq$", "≤": r"$\leq$", "ε": r"$\epsilon$", "λ": r"$\lambda$", "α": r"$\alpha$",
            "β": r"$\beta$", "∞": r"$\infty$", "…": r"\dots{}", "–": "--", "—": "---"}  # fmt: skip


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def tabular(headings: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a tabular environment; columns of numbers are set right. With no rows `numeric` may be empty."""
    kinds = "".join("r" if number else "l" for number in numeric) or "l" * len(headings)
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _line(headings), r"\midrule", *map(_line, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines)


def _line(texts: Sequence[str]) -> str:
    # a cell that begins with [ would be the optional argument of the \\ before it
    return " & ".join(("{}" if text.startswith("[") else "") + escape(text) for text in texts) + r" \\"
