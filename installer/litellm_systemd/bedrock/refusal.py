"""What a way of being refused by AWS is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BedrockRefusal:
    """One way to be refused.

    `name`: a short handle. `aws`: AWS's error code and status, as people look for it. `words`: a regular expression
    for the message. `cause` and `remedy`: a sentence each; the first without its full stop.
    """

    name: str
    aws: str
    words: str
    cause: str
    remedy: str
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.words, re.IGNORECASE | re.DOTALL))

    @property
    def hint(self) -> str:
        """What verify says under the message of AWS."""
        return f"{self.cause}: {self.remedy}"
