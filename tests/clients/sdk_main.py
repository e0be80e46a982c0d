"""What the programs of both SDKs do: `python sdk_NAME.py MODE PROMPT...`. Each prompt is one conversation.

A program prints each answer, or the class of the error. Ctrl-C cancels the running prompt. It exits with 1 if the
last prompt failed. The programs for Node do the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

Client = TypeVar("Client")


def run(client: Client, *modes: Callable[[Client, str], None]) -> None:
    """Run the mode that the command line names, and exit."""
    name, *prompts = sys.argv[1:]
    mode = {each.__name__: each for each in modes}[name]
    code = 0
    for prompt in prompts:
        try:
            mode(client, prompt)
            code = 0
        except (Exception, KeyboardInterrupt) as error:
            print(f"{type(error).__name__}: {error}")
            code = 1
        print(flush=True)
    sys.exit(code)
