"""A fake AWS account in one region, on two ports: the services, and the metadata of an instance."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tests.fakes import sts
from tests.fakes.account import Account, Key
from tests.fakes.autoscaling import VERSION as AUTO_SCALING
from tests.fakes.autoscaling import AutoScaling
from tests.fakes.catalogue import Catalogue
from tests.fakes.control import CONTROLS
from tests.fakes.http import Reply, Request, serving
from tests.fakes.metadata import Metadata
from tests.fakes.quotas import Quotas
from tests.fakes.refusals import Refused
from tests.fakes.runtime import Runtime
from tests.fakes.secrets import TARGETS, Secrets

#: The prefix of the control paths (see `control`). No AWS service uses it.
CONTROL = "/-/"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request and its result. `key` signed it, `arn` is the identity of that key."""

    service: str
    target: str
    key: str
    status: int
    code: str = ""
    arn: str = ""


@dataclass
class Cloud:
    """The fake AWS. Its parts are plain objects: a change is effective from the next request."""

    account: Account
    metadata: Metadata
    catalogue: Catalogue
    runtime: Runtime
    quotas: Quotas
    secrets: Secrets
    autoscaling: AutoScaling
    seen: list[Seen] = field(default_factory=list)
    api_url: str = ""
    metadata_url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, region: str, role: str | None) -> Cloud:
        account = Account()
        catalogue = Catalogue(account, region)
        quotas = Quotas.of(account, region, catalogue.models)
        return cls(
            account,
            Metadata(account, region, role),
            catalogue,
            Runtime(account, catalogue),
            quotas,
            Secrets(account, region),
            AutoScaling(account, region),
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make boto3 and LiteLLM use the fakes, and no other host."""
        return {
            "AWS_ENDPOINT_URL_STS": self.api_url,
            "AWS_ENDPOINT_URL_BEDROCK": self.api_url,
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": self.api_url,
            "AWS_BEDROCK_RUNTIME_ENDPOINT": self.api_url,
            "AWS_ENDPOINT_URL_SERVICE_QUOTAS": self.api_url,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": self.api_url,
            "AWS_ENDPOINT_URL_SSM": self.api_url,
            "AWS_ENDPOINT_URL_AUTO_SCALING": self.api_url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata_url,
            "AWS_EC2_METADATA_DISABLED": "false",
        }

    def answer(self, request: Request) -> Reply:
        """Respond as the endpoints of AWS, all of them on one port."""
        if request.path.startswith(CONTROL):
            return self._control(request.path.removeprefix(CONTROL), request)
        service = _service_of(request)
        key, code, arn = "", "", ""
        try:
            signer, reply = self._serve(service, request)
            key, arn = signer.access_key, signer.arn
        except Refused as error:
            refusal = error.refusal
            forms = {"sts": refusal.as_xml, "autoscaling": refusal.as_xml, "bedrock": refusal.as_json}
            reply, code = forms.get(service, refusal.as_typed_json)(), refusal.code
            key = _named_key(request)
        self._note(Seen(service, f"{request.method} {request.target}", key, reply.status, code, arn))
        return reply

    def answer_metadata(self, request: Request) -> Reply:
        reply = self.metadata.answer(request)
        self._note(Seen("metadata", f"{request.method} {request.target}", "", 0 if reply.silent else reply.status))
        return reply

    def _serve(self, service: str, request: Request) -> tuple[Key, Reply]:
        if service == "sts":
            return sts.answer(request, self.account, (self.catalogue.region,))
        if service == "autoscaling":
            return self.autoscaling.answer(request)
        if service == "servicequotas":
            return self.quotas.answer(request)
        if service in TARGETS.values():
            return self.secrets.answer(request)
        if request.segments[0] == "model":
            return self.runtime.answer(request)
        return self.catalogue.answer(request)

    def _note(self, one: Seen) -> None:
        with self._lock:
            self.seen.append(one)

    def _control(self, name: str, request: Request) -> Reply:
        if name not in CONTROLS:
            return Reply(404)
        with self._lock:
            result = CONTROLS[name](self, json.loads(request.body or b"{}"))
        return Reply(200, json.dumps(result, default=str).encode(), {"Content-Type": "application/json"})


def _service_of(request: Request) -> str:
    """The service of a request. The JSON services name their operation in a header, the others a version."""
    if request.path != "/":
        return "bedrock"
    target = request.headers.get("x-amz-target")
    if target is None:
        return "autoscaling" if f"Version={AUTO_SCALING}".encode() in request.body else "sts"
    return next((service for prefix, service in TARGETS.items() if target.startswith(prefix)), "servicequotas")


def _named_key(request: Request) -> str:
    """The access key id in a rejected request, known or unknown."""
    _, found, rest = request.headers.get("authorization", "").partition("Credential=")
    return rest.split("/")[0] if found else ""


@contextmanager
def run_cloud(
    region: str = "us-east-1",
    role: str | None = "litellm-gateway",
    *,
    api: tuple[str, int] = ("127.0.0.1", 0),
    metadata: tuple[str, int] = ("127.0.0.1", 0),
    tls: tuple[str, int] | None = None,
    certificate: str = "",
) -> Iterator[Cloud]:
    """Run a fake AWS until the block ends. `role`: the role of the instance, None for a host without one.

    `tls`: also serve the API with TLS there, with the key and the chain in the file `certificate`.
    """
    cloud = Cloud.of(region, role)

    def clock() -> datetime:
        return cloud.account.clock()

    with contextlib.ExitStack() as stack:
        cloud.metadata_url = stack.enter_context(serving(cloud.answer_metadata, *metadata)).url
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            stack.enter_context(serving(cloud.answer, *tls, clock=clock, context=context))
        # Start this one last: when it responds, all of them do.
        cloud.api_url = stack.enter_context(serving(cloud.answer, *api, clock=clock)).url
        yield cloud
