"""What every measured program can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum, auto

from ..line import Line, Setting


class Role(Enum):
    """What one process of a cell does."""

    PUBLISH = auto()
    SUBSCRIBE = auto()
    ASK = auto()
    """Sends a message and waits for it to come back."""
    ECHO = auto()


class Stack(ABC):
    """A program that publishes and subscribes with some library. Each method runs until its process is killed."""

    name: str
    share: float = 1.0
    """Which part of the messages of a measure it gets: rates need no equal numbers, and a slow program
    would take minutes."""

    def missing(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        return ""

    def work(self, role: Role, line: Line, setting: Setting) -> None:
        match role:
            case Role.PUBLISH:
                self.publish(line, setting)
            case Role.SUBSCRIBE:
                self.subscribe(line, setting)
            case Role.ASK:
                self.ask(line, setting)
            case Role.ECHO:
                self.echo(line, setting)

    @abstractmethod
    def publish(self, line: Line, setting: Setting) -> None: ...

    @abstractmethod
    def subscribe(self, line: Line, setting: Setting) -> None: ...

    @abstractmethod
    def ask(self, line: Line, setting: Setting) -> None: ...

    @abstractmethod
    def echo(self, line: Line, setting: Setting) -> None: ...
