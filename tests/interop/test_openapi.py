"""The OpenAPI document, as Schemathesis calls a gateway by it: whatever it says of answers is so."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from support import GATEWAY, Served, configuration, dev

VERBS = ["read", "values:read", "claims:write", "claims:write-unsigned", "links:write", "refs:write", "config:write", "provision"]
# A schema cannot say everything that makes a request valid (checksums of keys), and says nothing of `null`, which ProtoJSON takes
# for what is left out. What is refused, and how, is in tests/it/http.rs and tests/python/test_rules.py.
LEFT_OUT = ["positive_data_acceptance", "negative_data_rejection"]


class OpenApi(unittest.TestCase):
    def test_answers_are_as_it_says(self) -> None:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        config, token = configuration(folder, dev(self, "default")["nats"], VERBS)
        gateway = Served(self, config)
        document = folder / "openapi.json"
        with document.open("wb") as file:
            subprocess.run([GATEWAY, "openapi"], stdout=file, check=True)
        told = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), "run", document, "--url", f"http://127.0.0.1:{gateway.port}"]
            + ["--header", f"Authorization: Bearer {token}", "--exclude-checks", ",".join(LEFT_OUT)]
            # It waits for the end of an answer, and a watch has none.
            + ["--exclude-operation-id-regex", "^Watch", "--max-examples", "25", "--seed", "1", "--warnings", "off"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        self.assertEqual(told.returncode, 0, told.stdout + told.stderr)


if __name__ == "__main__":
    unittest.main()
