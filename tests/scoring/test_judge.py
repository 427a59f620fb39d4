import json
from pathlib import Path

import pytest
from chat_server import ChatServer, fails, says, unused_port

from memfold.core.errors import CallError, ConfigError
from memfold.scoring.judge import VERDICTS_FILE, Claim, Judge, open_judge

CLAIM = Claim("Where was Ada born?", ("Velm", "Old Velm"), "In the town of Velm.")


def judge(server: ChatServer, folder: Path) -> Judge:
    return open_judge(f"{server.url}#judge", folder)


def test_the_prompt_contains_the_whole_claim(chat_server: ChatServer, tmp_path: Path) -> None:
    assert judge(chat_server, tmp_path).verdicts([CLAIM]) == [True]
    (message,) = chat_server.messages
    for part in (CLAIM.question, "- Velm\n- Old Velm", CLAIM.answer, "one of these", "yes or no"):
        assert part in message
    assert chat_server.asked[0]["temperature"] == 0
    assert "every one of these" in Claim("Which?", ("a", "b"), "a", every=True).message()
    assert "(nothing)" in Claim("Which?", ("a",), " ").message()


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**No**, it names another town.", False),
        ("The answer names the town, so: yes", True),
        ("<think>yes? no?</think>\nno", False),
        ("Yes, I am sure: yes.", True),
    ],
)
def test_verdicts(chat_server: ChatServer, tmp_path: Path, reply: str, verdict: bool) -> None:
    chat_server.usual = says(reply)
    assert judge(chat_server, tmp_path).verdicts([CLAIM]) == [verdict]


@pytest.mark.parametrize("reply", ["maybe", "", "Correct", "Yes and no", "There is no evidence for that, yet"])
def test_other_replies_are_errors_and_not_cached(chat_server: ChatServer, tmp_path: Path, reply: str) -> None:
    chat_server.plan = [says(reply)]
    model = judge(chat_server, tmp_path)
    (error,) = model.verdicts([CLAIM])
    assert isinstance(error, CallError)
    assert str(error).startswith(f"judge: {chat_server.url}#judge replied {reply[:4]!r}"[:-1])
    assert "expected yes or no" in str(error)
    assert model.verdicts([CLAIM]) == [True]


def test_a_verdict_is_cached_across_runs(chat_server: ChatServer, tmp_path: Path) -> None:
    chat_server.usual = says(lambda message: "no" if "Tor" in message else "yes")
    other = Claim(CLAIM.question, CLAIM.accepted, "Tor")
    assert judge(chat_server, tmp_path).verdicts([CLAIM, other, CLAIM]) == [True, False, True]
    assert len(chat_server.asked) == 2
    lines = (tmp_path / VERDICTS_FILE).read_text().splitlines()
    assert sorted(json.loads(line)["verdict"] for line in lines) == [False, True]
    with (tmp_path / VERDICTS_FILE).open("a") as file:
        file.write('{"key": "half')
    assert judge(chat_server, tmp_path).verdicts([other, CLAIM]) == [False, True]
    assert len(chat_server.asked) == 2
    assert open_judge(f"{chat_server.url}#another", tmp_path).verdicts([CLAIM]) == [True]
    assert len(chat_server.asked) == 3


def test_a_failed_request_is_an_error_of_its_claim_only(chat_server: ChatServer, tmp_path: Path) -> None:
    chat_server.plan = [fails(401, "who are you?")]
    verdicts = judge(chat_server, tmp_path).verdicts([CLAIM, Claim("Who?", ("x",), "x")])
    (error,) = [verdict for verdict in verdicts if isinstance(verdict, CallError)]
    assert "401" in str(error)
    assert [verdict for verdict in verdicts if not isinstance(verdict, CallError)] == [True]


def test_a_judge_is_an_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tiny' is not the address of an endpoint"):
        open_judge("tiny", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot cache verdicts"):
        open_judge(f"http://127.0.0.1:{unused_port()}/v1#judge", tmp_path / "file")


def test_verdicts_are_cached_for_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_judge("http://127.0.0.1:1/v1#judge").file == tmp_path / "memfold" / VERDICTS_FILE
