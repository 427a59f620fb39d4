"""Readers for the results of benchmarks/trust.py: the tables of docs/results.md and docs/trust.md about trust."""

from __future__ import annotations

from collections.abc import Sequence

from results_outcome import Json, Outcome, cell_of, only_result, rows_of, table_of, value_of

SLOTS, IN_DOUBT = "pooled:16", "pooled:16/doubt=256"
AS_ASK = "as `ask`"
MOST_UNMARKED, FEWEST_REFUSED, MOST_REFUSED, MOST_FALSE = 0.02, 0.9, 0.03, 0.02


def sentences(file: Json) -> Outcome:
    """Recalled sentences that the text does not have, with and without a mark."""
    row = _row(file, "Recalled sentences", SLOTS)
    unmarked, marked = value_of(row, 1), value_of(row, 2)
    rows = rows_of(file, "Recalled sentences")
    if unmarked is None or marked is None:
        return Outcome(rows, None, "too few sentences were recalled")
    reached = unmarked < MOST_UNMARKED and marked < MOST_UNMARKED
    count = row["cells"][0]["count"]
    summary = f"of {count} sentences from slots, {100 * unmarked:.1f} % and {100 * marked:.1f} %"
    return Outcome(rows, reached, summary)


def refusals(file: Json) -> Outcome:
    """Refused questions, by what refuses them."""
    table = table_of(only_result(file), "Refusals")
    asked = {row["names"][0]: row for row in table["rows"] if row["names"][1].startswith(AS_ASK)}
    shares = {system: (value_of(row), value_of(row, 1)) for system, row in asked.items() if system != SLOTS}
    reached = all(yes >= FEWEST_REFUSED and no <= MOST_REFUSED for yes, no in shares.values())
    listed = "; ".join(
        f"`{name}` {100 * right:.0f} % and {100 * wrong:.0f} %" for name, (right, wrong) in shares.items()
    )
    return Outcome(rows_of(file, "Refusals"), reached, f"as `ask` answers, {listed}")


def marks(file: Json) -> Outcome:
    """Marks of answers that are no refusals."""
    marked = value_of(_row(file, "Marks", IN_DOUBT), 2)
    share = "none was given" if marked is None else f"{100 * marked:.0f} % of the answers to unanswerable questions"
    return Outcome(rows_of(file, "Marks"), None, f"`{IN_DOUBT}`: {share}")


def names(file: Json) -> Outcome:
    """Names of public questions."""
    tables = [table for table in only_result(file)["tables"] if table["title"] == "Names"]
    if not tables:
        return Outcome([], None, "no --data was given")
    worst = max(value_of(row, 1) for row in tables[0]["rows"])
    return Outcome(rows_of(file, "Names"), None, f"at most {100 * worst:.1f} % are marked falsely")


def again(file: Json) -> Outcome:
    """Reading the text again never, in doubt and always: accuracy beside cost."""
    costs = {row["names"][0]: row for row in table_of(only_result(file), "Cost of reading again")["rows"]}
    accuracy = table_of(only_result(file), "Reading again")["rows"]
    rows = [[*row["names"], *_cells(row["cells"]), *_cells(costs[row["names"][0]]["cells"])] for row in accuracy]
    right = ", ".join(f"{row['names'][0]} {100 * value_of(row):.0f} %" for row in accuracy)
    return Outcome(rows, None, f"right answers: {right}")


def texts(file: Json) -> Outcome:
    """Foreign and familiar texts."""
    rows = table_of(only_result(file), "Texts")["rows"]
    foreign = [value_of(row) for row in rows if "foreign" in row["names"][0]]
    familiar = [row["cells"][1] for row in rows if "foreign" not in row["names"][0]]
    false = sum(cell["value"] * cell["count"] for cell in familiar) / sum(cell["count"] for cell in familiar)
    summary = f"{100 * min(foreign):.0f} % of the foreign texts, {100 * false:.1f} % of the almanac texts"
    return Outcome(rows_of(file, "Texts"), min(foreign) == 1 and false <= MOST_FALSE, summary)


def _row(file: Json, title: str, system: str) -> Json:
    row: Json = next(row for row in table_of(only_result(file), title)["rows"] if row["names"][0] == system)
    return row


def _cells(cells: Sequence[Json]) -> list[str]:
    return [cell_of(cell) for cell in cells]
