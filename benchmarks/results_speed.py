"""Readers for the results of `memfold bench`: the rows of docs/results.md about speed and memory."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from results_outcome import Json, Outcome, only_result

PAPER = {32768: 7.7, 122880: 13.3}  # tokens -> speed-up; appendix E, table 7: 7B, wrapper slot, on a GPU
MEGABYTE = 1 << 20
FIRST_QUESTION_TOKENS = 32768
LONG_TOKENS = 120_000


def folding_speed(file: Json) -> Outcome:
    """The speed of folding relative to a forward pass."""
    entries = _entries(file)
    rows = []
    for entry in entries:
        speed, ratio = f"{entry['tokens_per_second']:,}", f"{entry['share_of_forward']:.2f}"
        rows.append([_tokens(entry), speed, ratio, _fold_seconds(entry), _peak_megabytes(entry)])
    lowest = min(entry["share_of_forward"] for entry in entries)
    return Outcome(rows, lowest >= 0.8, f"the lowest ratio is {lowest:.2f}")


def folding_growth(file: Json) -> Outcome:
    """How the time of folding grows with the length."""
    rows = []
    for entry in _entries(file):
        speed = f"{entry['tokens_per_second']:,}"
        rows.append([_tokens(entry), _fold_seconds(entry), speed, _peak_megabytes(entry)])
    slope = only_result(file)["slope"]
    return Outcome(rows, slope <= 1.05, f"the slope is {slope:.3f}")


def folding_together(file: Json) -> Outcome:
    """Several documents folded at once against one by one."""
    rows, summaries = [], []
    entries = only_result(file)["together"]
    for entry in entries:
        apart, together = (_seconds(entry["seconds"][name]) for name in ("apart", "together"))
        rows.append([str(entry["documents"]), str(entry["tokens_each"]), apart, together, f"{entry['ratio']:.2f}x"])
        summaries.append(f"{entry['ratio']:.2f} times as fast with about {entry['tokens_each']} tokens each")
    return Outcome(rows, entries[0]["ratio"] >= 2, ", ".join(summaries))


def first_token(file: Json) -> Outcome:
    """The first token from a stored memory against the full text, measured and predicted, by wrapper."""
    rows, ratios = [], []
    for entry in _entries(file):
        seconds = entry["seconds"]
        for wrapper, result in entry["wrappers"].items():
            ratios.append(result["share_of_predicted"])
            times = (_seconds(seconds["full"]), _seconds(seconds[wrapper]))
            gains = (f"{result['measured']:.1f}x", f"{result['predicted']:.1f}x", f"{ratios[-1]:.2f}")
            paper = f"{PAPER[entry['tokens']]}x" if wrapper == "slot" and entry["tokens"] in PAPER else "-"
            break_even = result["questions_until_it_pays"]
            questions = "never" if break_even is None else str(break_even)
            rows.append([_tokens(entry), wrapper, *times, *gains, paper, questions])
    return Outcome(rows, min(ratios) >= 0.8, f"the lowest ratio is {min(ratios):.2f}")


def first_token_with_folding(file: Json) -> Outcome:
    """The first token of a first question, which has to wait for folding, against the full text."""
    rows, gains = [], {}
    for entry in _entries(file):
        seconds, result = entry["seconds"], entry["with_folding"]
        gains[entry["tokens"]] = result["measured"]
        times = (_seconds(seconds["full"]), _seconds(seconds["folded"]))
        rows.append([_tokens(entry), *times, f"{result['measured']:.2f}x", f"{result['predicted']:.2f}x"])
    gain = gains.get(FIRST_QUESTION_TOKENS)
    if gain is None:
        return Outcome(rows, None, f"{FIRST_QUESTION_TOKENS:,} tokens are not among the lengths")
    return Outcome(rows, gain > 1, f"{gain:.2f} times as fast at {FIRST_QUESTION_TOKENS:,} tokens")


def peak_memory(file: Json) -> Outcome:
    """The peak memory of a first token from slots against the full text."""
    rows = []
    for entry in _entries(file):
        peaks = entry["peak_bytes_above_weights"]
        megabytes = [_megabytes(peaks[name]) for name in ("full", "slot", "span", "folded")]
        rows.append([_tokens(entry), *megabytes, *(_ratio(ratio) for ratio in _memory_ratios(entry))])
    longest = max(_entries(file), key=lambda entry: int(entry["tokens"]))
    measured = [ratio for ratio in _memory_ratios(longest) if ratio is not None]
    if longest["tokens"] < LONG_TOKENS or len(measured) < len(longest["wrappers"]):
        return Outcome(rows, None, "120K tokens were not measured")
    summary = f"at most {max(measured):.2f} of the full text at {longest['tokens']:,} tokens"
    return Outcome(rows, max(measured) <= 0.4, summary)


def rollout(file: Json) -> Outcome:
    """The speed of sampling replies relative to plain decoding."""
    entries = _entries(file)
    rows = []
    for entry in entries:
        speed, ratio = f"{entry['tokens_per_second']:,}", f"{entry['share_of_decoding']:.2f}"
        rows.append([_tokens(entry), str(entry["replies"]), speed, ratio])
    lowest = min(entry["share_of_decoding"] for entry in entries)
    return Outcome(rows, lowest >= 0.7, f"the lowest ratio is {lowest:.2f}")


def system_costs(file: Json) -> Outcome:
    """What folding, the first token and the memory on disk cost with each system."""
    rows = []
    for entry in _entries(file):
        for label, result in entry["systems"].items():
            if "error" in result:
                rows.append([_tokens(entry), label, "cannot read this length", *["-"] * 8])
                continue
            seconds = [_seconds(result[f"{action}_seconds"]) for action in ("fold", "first_token", "answer", "again")]
            calls = f"{result['generating_calls']} of {result['calls']}"
            pays = "-" if result["pays_after"] is None else f"{result['pays_after']:.1f}"
            peaks = [_megabytes(result["peak_bytes_above_weights"][action]) for action in ("fold", "first_token")]
            rows.append([_tokens(entry), label, *seconds, calls, pays, *peaks, f"{result['file_bytes']:,}"])
    ratio = only_result(file)["ratio"]
    if not ratio:
        return Outcome(rows, None, "`full` was not measured beside another system")
    summary = f"at every length the fastest system gives its first token at least {ratio:.1f} times sooner than `full`"
    return Outcome(rows, None, summary)


def loops(file: Json) -> Outcome:
    """How much sooner the KV memory bank answers than what reads every chunk, at one length."""
    rows = system_costs(file).rows
    seconds = {label: median(result["answer_seconds"]) for label, result in _entries(file)[0]["systems"].items()}
    gains = [seconds[label] / seconds["kvbank"] for label in ("recurrent/passes=1", "kvbank/gate=open")]
    summary = (
        f"it answers {gains[0]:.1f} times sooner than `recurrent`, {gains[1]:.1f} times sooner than without its gate"
    )
    return Outcome(rows, gains[0] >= 6 and gains[1] >= 3.5, summary)


def _entries(file: Json) -> list[Json]:
    """The measurements of a benchmark, one for each length."""
    return list(only_result(file)["lengths"])


def _tokens(entry: Json) -> str:
    return f"{entry['tokens']:,}"


def _seconds(measured: Sequence[float]) -> str:
    return f"{median(measured):.3f}"


def _fold_seconds(entry: Json) -> str:
    return f"{median(entry['seconds']['fold']):.2f}"


def _peak_megabytes(entry: Json) -> str:
    return _megabytes(entry["peak_bytes_above_weights"])


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / MEGABYTE:,.0f}"


def _memory_ratios(entry: Json) -> list[float | None]:
    return [result["memory_share"] for result in entry["wrappers"].values()]


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
