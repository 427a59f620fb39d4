"""Readers for the results of `memfold eval`: the rows of docs/results.md about the quality of answers."""

from __future__ import annotations

from results_outcome import Json, Outcome, cell_of, only_result, rows_of, table_of, value_of

ALL = "all"
SLOTS = "pooled:16"
ROUGE_TARGETS = {"512": 0.97, "2048": 0.95}  # tokens -> ROUGE-L
EXPANSION_COLUMNS = 7
BLOCK = "kvbank:4/compressor={}/reading=block"
TRAINED, BANK = "kvbank:{}/reading=block/chunk=1024", "kvbank"
FIDELITY_COLUMNS = ("whole groups", "whole, forced", "numbers and codes", "names", "loss")


def wrappers(file: Json) -> Outcome:
    """The accuracy of models trained with wrapper span and with wrapper slot."""
    cells = {name: table_of(result, "Accuracy")["rows"][0]["cells"][0] for name, result in file["results"].items()}
    rows = [[name, cell_of(cell)] for name, cell in cells.items()]
    points = 100 * (cells["slot"]["value"] - cells["span"]["value"])
    return Outcome(rows, points <= 1, f"span is {abs(points):.1f} points {'behind' if points > 0 else 'ahead of'} slot")


def one_hop(file: Json) -> Outcome:
    """One-hop questions answered from the full text and from slots."""
    result = only_result(file)
    shares = {row["names"][0]: value_of(row) for row in table_of(result, "Share of full")["rows"]}
    full = value_of(_full_row(result))
    by_16, by_4 = shares[SLOTS], shares["pooled:4"]
    summary = f"`full` has {100 * full:.0f} %, 16x {100 * by_16:.0f} % of that, 4x {100 * by_4:.0f} %"
    rows = [row[:3] for row in rows_of(file, "Accuracy")]
    return Outcome(rows, full >= 0.95 and by_16 >= 0.9 and by_4 >= 0.97, summary)


def question_kinds(file: Json) -> Outcome:
    """Questions of all kinds, over all lengths."""
    rows = [row[1:] for row in rows_of(file, "Accuracy") if row[0] == ALL]
    full = _full_row(only_result(file))
    one, two = value_of(full, 1), value_of(full, 2)
    summary = f"`full` has {100 * one:.0f} % of the one-hop and {100 * two:.0f} % of the two-hop questions"
    return Outcome(rows, one >= 0.95 and two >= 0.8, summary)


def selection(file: Json) -> Outcome:
    """Questions answered from blocks whose pairs are chosen without training."""
    rows = [row[1:] for row in rows_of(file, "Accuracy") if row[0] == ALL]
    table = table_of(only_result(file), "Accuracy")
    right = {row["names"][1]: value_of(row) for row in table["rows"] if row["names"][0] == ALL}
    share = right[BLOCK.format("reconstruction")] / right["full"]
    controls = max(right[BLOCK.format(name)] for name in ("recent", "random")) / right["full"]
    summary = f"reconstruction at ratio 4 has {100 * share:.0f} % of `full`, the better control {100 * controls:.0f} %"
    return Outcome(rows, share >= 0.9 and share > controls, summary)


def blocks(file: Json) -> Outcome:
    """One-hop questions answered from one block of trained keys and values."""
    result = only_result(file)
    rows = [row[:3] for row in rows_of(file, "Accuracy")]
    shares = {row["names"][0]: value_of(row) for row in table_of(result, "Share of full")["rows"]}
    parts = [f"ratio {ratio} has {100 * shares[TRAINED.format(ratio)]:.0f} %" for ratio in (4, 8, 16)]
    summary = f"{', '.join(parts)} of `full`"
    return Outcome(rows, shares[TRAINED.format(16)] >= 0.9 and shares[TRAINED.format(4)] >= 0.99, summary)


def very_long(file: Json) -> Outcome:
    """Questions about very long texts: right answers, and what they cost."""
    rows = []
    right: dict[int, float] = {}
    for result in file["results"].values():
        work = {tuple(row["names"]): row["cells"] for row in table_of(result, "Work for a question")["rows"]}
        for row in table_of(result, "RULER-HQA")["rows"]:
            tokens, system = row["names"]
            if tokens == ALL:  # of several lengths
                continue
            cells = [*row["cells"][:3], *work[tokens, system][:3], work[tokens, system][4]]
            rows.append([tokens, system, *map(cell_of, cells)])
            if system == BANK:
                right[len(right)] = value_of(row)
    if len(right) < 2:
        return Outcome(rows, None, "a loss takes at least two lengths to see")
    lost = 100 * (right[0] - right[max(right)])
    summary = f"`{BANK}` loses {lost:.1f} points from the shortest to the longest texts"
    return Outcome(rows, lost < 5 and right[0] >= 0.85, summary)


def side_by_side(file: Json) -> Outcome:
    """The same figures of every system, one length after the other; the systems may have other lengths."""
    rows = very_long(file).rows
    lengths = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: lengths.index(row[0]))
    at_the_longest = [f"`{row[1]}` has {row[2].split(' [')[0]}" for row in rows if row[0] == lengths[-1]]
    return Outcome(rows, None, f"at {lengths[-1]} tokens {', '.join(at_the_longest)}")


def citations(file: Json) -> Outcome:
    """Whether the citations of right answers name the evidence."""
    rows = rows_of(file, "Citations")
    share = value_of(_slots_row(file, "Citations"))
    if share is None:
        return Outcome(rows, None, "no answer is right")
    return Outcome(rows, share >= 0.8, f"{100 * share:.0f} % of the right answers from slots")


def expansion(file: Json) -> Outcome:
    """How much of the document replies write out again."""
    rows = [row[: 1 + EXPANSION_COLUMNS] for row in rows_of(file, "Expansion")]
    share = value_of(_slots_row(file, "Expansion"))
    return Outcome(rows, None, f"{100 * share:.0f} % of the replies from slots expand")


def longer_texts(file: Json) -> Outcome:
    """One-hop questions about longer texts."""
    rows = [row[:3] for row in rows_of(file, "Accuracy") if row[0] != ALL]
    values = {}
    for row in table_of(only_result(file), "Accuracy")["rows"]:
        tokens, system = row["names"]
        if system == SLOTS and tokens != ALL:
            values[int(tokens)] = value_of(row)
    if len(values) < 2:
        return Outcome(rows, None, "a loss takes at least two lengths to see")
    shortest = min(values)
    lost = values[shortest] - min(values.values())
    return Outcome(rows, lost <= 0.05, f"{100 * lost:.0f} points are lost from {shortest:,} tokens on")


def fidelity(file: Json) -> Outcome:
    """What a few slots hold, over all lengths."""
    tables = [table for table in only_result(file)["tables"] if table["title"].startswith("Fidelity")]
    rows, losses = list[list[str]](), list[float]()
    for table in tables:
        for row in table["rows"]:
            if row["names"][0] == ALL:
                shown = [row["cells"][table["columns"].index(name)] for name in FIDELITY_COLUMNS]
                rows.append([table["title"].split()[1], *row["names"], *map(cell_of, shown)])
                losses.append(shown[-1]["value"])
    return Outcome(rows, max(losses) < 0.1, f"the loss is {min(losses):.3f} to {max(losses):.3f}")


def reconstruction(file: Json) -> Outcome:
    """Whole texts written out from their memory."""
    rouge = {}
    for row in table_of(only_result(file), "Reconstruction")["rows"]:
        tokens, system = row["names"]
        if system == SLOTS and tokens in ROUGE_TARGETS:
            rouge[tokens] = value_of(row, 1)
    reached = all(rouge.get(tokens, 0.0) >= target for tokens, target in ROUGE_TARGETS.items())
    measured = [f"{rouge[tokens]:.2f} at {int(tokens):,} tokens" for tokens in ROUGE_TARGETS if tokens in rouge]
    summary = f"16x has {', '.join(measured)}" if measured else "neither length was measured"
    return Outcome([row[:4] for row in rows_of(file, "Reconstruction")], reached, summary)


def needle(file: Json) -> Outcome:
    """Needles by length, and the cell of length and depth with the lowest score."""
    table = table_of(only_result(file), "Needle")
    lengths = [row for row in table["rows"] if _is_slots(row["names"][-1]) and row["names"][0] != ALL]
    mean = sum(value_of(row) for row in lengths) / len(lengths)
    lowest = min(value_of(row, 1) for row in lengths)
    summary = f"the mean over lengths is {mean:.2f}, the lowest cell {lowest:.2f}"
    return Outcome(rows_of(file, "Needle"), mean >= 9 and lowest >= 6, summary)


def multihop(file: Json) -> Outcome:
    """What is lost from the shortest to the longest texts."""
    title = "From the shortest to the longest"
    table = table_of(only_result(file), title)
    lost = max(value_of(row, 2) for row in table["rows"] if _is_slots(row["names"][0]))
    return Outcome(rows_of(file, title), lost <= 0.05, f"{100 * lost:.1f} points are lost")


def strings(file: Json) -> Outcome:
    """Strings that come back character for character."""
    table = table_of(only_result(file), "Exact strings")
    unfold = next(row for row in table["rows"] if "unfold" in row["names"][-1])
    rows, exact = rows_of(file, "Exact strings"), value_of(unfold, 2)
    if exact is None:
        return Outcome(rows, None, "no answer cites the right block")
    return Outcome(rows, exact >= 0.98, f"{100 * exact:.1f} % are exact with unfold")


def _is_slots(label: str) -> bool:
    return label.startswith("pooled")


def _full_row(result: Json) -> Json:
    """The accuracy of `full` over all lengths."""
    row: Json = next(row for row in table_of(result, "Accuracy")["rows"] if row["names"] == [ALL, "full"])
    return row


def _slots_row(file: Json, title: str) -> Json:
    """The first row of a table that is about slots."""
    row: Json = next(row for row in table_of(only_result(file), title)["rows"] if _is_slots(row["names"][0]))
    return row
