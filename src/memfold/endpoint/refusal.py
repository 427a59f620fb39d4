"""What an endpoint says when it refuses a request: its message, a parameter that it does not take, and what to do.

Endpoints differ in the form of their errors, so messages are searched for words.  Newer models refuse parameters that
older ones need, such as `max_tokens`; what is refused by name is left out (`memfold.endpoint.chat`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import responses

KEY = "OPENAI_API_KEY"
TRANSIENT = {408, 409, 429}  # statuses that are retried, in addition to all from 500
PARAMETER_STATUSES = {400, 422, 501}
CHECK_ADDRESS = "check the address (it usually ends in /v1) and the model's name after #"
CHECK_NAME = "check the model's name after #; an address without a name lists the models of the endpoint"
CHECK_ACCOUNT = "check the plan and the balance of the account at the endpoint"
CHECK_REQUEST = "the endpoint does not take this request; use another model or endpoint"
LATER = "check the log of the endpoint, or try again later"
ADVICE = {
    401: f"set {KEY} to a key that the endpoint accepts",
    403: f"set {KEY} to a key with access to this model",
    404: CHECK_ADDRESS,
    429: "try again later, or ask fewer questions at once",
}
TOO_LONG = {400, 413, 422}  # statuses of a message that is longer than the model's window, among other reasons
_LENGTH = re.compile(r"context|too (?:long|large|many tokens)|length|maximum.*tokens|exceed", re.IGNORECASE | re.DOTALL)
_ACCOUNT = re.compile(r"quota|billing|credit|balance|payment", re.IGNORECASE)
_NO_MODEL = re.compile(r"model", re.IGNORECASE)
_NOT_TAKEN = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|forbidden"
    r"|extra (?:inputs|fields)|valid (?:parameter|argument|field)|cannot find field|not implemented|deprecated"
    r"|strictly positive|greater than 0",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Refusal:
    """A status with the message of the endpoint, which is empty if there is none; `param` is the parameter it names."""

    status: int
    message: str = ""
    param: str = ""
    code: str = ""

    @property
    def title(self) -> str:
        """The status with its name."""
        return f"{self.status} {responses.get(self.status, '')}".strip()

    @property
    def again(self) -> bool:
        """Whether a retry may succeed."""
        return (self.status in TRANSIENT or self.status >= 500) and not self._about_account

    @property
    def too_long(self) -> bool:
        """Whether the message to the endpoint may be too long for the model."""
        if self.status == 413:
            return True
        return self.status in TOO_LONG and (not self.message or _LENGTH.search(self.message) is not None)

    @property
    def advice(self) -> str:
        """What to do, by what the endpoint says and by the status."""
        if self._about_account:
            return CHECK_ACCOUNT
        if self.status == 404 and _NO_MODEL.search(self.message):
            return CHECK_NAME
        if self.status in PARAMETER_STATUSES:
            return CHECK_REQUEST
        return ADVICE.get(self.status, LATER if self.again else CHECK_ADDRESS)

    def parameter(self, sent: Iterable[str]) -> str | None:
        """Return which of the parameters that were sent the endpoint does not take; None if it says nothing of them."""
        if self.status not in PARAMETER_STATUSES or not _NOT_TAKEN.search(f"{self.code} {self.message}"):
            return None
        named = [name for name in sent if self.param.split(".")[0] == name]
        places = {name: match.start() for name in sent if (match := re.search(rf"(?<!\w){name}(?!\w)", self.message))}
        return named[0] if named else min(places, key=lambda name: places[name], default=None)

    @property
    def _about_account(self) -> bool:
        return self.status == 402 or (self.status in (403, 429) and _ACCOUNT.search(self.message) is not None)


def refusal(status: int, body: object) -> Refusal:
    """Read an error in any of the usual forms: a text, or an object with `error`, `message` or `detail`."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    if not isinstance(body, Mapping):
        return Refusal(status, _text(body))
    found = next((body[name] for name in ("message", "detail", "error", "msg") if body.get(name)), "")
    return Refusal(status, _text(found), *(str(body.get(name) or "") for name in ("param", "code")))


def _text(value: object) -> str:
    """Return a message, which may be a list of faults with their places."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        place = ".".join(map(str, value["loc"])) if isinstance(value.get("loc"), list) else ""
        said = value.get("msg") or value.get("message") or ""
        return ": ".join(filter(None, (place, str(said))))
    if isinstance(value, list):
        return "; ".join(filter(None, map(_text, value)))
    return ""
