"""The answer of a model before it is rendered in the form of an API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.fakes.prompt_cache import CacheUse


@dataclass(frozen=True, slots=True)
class Block:
    """A content block of an answer.

    Attributes:
        kind: "thinking", "text" or "tool".
        text: its text; of a tool the input as JSON.
        size: characters in one event of a stream.
        name: of the tool.
        id: of the call.
        signature: of the thinking.
    """

    kind: str
    text: str
    size: int
    name: str = ""
    id: str = ""
    signature: str = ""

    def pieces(self) -> Iterator[str]:
        return (self.text[start : start + self.size] for start in range(0, len(self.text), self.size))


@dataclass(frozen=True, slots=True)
class Answer:
    """The blocks of an answer, its tokens, and the service tier that the request named."""

    blocks: tuple[Block, ...]
    cache: CacheUse
    tier: str = ""

    @property
    def calls_tool(self) -> bool:
        return self.blocks[-1].kind == "tool" if self.blocks else False

    @property
    def tokens(self) -> int:
        return sum(len(block.text) // 4 + 1 for block in self.blocks)
