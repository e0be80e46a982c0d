"""Fake Bedrock models and inference profiles, and the control plane operations that list them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from tests.fakes.account import ACCOUNT, Account, Key, stamp
from tests.fakes.http import Reply, Request
from tests.fakes.refusals import Refusal, Refused, denied, refuse
from tests.fakes.signature import identify

INVALID_MODEL = Refusal(400, "ValidationException", "The provided model identifier is invalid.")
_START = datetime(2026, 1, 15, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Model:
    """A foundation model. `profiles`: its geographies; `on_demand`: whether its bare id can be called as well.

    `end`: its end of life, None if there is none. A model with an end of life has the status LEGACY.

    `cache_minimum`: tokens before a cache mark. `thinking`: the types that it accepts. `samples`: it accepts
    `temperature`. `prefill`: a conversation may end with a message of the assistant. `counts`: CountTokens knows it.
    """

    id: str
    name: str
    profiles: tuple[str, ...] = ()
    on_demand: bool = False
    end: datetime | None = None
    cache_minimum: int = 1024
    caches_for_an_hour: bool = False
    thinking: tuple[str, ...] = ("enabled", "adaptive")
    samples: bool = True
    prefill: bool = True
    counts: bool = False

    @property
    def provider(self) -> str:
        return {"anthropic": "Anthropic", "amazon": "Amazon", "meta": "Meta"}[self.id.split(".")[0]]

    @property
    def caches(self) -> bool:
        """Whether the model supports cache points."""
        return self.provider in ("Anthropic", "Amazon") and "embed" not in self.id

    def has_ended(self, now: datetime) -> bool:
        return self.end is not None and self.end <= now


_CLAUDE = ("us", "eu", "jp", "au", "global")
MODELS = (
    Model(
        "anthropic.claude-sonnet-5-5",
        "Claude Sonnet 5.5",
        ("us", "eu", "au", "us-gov", "global"),
        cache_minimum=512,
        caches_for_an_hour=True,
        thinking=("adaptive",),
        samples=False,
        prefill=False,
    ),
    Model(
        "anthropic.claude-sonnet-4-6",
        "Claude Sonnet 4.6",
        _CLAUDE,
        caches_for_an_hour=True,
        prefill=False,
        counts=True,
    ),
    Model(
        "anthropic.claude-haiku-5-5",
        "Claude Haiku 5.5",
        (*_CLAUDE, "us-gov"),
        cache_minimum=512,
        caches_for_an_hour=True,
        thinking=("adaptive",),
        samples=False,
        prefill=False,
    ),
    Model(
        "anthropic.claude-haiku-4-5-20251001-v1:0",
        "Claude Haiku 4.5",
        _CLAUDE,
        cache_minimum=4096,
        caches_for_an_hour=True,
        thinking=("enabled",),
        counts=True,
    ),
    Model(
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "Claude Sonnet 4.5",
        _CLAUDE,
        end=datetime(2027, 4, 8, tzinfo=timezone.utc),
        caches_for_an_hour=True,
        thinking=("enabled",),
        counts=True,
    ),
    Model(
        "anthropic.claude-3-7-sonnet-20250219-v1:0",
        "Claude 3.7 Sonnet",
        ("us", "eu", "apac"),
        end=datetime(2026, 4, 28, tzinfo=timezone.utc),
        thinking=("enabled",),
    ),
    Model("amazon.nova-2-lite-v1:0", "Nova 2 Lite", ("us", "eu", "jp", "global"), on_demand=True),
    Model("meta.llama3-3-70b-instruct-v1:0", "Llama 3.3 70B Instruct", ("us",)),
    Model("amazon.titan-embed-text-v2:0", "Titan Text Embeddings V2", on_demand=True),
)


def geographies(region: str) -> frozenset[str]:
    """The prefixes of the inference profiles of a region."""
    if region.startswith("us-gov-"):
        return frozenset({"us-gov"})
    of: tuple[str, ...] = {"us": ("us",), "ca": ("us",), "eu": ("eu",)}.get(region.split("-")[0], ())
    of += ("jp", "apac") if region in ("ap-northeast-1", "ap-northeast-3") else ()
    of += ("au", "apac") if region in ("ap-southeast-2", "ap-southeast-4") else ()
    of += ("apac",) if region.startswith("ap-") else ()
    return frozenset((*of, "global"))


@dataclass
class Catalogue:
    """The models of one region. A change of `models` is effective from the next request."""

    account: Account
    region: str = "us-east-1"
    models: dict[str, Model] = field(default_factory=lambda: {model.id: model for model in MODELS})

    def put(self, model_id: str, **changes: Any) -> None:
        """Change a model, or add one: `put("anthropic.claude-sonnet-4-6", end=...)`."""
        known = self.models.get(model_id) or Model(model_id, model_id)
        self.models[model_id] = replace(known, **changes)

    def end_in(self, model_id: str, days: float) -> None:
        """Set the end of life of a model to `days` from now. A negative number is in the past."""
        self.put(model_id, end=self.account.clock() + timedelta(days=days))

    def model_arn(self, model: Model) -> str:
        return f"arn:aws:bedrock:{self.region}::foundation-model/{model.id}"

    def profile_arn(self, identifier: str) -> str:
        return f"arn:aws:bedrock:{self.region}:{ACCOUNT}:inference-profile/{identifier}"

    def profiles(self) -> dict[str, Model]:
        """The inference profiles of the region by id."""
        offered = geographies(self.region)
        rows = ((prefix, model) for model in self.models.values() for prefix in model.profiles if prefix in offered)
        return {f"{prefix}.{model.id}": model for prefix, model in rows}

    def answer(self, request: Request) -> tuple[Key, Reply]:
        """The key of the caller and the response of the control plane. Raises Refused."""
        key = identify(request, self.account, "bedrock", (self.region,))
        kind, identifier = request.segments[0], "/".join(request.segments[1:])
        if request.method != "GET" or kind not in ("foundation-models", "inference-profiles"):
            raise refuse(404, "UnknownOperationException", "Unknown operation")
        noun = "FoundationModel" if kind == "foundation-models" else "InferenceProfile"
        action = f"bedrock:Get{noun}" if identifier else f"bedrock:List{noun}s"
        if action in self.account.denied:
            raise denied(key.arn, action, f"arn:aws:bedrock:{self.region}:{ACCOUNT}:{kind}/{identifier or '*'}")
        look_up = {
            "bedrock:ListFoundationModels": self._list_models,
            "bedrock:GetFoundationModel": self._get_model,
            "bedrock:ListInferenceProfiles": self._list_profiles,
            "bedrock:GetInferenceProfile": self._get_profile,
        }[action]
        body = json.dumps(look_up(identifier, request.query)).encode()
        return key, Reply(200, body, {"Content-Type": "application/json", "x-amzn-RequestId": str(uuid.uuid4())})

    def _list_models(self, _identifier: str, query: dict[str, str]) -> dict[str, Any]:
        rows: Iterable[Model] = self.models.values()
        if "byProvider" in query:
            rows = (model for model in rows if model.provider.lower() == query["byProvider"].lower())
        return {"modelSummaries": [self._model(model) for model in rows]}

    def _get_model(self, identifier: str, _query: dict[str, str]) -> dict[str, Any]:
        found = self.models.get(identifier.rpartition("foundation-model/")[2])
        if found is None:
            raise Refused(INVALID_MODEL)
        return {"modelDetails": self._model(found)}

    def _list_profiles(self, _identifier: str, query: dict[str, str]) -> dict[str, Any]:
        rows = list(self.profiles().items())
        first, size = int(query.get("nextToken", 0)), int(query.get("maxResults", 100))
        rest = {"nextToken": str(first + size)} if first + size < len(rows) else {}
        found = [self._profile(name, model) for name, model in rows[first : first + size]]
        return {"inferenceProfileSummaries": found if query.get("type") != "APPLICATION" else [], **rest}

    def _get_profile(self, identifier: str, _query: dict[str, str]) -> dict[str, Any]:
        name = identifier.rpartition("inference-profile/")[2]
        model = self.profiles().get(name)
        if model is None:
            message = "The provided inference profile identifier does not exist."
            raise refuse(404, "ResourceNotFoundException", message)
        return self._profile(name, model)

    def _model(self, model: Model) -> dict[str, Any]:
        types = (["ON_DEMAND"] if model.on_demand else []) + (["INFERENCE_PROFILE"] if model.profiles else [])
        embeds = "embed" in model.id
        return {
            "modelArn": self.model_arn(model),
            "modelId": model.id,
            "modelName": model.name,
            "providerName": model.provider,
            "inputModalities": ["TEXT"] if embeds else ["TEXT", "IMAGE"],
            "outputModalities": ["EMBEDDING"] if embeds else ["TEXT"],
            "responseStreamingSupported": not embeds,
            "customizationsSupported": [],
            "inferenceTypesSupported": types,
            "modelLifecycle": _lifecycle(model),
        }

    def _profile(self, name: str, model: Model) -> dict[str, Any]:
        regions = {"us": ("us-east-1", "us-east-2", "us-west-2"), "eu": ("eu-central-1", "eu-west-1", "eu-north-1")}
        behind = dict.fromkeys((self.region, *regions.get(name.split(".")[0], ())))
        return {
            "inferenceProfileName": f"{name.split('.')[0].upper()} {model.name}",
            "description": f"Routes requests to {model.name}.",
            "createdAt": stamp(_START),
            "updatedAt": stamp(_START),
            "inferenceProfileArn": self.profile_arn(name),
            "models": [{"modelArn": f"arn:aws:bedrock:{region}::foundation-model/{model.id}"} for region in behind],
            "inferenceProfileId": name,
            "status": "ACTIVE",
            "type": "SYSTEM_DEFINED",
        }


def _lifecycle(model: Model) -> dict[str, str]:
    if model.end is None:
        return {"status": "ACTIVE", "startOfLifeTime": stamp(_START)}
    legacy = model.end - timedelta(days=180)
    return {
        "status": "LEGACY",
        "startOfLifeTime": stamp(legacy - timedelta(days=200)),
        "legacyTime": stamp(legacy),
        "publicExtendedAccessTime": stamp(model.end - timedelta(days=90)),
        "endOfLifeTime": stamp(model.end),
    }
