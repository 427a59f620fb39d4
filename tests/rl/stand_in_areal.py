"""What AReaL 1.0.4 does around an agent, without its engine: sessions at an address, rewards, and their export.

It follows `OpenAIProxyWorkflow` (inline, `export_style="individual"`), its server and its cache: a completion is
recorded under its session when the request arrives, an agent is told its address and key, what it returns becomes the
rewards of completions, and these are added up from the last one back.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from chat_server import Body, ChatServer, Handler

LOG = logging.getLogger("stand-in")


@dataclass
class Completion:
    """One call: its message, and its reply and reward as soon as it has them."""

    message: str
    reply: str | None = None
    reward: float | None = None


@dataclass
class Areal:
    """The address and its sessions; `says` makes a reply from a message, or raises to fail the request."""

    server: ChatServer
    says: Callable[[str], str]
    turn_discount: float = 1.0
    sessions: dict[str, dict[str, Completion]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=count)

    def __post_init__(self) -> None:
        self.server.usual = self._complete

    def _complete(self, handler: Handler, body: Body) -> None:
        session = self.sessions[handler.headers["authorization"].removeprefix("Bearer ")]
        completion = Completion(body["messages"][0]["content"])
        name = f"chatcmpl-{next(self._numbers)}"
        session[name] = completion
        try:
            completion.reply = self.says(completion.message)
        except ValueError as error:
            handler.send(json.dumps({"detail": f"ValueError: {error}"}).encode(), "application/json", 500)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": completion.reply}, "finish_reason": "stop"}
        handler.send(json.dumps({"id": name, "choices": [choice]}).encode(), "application/json")

    async def episode(self, agent: Any, data: dict[str, Any]) -> dict[str, Completion] | None:
        """Run an agent on a row; return the completions with their rewards, None for a trajectory that is rejected."""
        assert asyncio.iscoroutinefunction(agent.run)
        key = f"key-{next(self._numbers)}"
        session = self.sessions[key] = {}
        try:
            rewards = await agent.run(data, base_url=self.server.url, http_client=object(), api_key=key)
        except Exception as error:
            LOG.warning("trajectory rejected: %s: %s", type(error).__name__, error)
            return None
        assert type(rewards) in (float, dict)
        told = rewards if isinstance(rewards, dict) else {next(reversed(session)): rewards}
        for name, reward in told.items():
            session[name].reward = reward
        later = 0.0
        for completion in reversed(session.values()):
            later = completion.reward = (completion.reward or 0.0) + self.turn_discount * later
        done = {name: completion for name, completion in session.items() if completion.reply is not None}
        assert done, "AReaL 1.0.4 stops at a trajectory without completions"
        return done
