"""`python -m sweeper.cluster.relay WORDS`: a command whose standard output can be told from its standard error where both go into one job's log.

Every line of standard output begins with a mark. Imports no Ray.
"""

import io
import sys
from typing import TextIO

MARK = "\x1e"  # a control character that no table has: "record separator"


class Marked(io.TextIOBase):
    """A text stream that puts the mark before every line."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._at_start = out, True

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._out.encoding

    def fileno(self) -> int:
        return self._out.fileno()

    def write(self, text: str) -> int:
        if text:
            start = MARK if self._at_start else ""
            self._at_start = text.endswith("\n")
            body, end = (text[:-1], "\n") if self._at_start else (text, "")
            self._out.write(start + body.replace("\n", f"\n{MARK}") + end)
        return len(text)

    def flush(self) -> None:
        self._out.flush()


def main() -> None:
    """Run the command line with its standard output marked."""
    sys.stdout = Marked(sys.stdout)
    from sweeper.cli import main as run

    run()


if __name__ == "__main__":
    main()
