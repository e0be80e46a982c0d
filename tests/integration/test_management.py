"""key, user, team, spend and the virtual key of verify, with the real LiteLLM on PostgreSQL."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.client.management import Management
from litellm_systemd.commands.management import CARRIED
from tests.database import Cluster, Database
from tests.integration.runtime_service import Service, chat, environment, wait_for

KEY = "sk-canary-master-7c21d9e0"
CONFIG = """
model_list:
  - model_name: small
    litellm_params: {model: litellm-systemd-demo/small}
    model_info: &price {input_cost_per_token: 0.001, output_cost_per_token: 0.01}
  - model_name: large
    litellm_params: {model: litellm-systemd-demo/large}
    model_info: *price
litellm_settings:
  custom_provider_map:
    - {provider: litellm-systemd-demo, custom_handler: litellm_systemd.demo.provider.demo_model}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  proxy_batch_write_at: 1
"""
#: Columns of LiteLLM's table of keys that belong to one key, which its successor does not take over as they are:
#: what LiteLLM sets, and what a rotation translates (expires, organization_id, object_permission_id). LiteLLM keeps
#: the policies of a key in its metadata.
OF_ONE_KEY = {
    "policies",
    *("token", "key_name", "expires", "organization_id", "object_permission_id", "created_at", "created_by"),
    *("updated_at", "updated_by", "settings_updated_at", "last_active", "budget_reset_at", "model_spend"),
    *("total_spend", "soft_budget_cooldown", "rotation_count", "last_rotation_at", "key_rotation_at"),
}


class Terminal:
    """litellmctl with the master key, and what the service and its database know."""

    def __init__(self, service: Service, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        self.service, self.database, self._capsys = service, database, capsys
        self.api = Management(Gateway(self.url, KEY))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def run(self, *words: str) -> tuple[int, str]:
        """The exit code, and standard output and error together."""
        self._capsys.readouterr()
        code = run_command([*words, "--base-url", self.url])
        captured = self._capsys.readouterr()
        return code, captured.out + captured.err

    def read(self, *words: str) -> Any:
        """The data of a report."""
        code, text = self.run(*words, "--json")
        assert code == 0, text
        return json.loads(text)["data"]

    def row(self, alias: str) -> dict[str, Any]:
        """The key as LiteLLM keeps it."""
        found = self.api.get("/key/list", key_alias=alias, return_full_object="true")["keys"]
        return dict(found[0]) if found else {}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[tuple[Service, Database]]:
    """A service with a database, with one worker: another one would know a deleted key for a minute."""
    database = cluster.create_database()
    folder = tmp_path_factory.mktemp("management")
    variables = {"NUM_WORKERS": "1", "LITELLM_MASTER_KEY": KEY, **database.variables()}
    with Service(folder, CONFIG, **variables) as service:
        service.await_ready()
        yield service, database
    cluster.drop_database(database)


@pytest.fixture
def terminal(
    running: tuple[Service, Database], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    monkeypatch.setenv("LITELLM_MASTER_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return Terminal(*running, capsys)


def test_a_new_key_is_shown_once(terminal: Terminal) -> None:
    """A key works for its model and no other; it is printed when it is created, and neither listed nor logged."""
    code, text = terminal.run("key", "create", "ci", "--models", "small", "--max-budget", "5", "--duration", "30d")
    key = re.search(r"^ +key +(sk-\S+)$", text, re.MULTILINE)
    assert (code, key is not None) == (0, True), text
    secret = key[1] if key else ""
    assert "This is the only time that the key is shown" in text
    assert (chat(terminal.service, secret, "small"), chat(terminal.service, secret, "large")) == (200, 403)
    code, listed = terminal.run("key", "list")
    assert re.search(r"ci +[0-9a-f]{12} +small +\$[\d.]+ +\$5\.00 ", listed), listed
    assert secret not in listed
    assert secret not in terminal.service.log()


def test_a_change_and_an_end(terminal: Terminal) -> None:
    """Limits change and go; a key is named by its alias or by the id in the list, and refused once it is revoked."""
    made = terminal.read("key", "create", "temporary", "--rpm-limit", "100", "--max-budget", "5")["key"]
    code, text = terminal.run("key", "update", "temporary", "--max-budget", "none", "--rpm-limit", "90")
    assert (code, terminal.row("temporary")["max_budget"], terminal.row("temporary")["rpm_limit"]) == (0, None, 90)
    assert chat(terminal.service, made["key"], "small") == 200
    code, text = terminal.run("key", "revoke", made["token"][:12])
    assert (code, "there is no terminal to ask for consent" in text) == (64, True), text
    code, text = terminal.run("key", "revoke", made["token"][:12], "--yes")
    assert (code, text.splitlines()[-1]) == (0, "revoked key temporary"), text
    assert chat(terminal.service, made["key"], "small") == 401
    code, text = terminal.run("key", "revoke", "temporary", "--yes")
    assert (code, text) == (66, "litellmctl: there is no key temporary\n  To list them: sudo litellmctl key list\n")


def test_teams_and_users(terminal: Terminal) -> None:
    """Keys belong to a team and a user, named by alias and address; both are deleted with their keys."""
    team = terminal.read("team", "create", "research", "--models", "small", "--max-budget", "50")["team"]
    terminal.read("user", "create", "ann", "--user-email", "ann@example.org")
    owners = ("--team-id", "research", "--user-id", "ann@example.org")
    key = terminal.read("key", "create", "ann-research", *owners)["key"]
    assert (key["team_id"], key["user_id"]) == (team["team_id"], "ann")
    assert chat(terminal.service, key["key"], "large") in (401, 403), "the team lacks the model"
    code, text = terminal.run("team", "create", "research")
    assert (code, "team research exists already" in text) == (64, True), text
    assert [each["key_alias"] for each in terminal.read("key", "list", "--team-id", "research")["keys"]] == [
        "ann-research"
    ]
    code, text = terminal.run("team", "delete", "research", "--yes")
    assert text.splitlines()[-1] == "deleted team research and its 1 key", text
    assert terminal.row("ann-research") == {}
    code, text = terminal.run("user", "create", "ann")
    assert (code, "user ann exists already" in text) == (64, True)
    assert terminal.run("user", "delete", "ann@example.org", "--yes")[0] == 0
    assert "ann" not in {each["user_id"] for each in terminal.read("user", "list")["users"]}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("key", "create", "k", "--team-id", "nowhere"), 66, "there is no team nowhere"),
        (("key", "create", "k", "--duration", "soon"), 64, "soon is not a time: write a number and a unit"),
        (("key", "create", "k", "--max-budget", "-1"), 64, "-1"),
        (("key", "revoke", "sk-123", "--yes"), 64, "a key on the command line is visible to other users"),
        (("key", "update", "k"), 64, "no change is named"),
        (("spend", "--since", "tomorrow"), 64, "--since tomorrow is not a time"),
        (("spend", "--since", "2026-02-30"), 64, "--since 2026-02-30 is not a time"),
    ],
)
def test_mistakes(terminal: Terminal, words: tuple[str, ...], code: int, message: str) -> None:
    """A mistake is one clear error, and nothing is created."""
    found, text = terminal.run(*words)
    assert (found, message in text) == (code, True), text
    assert terminal.row("k") == {}


def test_a_refusal_is_in_the_words_of_litellm(terminal: Terminal) -> None:
    """What LiteLLM refuses is reported in its own words, without a traceback."""
    terminal.read("key", "create", "twice")
    code, text = terminal.run("key", "create", "twice")
    assert code == 1
    assert text.startswith("litellmctl: LiteLLM refuses: Key with alias 'twice' already exists."), text


def test_a_wrong_key(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that may not manage is refused with the remedy, exit code 77."""
    monkeypatch.setenv("LITELLM_MASTER_KEY", terminal.read("key", "create", "plain")["key"]["key"])
    code, text = terminal.run("user", "list")
    assert (code, "This needs the master key, or the key of a proxy admin." in text) == (77, True), text


def _make_full_key(terminal: Terminal) -> dict[str, Any]:
    """Create a key with every kind of limit that LiteLLM has without a licence."""
    body = {
        "key_alias": "full",
        "models": ["small"],
        "max_budget": 5,
        "soft_budget": 3,
        "budget_duration": "30d",
        "budget_limits": [{"max_budget": 2, "budget_duration": "1d"}],
        "tpm_limit": 100000,
        "rpm_limit": 1000,
        "tpd_limit": 70000,
        "max_parallel_requests": 4,
        "duration": "10d",
        "user_id": "owner",
        "metadata": {"cost_center": "7"},
        "permissions": {"pii": False},
        "aliases": {"fast": "small"},
        "key_type": "llm_api",
        "allowed_cache_controls": ["no-cache"],
        "object_permission": {"vector_stores": ["docs"]},
        "router_settings": {"num_retries": 1},
        "model_rpm_limit": {"small": 500},
        "spend": 1.25,
    }
    return dict(terminal.api.post("/key/generate", body))


def test_rotation(terminal: Terminal) -> None:
    """A rotated key has all limits and the spend of the old one, which is refused; the alias names the new one."""
    old_key = _make_full_key(terminal)["key"]
    old = terminal.row("full")
    code, text = terminal.run("key", "rotate", "full")
    assert (code, text.splitlines()[-1]) == (0, "rotated key full; the old key is revoked"), text
    new = terminal.row("full")
    assert new["token"] != old["token"]
    kept = {*old} - OF_ONE_KEY
    assert {name: (old[name], new[name]) for name in kept if not _is_same(old[name], new[name])} == {}
    assert (new["spend"], new["metadata"]["model_rpm_limit"]) == (1.25, {"small": 500})
    ends = [datetime.fromisoformat(each["expires"].replace("Z", "+00:00")) for each in (old, new)]
    assert abs(ends[1] - ends[0]) < timedelta(minutes=1)
    new_key = (re.findall(r"sk-\S+", text) or [""])[0]
    assert (chat(terminal.service, new_key, "small"), chat(terminal.service, new_key, "large")) == (200, 403)
    assert chat(terminal.service, old_key, "small") == 401


def _is_same(old: Any, new: Any) -> bool:
    """Whether two values are equal but for ids and times that LiteLLM adds."""
    added = re.compile(r'"(?:object_permission_id|reset_at)": "[^"]*"(?:, )?')
    return added.sub("", json.dumps(old)) == added.sub("", json.dumps(new))


def test_every_column_of_a_key_is_known() -> None:
    """Each column of LiteLLM's table of keys is taken over by a rotation, or belongs to one key."""
    schema = (files("litellm_proxy_extras") / "schema.prisma").read_text()
    model = re.search(r"^model LiteLLM_VerificationToken \{\n(.*?)^\}", schema, re.DOTALL | re.MULTILINE)
    kinds = "String|Float|Int|BigInt|Boolean|Json|DateTime"
    columns = set(re.findall(rf"^ +(\w+) +(?:{kinds})\b", model[1] if model else "", re.MULTILINE))
    assert len(columns) > 30
    assert columns - OF_ONE_KEY - set(CARRIED) == set()


def test_a_rotation_with_an_overlap(terminal: Terminal) -> None:
    """With --overlap the old key is accepted for that time, and LiteLLM knows its end."""
    old_key = terminal.read("key", "create", "busy")["key"]["key"]
    code, text = terminal.run("key", "rotate", "busy", "--overlap", "1h")
    assert (code, "; the old key is valid until " in text) == (0, True), text
    assert chat(terminal.service, old_key, "small") == 200
    parked = [each for each in terminal.read("key", "list")["keys"] if str(each["key_alias"]).startswith("busy (")]
    left = datetime.fromisoformat(parked[0]["expires"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
    assert timedelta(minutes=55) < left <= timedelta(minutes=61)


def test_a_rotation_that_cannot_revoke(terminal: Terminal) -> None:
    """If the old key cannot be revoked, the new key is printed, and the report says that both are valid.

    A key that was blocked before such a failure stays blocked.
    """
    old = terminal.read("key", "create", "stuck")["key"]
    blocked = terminal.read("key", "create", "barred")["key"]
    terminal.api.post("/key/block", {"key": blocked["token"]})
    terminal.database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
        'CREATE TRIGGER refuse BEFORE DELETE ON "LiteLLM_VerificationToken" EXECUTE FUNCTION refuse()'
    )
    try:
        code, text = terminal.run("key", "rotate", "stuck")
        assert terminal.run("key", "revoke", "barred", "--yes")[0] == 69
    finally:
        terminal.database.execute("DROP FUNCTION refuse CASCADE")
    assert (code, text.splitlines()[-1]) == (1, "rotated key stuck; both keys are valid"), text
    assert f"To revoke it: sudo litellmctl key revoke {old['token']}" in " ".join(text.split())
    new_key = (re.findall(r"sk-\S+", text) or [""])[0]
    assert [chat(terminal.service, key, "small") for key in (old["key"], new_key)] == [200, 200]
    assert chat(terminal.service, blocked["key"], "small") == 401
    # The next rotation names what is left over.
    code, text = terminal.run("key", "rotate", "stuck")
    assert f"An earlier rotation was interrupted: sudo litellmctl key revoke {old['token']}" in text
    assert terminal.run("key", "revoke", old["token"], "--yes")[0] == 0


def test_a_rotation_that_was_killed(terminal: Terminal) -> None:
    """If a rotation is killed before there is a new key, the next one finds the old key by its alias."""
    old = terminal.read("key", "create", "killed")["key"]
    # The first step of a rotation.
    terminal.api.post("/key/update", {"key": old["token"], "key_alias": f"killed (rotated {old['token'][:12]})"})
    code, text = terminal.run("key", "rotate", "killed")
    assert (code, text.splitlines()[-1]) == (0, "rotated key killed; the old key is revoked"), text
    assert terminal.row("killed")["token"] != old["token"]
    assert chat(terminal.service, old["key"], "small") == 401


def test_a_rotation_that_is_refused(terminal: Terminal) -> None:
    """If LiteLLM refuses the new key, the old one is as it was."""
    terminal.read("key", "create", "kept")
    before = terminal.row("kept")
    terminal.database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
        'CREATE TRIGGER refuse BEFORE INSERT ON "LiteLLM_VerificationToken" EXECUTE FUNCTION refuse()'
    )
    try:
        code, text = terminal.run("key", "rotate", "kept")
    finally:
        terminal.database.execute("DROP FUNCTION refuse CASCADE")
    assert (code, "LiteLLM refuses: " in text) == (69, True), text
    assert terminal.row("kept")["token"] == before["token"]


def test_spend(terminal: Terminal, tmp_path: Path) -> None:
    """Spend is grouped by key, user, team, model and day, over many months, as table, CSV, JSON and page."""
    terminal.read("team", "create", "payers")
    terminal.read("user", "create", "=payer")
    made = terminal.read("key", "create", "spender", "--team-id", "payers", "--user-id", "=payer")["key"]
    days = {str(datetime.now(timezone.utc).date())}
    assert chat(terminal.service, made["key"], "small") == 200

    def find() -> Any:
        return next((each for each in read("key")["groups"] if each["name"] == "spender"), None)

    def read(by: str, since: str = "2d") -> Any:
        return terminal.read("spend", "--by", by, "--since", since)

    spent = wait_for("the spend", find)
    assert (spent["requests"], spent["failed"], spent["spend"] > 0.1) == (1, 0, True)
    days.add(str(datetime.now(timezone.utc).date()))  # another one after midnight
    for by, names in (("user", {"=payer"}), ("team", {"payers"}), ("day", days)):
        found = [each["spend"] for each in read(by)["groups"] if each["name"] in names]
        assert sum(found) >= spent["spend"], by
    assert "small" in {each["name"] for each in read("model")["groups"]}
    # A day that is before the first request of a month's range.
    long_ago = date.today() - timedelta(days=95)
    terminal.database.execute(
        "UPDATE \"LiteLLM_DailyUserSpend\" SET date = to_char(now() - interval '95 days', 'YYYY-MM-DD')"
        " WHERE user_id = '=payer'"
    )
    assert find() is None
    assert {each["day"] for each in read("user", "100d")["days"] if each["name"] == "=payer"} <= {
        str(long_ago + timedelta(days=more)) for more in (-1, 0, 1)
    }
    _, text = terminal.run("spend", "--by", "user", "--since", "100d", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["requests"] for row in rows if row["user"] == "'=payer"] == ["1"], text
    page = tmp_path / "spend.html"
    _, text = terminal.run("spend", "--by", "team", "--html", str(page))
    assert re.search(r"payers +\$0\.\d+ +1 +0 ", text), text
    html = page.read_text()
    assert ("payers" in html, "<script" in html, re.findall(r"""(?:src|href)=["'](?!data:)""", html)) == (
        True,
        False,
        [],
    )


def test_verify_with_a_database(terminal: Terminal) -> None:
    """verify proves a virtual key from its creation to its refusal, and leaves no key."""
    _, text = terminal.run("verify", "--json")
    report = json.loads(text)
    checks = {each["name"]: each["outcome"] for each in report["checks"] if each["name"].startswith("virtual key")}
    assert checks == dict.fromkeys(
        (
            "virtual key",
            "virtual key, chat small",
            "virtual key, another model",
            "virtual key, spend",
            "virtual key, deleted",
        ),
        "ok",
    )
    spend = next(each for each in report["checks"] if each["name"] == "virtual key, spend")
    assert spend["data"]["spend"] > 0.1
    assert _trial_keys(terminal) == []


def test_verify_that_is_interrupted(terminal: Terminal) -> None:
    """A verify that is interrupted leaves no key, and deletes the expired one of a run that was killed."""
    left = "litellmctl-verify-left"
    terminal.api.post("/key/generate", {"key_alias": left, "duration": "1m"})
    terminal.database.execute(
        "UPDATE \"LiteLLM_VerificationToken\" SET expires = now() - interval '1 day' WHERE expires < now() + interval"
        " '2 minutes'"
    )
    code = "from litellm_systemd.cli import main; main()"
    argv = (sys.executable, "-c", code, "verify", "--base-url", terminal.url)
    with subprocess.Popen(
        argv, env=environment(LITELLM_MASTER_KEY=KEY), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        wait_for("the key", lambda: [each for each in _trial_keys(terminal) if each != left])
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, output
    assert _trial_keys(terminal) == []


def _trial_keys(terminal: Terminal) -> list[str]:
    rows = terminal.api.get("/key/list", search="litellmctl-verify-", return_full_object="true")["keys"]
    return [row["key_alias"] for row in rows]
