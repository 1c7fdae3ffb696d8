"""Tools that call by the descriptor set or by reflection, as the README has them. grpcurl is skipped where it is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import setup
from support import ACTOR, GATEWAY, Served, configuration, dev

GET_LATTICE = "lattice.control.v1.LatticeService/GetLattice"
GET_LINK = "lattice.control.v1.LinkDefinitionService/GetLinkDefinition"
NO_LINK = json.dumps({"lattice": "default", "actorId": ACTOR, "contractId": "a:b"})


class CallsTest(unittest.TestCase):
    """Has a gateway with reflection, and the descriptor set in a file."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        settings = "server.reflection = true"
        config, self.token = configuration(self.folder, dev(self, "default")["nats"], ["read"], settings)
        self.address = f"127.0.0.1:{Served(self, config).port}"
        with (self.folder / "lattice.binpb").open("wb") as file:
            subprocess.run([GATEWAY, "descriptor-set"], stdout=file, check=True)

    def credentials(self) -> str:
        return f"authorization: Bearer {self.token}"

    def run_here(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def assert_shows_the_lattice(self, told: subprocess.CompletedProcess[str]) -> None:
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertEqual(json.loads(told.stdout)["lattice"]["name"], "default")


@unittest.skipUnless(shutil.which("grpcurl"), "needs grpcurl: github.com/fullstorydev/grpcurl has it")
class Grpcurl(CallsTest):
    def grpcurl(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.run_here("grpcurl", "-plaintext", "-H", self.credentials(), *args)

    def test_it_calls_by_the_descriptor_set(self) -> None:
        told = self.grpcurl("-protoset", "lattice.binpb", "-d", '{"lattice": "default"}', self.address, GET_LATTICE)
        self.assert_shows_the_lattice(told)

    def test_it_calls_by_reflection_and_shows_what_is_refused(self) -> None:
        told = self.grpcurl("-d", NO_LINK, self.address, GET_LINK)
        self.assertIn("Code: NotFound", told.stderr)
        self.assertIn("ENTRY_NOT_FOUND", told.stderr)


class BufCurl(CallsTest):
    def buf_curl(self, body: str, rpc: str, *schema: str) -> subprocess.CompletedProcess[str]:
        options = [*schema, "--protocol", "grpc", "--http2-prior-knowledge", "-H", self.credentials()]
        return self.run_here(setup.buf(), "curl", *options, "-d", body, f"http://{self.address}/{rpc}")

    def test_it_calls_by_reflection(self) -> None:
        told = self.buf_curl('{"lattice": "default"}', GET_LATTICE, "--reflect-header", self.credentials())
        self.assert_shows_the_lattice(told)

    def test_it_calls_by_the_descriptor_set_and_shows_what_is_refused(self) -> None:
        told = self.buf_curl(NO_LINK, GET_LINK, "--schema", "lattice.binpb")
        self.assertIn('"code": "not_found"', told.stderr)
        # Its value as base64, whatever the schema has.
        self.assertIn("google.rpc.ErrorInfo", told.stderr)


if __name__ == "__main__":
    unittest.main()
