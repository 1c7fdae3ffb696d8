"""Requests that the documents show are requests of the API."""

from __future__ import annotations

import re
import unittest

import protovalidate
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

import dev_gateway
from test_client import ECHO, HTTPSERVER, rpc_path, rpcs

MIGRATION_GUIDE = dev_gateway.ROOT / "docs" / "coming-from.md"
# As the documents shorten them.
VALUES = {
    "'\"$(cat echo.jwt)\"'": (dev_gateway.EXAMPLE / "echo.jwt").read_text().strip(),
    "M…": ECHO,
    "V…": HTTPSERVER,
}


class MigrationGuide(unittest.TestCase):
    def test_each_call_is_one_that_the_gateway_takes(self) -> None:
        inputs = {rpc_path(rpc).removeprefix("/lattice.control.v1."): GetMessageClass(rpc.input_type) for rpc in rpcs()}
        text = MIGRATION_GUIDE.read_text()
        for short, value in VALUES.items():
            text = text.replace(short, value)
        calls = re.findall(r"^call (\w+/\w+) '(.*?)'$", text, re.MULTILINE | re.DOTALL)
        self.assertGreater(len(calls), 5)
        for rpc, body in calls:
            with self.subTest(rpc):
                protovalidate.validate(json_format.Parse(body, inputs[rpc]()))


if __name__ == "__main__":
    unittest.main()
