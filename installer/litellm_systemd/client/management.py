"""LiteLLM's management API: its requests with errors that a user can act on, and its paged lists.

Source: litellm/proxy/management_endpoints. Only routes that need no licence are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from litellm_systemd.client.gateway import JOURNAL, READINESS, FailureKind, Gateway, GatewayError, Response
from litellm_systemd.errors import InstallerError, InvalidAnswer, PermissionDenied, Unavailable

#: Rows of one page, the most that LiteLLM returns, and how many pages are read at most.
PAGE_SIZE, MOST_PAGES = 100, 100
#: The message where LiteLLM's error is a dict: "{'error': 'text'}", perhaps cut off.
_WRAPPED = re.compile(r"""\{'error': ['"](.*?)(['"]\})?""")
#: What readiness reports as `db` without a database.
_NO_DATABASE = "not connected"


class NoDatabase(Unavailable):
    """The gateway runs without a database, so it has no virtual keys, users, teams and spend."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} runs without a database, which keys, users, teams and spend need",
            "Set DATABASE_URL in .env and install again, or let the install set up PostgreSQL:"
            " sudo litellmctl install --with-postgres",
        )


@dataclass(frozen=True, slots=True)
class Management:
    """The management API of a gateway, with its master key or the key of a proxy admin."""

    gateway: Gateway

    def get(self, path: str, **query: Any) -> Any:
        """The parsed response to a GET. A `query` value that is None is left out. Raises as `post` does."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._send(lambda: self.gateway.get(f"{path}?{urlencode(given)}" if given else path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The parsed response to a POST of `body` as JSON.

        Raises:
            NoDatabase: the gateway has none.
            PermissionDenied: the key may not do this.
            Unavailable: there is no response.
            InstallerError: LiteLLM refuses; the message is its own.
        """
        return self._send(lambda: self.gateway.post(path, body))

    def rows(self, path: str, name: str, size: str, **query: Any) -> tuple[list[dict[str, Any]], bool]:
        """All rows of a paged list, and whether there are more than MOST_PAGES pages.

        `name`: the field of the response with the rows. `size`: the parameter for the rows of one page.
        """
        found: list[dict[str, Any]] = []
        for page in range(1, MOST_PAGES + 1):
            answer = self.get(path, page=page, **{size: PAGE_SIZE}, **query)
            try:
                found += answer[name]
                pages = int(answer["total_pages"])
            except (KeyError, TypeError, ValueError):
                raise InvalidAnswer(f"{self.gateway.where}{path} does not answer with a list of {name}") from None
            if page >= pages:
                return found, False
        return found, True

    def _send(self, request: Callable[[], Response]) -> Any:
        try:
            answer = request()
        except GatewayError as error:
            if error.kind is FailureKind.TIMEOUT:
                raise Unavailable(error.message, f"PostgreSQL or the service is slow or hangs: {JOURNAL}.") from error
            raise
        if not answer.ok:
            raise self._refusal(answer)
        return answer.json()

    def _refusal(self, answer: Response) -> InstallerError:
        if read_database(self.gateway) == _NO_DATABASE:
            return NoDatabase(self.gateway.where)
        said = self.gateway.explain(answer)
        wrapped = _WRAPPED.fullmatch(said)
        text = f"LiteLLM refuses: {wrapped[1] if wrapped else said}" if said else f"HTTP {answer.status}"
        if answer.status in (401, 403):
            return PermissionDenied(text, "This needs the master key, or the key of a proxy admin.")
        if answer.status >= 500:
            return Unavailable(
                text, f"The journal has the cause: {JOURNAL}. If the database is down: sudo litellmctl doctor"
            )
        return InstallerError(text)


def read_database(gateway: Gateway) -> str:
    """What readiness reports of the database, in lower case, such as "connected"; empty if it is unknown.

    Raises:
        GatewayError: there is no response.
    """
    body = gateway.get(READINESS).json()
    return str(body.get("db", "")).lower() if isinstance(body, dict) else ""
