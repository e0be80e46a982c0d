"""Models that a user adds in one file are served in all three Bedrock configurations and kept by upgrades."""

from __future__ import annotations

import json

from box import Box
from service import BASE, ctl, key, set_env, status_text

USER_FILE = "/etc/litellm/configs/shared/my_models.yml"
REGION = "AWS_REGION_NAME=eu-west-1\nNUM_WORKERS=1\n"
KEYS = "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\nAWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
#: These boxes have no AWS, and no model is called.
OPTIONS = ("--offline", "--no-spend")
NOVA = "model_list:\n  - {model_name: nova, litellm_params: {model: 'bedrock/eu.amazon.nova-pro-v1:0'}}\n"


def listed(box: Box) -> list[str]:
    """The models that the gateway lists, without aliases."""
    answer = box.http("GET", f"{BASE}/v1/models", headers={"Authorization": f"Bearer {key(box)}"}, timeout=60)
    assert answer.status == 200
    names = [str(model["id"]) for model in json.loads(answer.body)["data"]]
    return [name for name in names if not name.startswith("bedrock-")]


def test_an_added_model_is_in_all_bedrock_configurations(idle_box: Box) -> None:
    """A model in my_models.yml is listed after a reload, in each Bedrock configuration, and a later install
    keeps it.
    """
    box = idle_box
    shipped = ["claude-sonnet-5-5", "claude-sonnet-4-6", "claude-haiku-5-5"]
    set_env(box, REGION, "-c", "iam_role_config", *OPTIONS)
    assert listed(box) == shipped
    assert "model_list" in box.read(USER_FILE)  # as an example, in a comment

    box.write(USER_FILE, NOVA, 0o640, "root:litellm")
    assert "edited since the service loaded it" in ctl(box, "status", check=False)
    box.systemctl("reload", "litellm")
    assert listed(box) == [*shipped, "nova"]
    assert "edited since" not in ctl(box, "status", check=False)
    ctl(box, "config", "use", "prompt_caching")
    assert listed(box) == [*shipped, "nova"]
    set_env(box, REGION + KEYS, "-c", "access_key_config", *OPTIONS)
    assert listed(box) == [*shipped, "nova"]
    assert box.read(USER_FILE) == NOVA
    assert "bedrock/eu.anthropic.claude-sonnet-5-5" in box.read("/etc/litellm/configs/shared/models.yml")

    # A mistake there is refused with its file and line, and the service continues.
    box.write(USER_FILE, NOVA.replace("bedrock", "bedrok"), 0o640, "root:litellm")
    done = box.run(("systemctl", "reload", "litellm"), check=False)
    assert done.returncode != 0
    assert f"{USER_FILE}:2:" in status_text(box)
    assert listed(box) == [*shipped, "nova"]

    # An install restores missing files and overwrites nothing.
    box.run(("rm", USER_FILE, "/etc/litellm/configs/shared/routing.yml"))
    ctl(box, "install", *OPTIONS)
    assert listed(box) == shipped


def test_a_missing_key_pair_is_an_error_at_start(idle_box: Box) -> None:
    """With access_key_config.yml and no key pair in the environment, the service does not start and exits with 78."""
    box = idle_box
    set_env(box, REGION + KEYS, "-c", "access_key_config", *OPTIONS)
    box.run(("sed", "-i", "/AWS_ACCESS_KEY_ID/d", "/etc/litellm/litellm.env"))
    assert box.run(("systemctl", "restart", "litellm"), check=False).returncode != 0
    assert box.show("litellm.service", "ExecMainStatus")["ExecMainStatus"] == "78"
    assert "x-identity is access-key, and AWS_ACCESS_KEY_ID is not set" in box.journal("litellm", "--boot")


def test_an_edited_copy_of_an_earlier_version(idle_box: Box) -> None:
    """A configuration that was edited before my_models.yml existed stays; install says how to move the models, and
    the move succeeds.
    """
    box = idle_box
    path = "/etc/litellm/configs/iam_role_config.yml"
    settings = "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n"
    # As in that version: no shared files, and the whole configuration in one file.
    box.run(("rm", "-r", "/etc/litellm/configs/shared"))
    box.write(path, NOVA + settings, 0o640, "root:litellm")
    set_env(box, REGION, "-c", "iam_role_config", *OPTIONS)
    assert listed(box) == ["nova"]
    assert box.read(path) == NOVA + settings
    said = ctl(box, "install", *OPTIONS)
    assert f"{path} is an edited copy of an earlier version" in " ".join(said.split())
    assert "its own models (nova)" in " ".join(said.split())

    box.write(USER_FILE, NOVA, 0o640, "root:litellm")
    said = ctl(box, "install", "--take-ours", *OPTIONS)
    assert "edited copy" not in said
    assert listed(box) == ["claude-sonnet-5-5", "claude-sonnet-4-6", "claude-haiku-5-5", "nova"]
    assert box.run(("grep", "-rl", "nova", "/etc/litellm/edited")).stdout.strip()
    assert box.read(USER_FILE) == NOVA


def test_a_configuration_with_included_files(idle_box: Box) -> None:
    """`-c FILE` installs the included files too; a reload applies an edit of them, and an install keeps it."""
    box = idle_box
    model = "model_list:\n  - {model_name: %s, litellm_params: {model: openai/x, api_key: none, mock_response: hi}}\n"
    main = "include: [team/own.yml, shared/my_models.yml]\n" + model % "first"
    box.write("/root/mine/my.yml", main + "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n")
    box.write("/root/mine/team/own.yml", model % "second")
    set_env(box, REGION, "-c", "/root/mine/my.yml", *OPTIONS)
    assert listed(box) == ["first", "second"]
    own = "/etc/litellm/configs/team/own.yml"
    box.write(own, model % "edited", 0o640, "root:litellm")
    box.systemctl("reload", "litellm")
    assert listed(box) == ["first", "edited"]
    box.write("/root/mine/team/own.yml", model % "third")
    said = ctl(box, "install", "-c", "/root/mine/my.yml", *OPTIONS)
    assert f"{own} was edited here and is kept" in " ".join(said.split())
    assert listed(box) == ["first", "edited"]
