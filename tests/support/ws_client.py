"""A WebSocket client that shows everything: messages in order, and how the connection ended."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable

Message = dict[str, Any]


class Talk:
    """One connection of the ``websockets`` client; used by one thread."""

    def __init__(self, url: str, **options: Any) -> None:
        address = url.replace("http://", "ws://") + "/v1/ws"
        self.socket = connect(address, proxy=None, compression=None, max_queue=None, **options).__enter__()
        self.heard: list[Message] = []
        self.connected = self.hear("connected")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, type_name: str, **members: Any) -> None:
        self.socket.send(json.dumps({"type": type_name, **members}))

    def ask(self, type_name: str, **members: Any) -> Message:
        """Say something and give the answer that repeats its id."""
        self.say(type_name, **members)
        return self.until(lambda message: message.get("id") == members["id"])

    def next(self, timeout_s: float = 30.0) -> Message:
        message: Message = json.loads(self.socket.recv(timeout_s))
        self.heard.append(message)
        return message

    def hear(self, *type_names: str) -> Message:
        """Give the next message, which is of one of these types."""
        message = self.next()
        assert message["type"] in type_names, message
        return message

    def until(self, done: Callable[[Message], bool], timeout_s: float = 30.0) -> Message:
        """Give the next message of which something holds; the others stay in ``heard``."""
        deadline = time.monotonic() + timeout_s
        while not done(message := self.next(timeout_s)):
            assert time.monotonic() < deadline, f"heard {len(self.heard)}, the last {message}"
        return message

    def until_type(self, type_name: str) -> Message:
        return self.until(lambda message: message["type"] == type_name)

    def closed(self, timeout_s: float = 30.0) -> tuple[int, str]:
        """Read to the end; give the code and reason of the close frame."""
        try:
            while True:
                self.next(timeout_s)
        except ConnectionClosed as error:
            close = error.rcvd
        assert close is not None, "cut without a close frame"
        return close.code, close.reason

    def seqs(self, stream_id: str) -> list[int]:
        return [
            message["event"]["seq"]
            for message in self.heard
            if message["type"] == "event" and message["stream"] == stream_id
        ]
