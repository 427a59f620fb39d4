"""A stand-in for the part of Ray that memfold uses: an actor is a forked process, which can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from types import SimpleNamespace
from typing import Any

CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class RayPackage:
    """A package `ray`, this one or the real one, and how to kill all workers that it has."""

    module: Any
    kill_all: Callable[[], None]


class RayActorError(Exception):
    """A worker ended."""


class Handle:
    """An actor of a class; its methods run one at a time in a process of their own."""

    def __init__(self, kind: type, arguments: tuple[Any, ...]) -> None:
        self.pipe, other = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(other, kind, arguments), daemon=True)
        self.process.start()
        other.close()

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Connection:
            with suppress(BrokenPipeError):  # it was killed; the pipe ends, and `get` says so
                self.pipe.send((name, arguments))
            return self.pipe

        return SimpleNamespace(remote=remote)


class StandInRay:
    """The module `ray`, with the options and handles of all actors that were made."""

    exceptions = SimpleNamespace(RayActorError=RayActorError)

    def __init__(self, *machines: dict[str, float]) -> None:
        self.machines = machines or ({"CPU": 2.0},)
        self.options: list[dict[str, Any]] = []
        self.handles: list[Handle] = []
        self.inits: list[dict[str, Any]] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.inits.append(options)

    def shutdown(self) -> None:
        for handle in self.handles:
            handle.process.kill()
            handle.process.join()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": each} for each in self.machines]

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.options.append(options)

        def make(kind: type, *arguments: Any) -> Handle:
            self.handles.append(Handle(kind, arguments))
            return self.handles[-1]

        return lambda kind: SimpleNamespace(remote=lambda *arguments: make(kind, *arguments))

    def wait(self, references: list[Any], num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        done = wait_for(references)[:num_returns]
        return done, [each for each in references if each not in done]

    def get(self, reference: Any) -> Any:
        try:
            return reference.recv()
        except (EOFError, ConnectionResetError):
            raise RayActorError("The actor died.\nIts process was killed.") from None

    def kill(self, handle: Handle) -> None:
        handle.process.kill()

    def kill_all(self) -> None:
        """Kill the workers that there are."""
        for handle in self.handles:
            if handle.process.is_alive():
                handle.process.kill()


def end_this_worker(*_: object) -> None:
    """What a worker does that is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def _serve(pipe: Connection, kind: type, arguments: tuple[Any, ...]) -> None:
    actor = kind(*arguments)
    while True:
        name, given = pipe.recv()
        pipe.send(getattr(actor, name)(*given))
