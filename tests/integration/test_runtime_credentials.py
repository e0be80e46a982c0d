"""Credentials that are refreshed while LiteLLM signs a request."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

from tests.fakes import run_cloud
from tests.integration.litellm_process import OFFLINE

#: Sends a request to Bedrock that LiteLLM signs, and prints the status.
_PROGRAM = """\
import sys, urllib.error, urllib.request
from litellm.llms.bedrock.base_aws_llm import BaseAWSLLM
from litellm_systemd.runtime.worker import litellm_adapter

if sys.argv[1] == "adapter":
    litellm_adapter.use_frozen_credentials()
url = sys.argv[2] + "/model/us.anthropic.claude-sonnet-5-5/converse"
body = '{"messages": [{"role": "user", "content": [{"text": "hi"}]}]}'
headers = {"Content-Type": "application/json"}
llm = BaseAWSLLM()
signed = llm.get_request_headers(llm.get_credentials(), "us-east-1", None, url, body, headers)
try:
    urllib.request.urlopen(urllib.request.Request(url, body.encode(), dict(signed.headers)))
    print(200)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def test_refresh_during_a_signature() -> None:
    """A refresh during a signature does not mix two sets of credentials, as it would with LiteLLM alone."""
    with run_cloud() as aws:
        # Within 15 minutes of the announced expiry botocore refreshes the credentials at every access.
        aws.metadata.lifetime, aws.metadata.reported_later = timedelta(seconds=60), timedelta(minutes=12)
        aws.metadata.rotate_every = timedelta(0)

        def ask(how: str) -> str:
            argv = (sys.executable, "-c", _PROGRAM, how, aws.api_url)
            environment = {**os.environ, **OFFLINE, **aws.environment, "HOME": "/nowhere"}
            return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout

        assert ask("adapter") == "200\n"
        assert ask("plain").startswith("403"), "LiteLLM freezes them itself now: remove use_frozen_credentials"
