"""grpcurl, by the descriptor set and by reflection; skipped where it is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from support import ACTOR, GATEWAY, Served, configuration, dev


@unittest.skipUnless(shutil.which("grpcurl"), "needs grpcurl: github.com/fullstorydev/grpcurl has it")
class Grpcurl(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        settings = "server.reflection = true"
        config, self.token = configuration(self.folder, dev(self, "default")["nats"], ["read"], settings)
        self.address = f"127.0.0.1:{Served(self, config).port}"

    def grpcurl(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["grpcurl", "-plaintext", "-H", f"authorization: Bearer {self.token}", *args]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def test_it_calls_by_the_descriptor_set(self) -> None:
        with (self.folder / "lattice.binpb").open("wb") as file:
            subprocess.run([GATEWAY, "descriptor-set"], stdout=file, check=True)
        method = "lattice.control.v1.LatticeService/GetLattice"
        told = self.grpcurl("-protoset", "lattice.binpb", "-d", '{"lattice": "default"}', self.address, method)
        self.assertEqual(json.loads(told.stdout)["lattice"]["name"], "default", told.stderr)

    def test_it_calls_by_reflection_and_shows_what_is_refused(self) -> None:
        asked = json.dumps({"lattice": "default", "actorId": ACTOR, "contractId": "a:b"})
        told = self.grpcurl("-d", asked, self.address, "lattice.control.v1.LinkDefinitionService/GetLinkDefinition")
        self.assertIn("Code: NotFound", told.stderr)
        self.assertIn("ENTRY_NOT_FOUND", told.stderr)


if __name__ == "__main__":
    unittest.main()
