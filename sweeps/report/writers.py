"""Writers: a table as Markdown, CSV or LaTeX. Words of users (labels, names of files, classes) are escaped in each."""

import pandas as pd

from sweeps.report.values import Table, Value

# A spreadsheet takes a word that begins with one of these for a formula, and runs it.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shown(value: Value) -> str:
    """A table's value as people read it."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(table: Table) -> str:
    """With its title and note."""

    def line(words: list[str]) -> str:
        return f"| {' | '.join(words)} |"

    lines = [line([_in_markdown(head) for head in table.columns]), f"|{'---|' * len(table.columns)}"]
    for number, row in enumerate(table.rows):
        words = [_in_markdown(shown(value)) for value in row]
        lines.append(line([f"**{word}**" if (number, at) in table.marked else word for at, word in enumerate(words)]))
    note = [f"\n{_in_markdown(table.note)}"] if table.note else []
    return "\n".join([f"**{_in_markdown(table.title)}.**", *note, "", *lines]) + "\n"


def _in_markdown(word: str) -> str:
    """On one line, with nothing that ends a table's cell or begins markup."""
    word = " ".join(word.split()).replace("\\", "\\\\")
    for sign in "|<*`[":
        word = word.replace(sign, f"\\{sign}")
    return word


def csv(table: Table) -> str:
    """The values themselves. A word that a spreadsheet would run as a formula has an apostrophe before it."""
    frame = pd.DataFrame([[_in_csv(value) for value in row] for row in table.rows], dtype=object)
    frame.columns = [str(_in_csv(head)) for head in table.columns]
    text: str = frame.to_csv(index=False)
    return text


def _in_csv(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value) else value


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def latex(table: Table) -> str:
    """A table for the package booktabs."""
    frame = pd.DataFrame([[" ".join(shown(value).split()) for value in row] for row in table.rows])
    frame.columns = list(table.columns)
    numbers = [all(_is_number(word) for word in frame.iloc[:, at]) for at in range(len(table.columns))]
    shape = "".join("r" if number else "l" for number in numbers)
    text: str = frame.to_latex(index=False, escape=True, column_format=shape, caption=None)
    return f"% {' '.join(table.title.split())}\n{text}"
