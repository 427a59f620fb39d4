import pytest

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.prompt import user_message
from memfold.core.types import Memory, Reply, Text
from memfold.evaluation.candidate import check_labels, make_candidate, reference_label, with_ratios


def test_a_label_sets_ratio_and_style_over_what_was_trained(trained: Backbone) -> None:
    plain = make_candidate("pooled", trained).system.settings
    named = [plain[name] for name in ("ratio", "wrapper", "positions", "style")]
    assert named == [16, "none", "consecutive", "recall"]
    special = make_candidate("pooled:4/bare", trained)
    assert (special.label, special.name) == ("pooled:4/bare", "pooled")
    assert (special.system.settings["ratio"], special.system.settings["style"]) == (4, "bare")
    assert make_candidate("full/bare", trained).system.settings["style"] == "bare"


def test_a_label_may_set_anything_that_its_system_has(trained: Backbone) -> None:
    settings = make_candidate("pooled:4/bare/wrapper=span/gap=7", trained).system.settings
    named = [settings[name] for name in ("ratio", "style", "wrapper", "gap", "positions")]
    assert named == [4, "bare", "span", 7, "consecutive"]
    assert make_candidate("retrieval/top=8", trained).system.settings["top"] == 8


def test_a_ratio_that_was_not_trained_is_possible_and_known(trained: Backbone) -> None:
    assert make_candidate("pooled:4", trained).trained
    assert not make_candidate("pooled:8", trained).trained
    assert make_candidate("full", trained).trained


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("poold", "unknown system 'poold'; nearest: 'pooled'"),
        ("full:4", "ratio 4 is not possible: system 'full' keeps the text as it is"),
        ("retrieval/tops=3", "unknown retrieval setting 'tops'; nearest: 'top'"),
        ("pooled/wraper=none", "nearest: 'wrapper'"),
        ("pooled:x", "cannot be read"),
        ("pooled/long", "unknown style in system 'pooled/long': 'long'; known: bare, free, recall"),
        ("pooled/recal", "nearest: 'recall'"),
        ("pooled/bare/recall", "system 'pooled/bare/recall' has two values for style; give one"),
        ("pooled/unfold=4/unfold=8", "two values for unfold"),
        ("pooled/unfold=-1", "unfold = -1 is not possible; allowed: 0"),
        ("pooled/max_gap=8", "unknown pooled setting 'max_gap'; nearest: 'gap'; known: "),
        ("full/read_loss=0", "unknown full setting 'read_loss'; known: "),
        ("pooled/top=3", "unknown pooled setting 'top'; known: "),
        ("pooled:5/window=64", "ratio 5 is not possible with the settings of model 'qwen3', which was trained at "),
        ("", "cannot be read"),
        ("pooled:0", "ratio 0 is not possible"),
    ],
)
def test_a_label_that_makes_no_system(trained: Backbone, label: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_candidate(label, trained)


def test_names_are_checked_without_a_model() -> None:
    check_labels(["full", "pooled:4/bare", "closed-book"])
    with pytest.raises(ConfigError, match="nearest: 'closed-book'"):
        check_labels(["full", "closed-bok"])
    with pytest.raises(ConfigError, match="unknown pooled setting 'max_gap'"):
        check_labels(["pooled/max_gap=3"])


def test_ratios_spread_over_the_systems_that_have_one(trained: Backbone) -> None:
    spread = with_ratios(["full", "pooled/bare", "pooled:16"], [4, 8], trained)
    assert spread == ["full", "pooled:4/bare", "pooled:8/bare", "pooled:16"]
    assert with_ratios(["pooled/gap=3"], [4], trained) == ["pooled:4/gap=3"]
    assert with_ratios(["pooled", "full", "pooled"], [], trained) == ["pooled", "full"]
    with pytest.raises(ConfigError, match="--ratio 4 applies to none of the systems full, retrieval; leave it out"):
        with_ratios(["full", "retrieval"], [4], trained)


def test_the_reference_is_the_first_full() -> None:
    assert reference_label(["pooled", "full/bare", "full"]) == "full/bare"
    assert reference_label(["pooled", "fuller"]) is None


def test_closed_book_asks_with_the_question_alone(trained: Backbone) -> None:
    system = make_candidate("closed-book", trained).system
    memory = Memory("m", "closed-book", {}, "", ("d",), [])
    steps = system.answer(memory, "Where?")
    (call,) = next(steps)
    assert call.parts == user_message(Text("\nWhere?\nRecall:"))
    with pytest.raises(StopIteration) as stop:
        steps.send((Reply(" So. \\boxed{Velm}"),))
    assert stop.value.value.text == "Velm"
    rendered = system.render(memory, call, trained)
    assert rendered.tokens == [trained.end_token, *trained.encode("\nWhere?\nRecall:")]
    assert rendered.memory_positions == 0
