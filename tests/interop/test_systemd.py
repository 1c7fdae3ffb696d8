"""The systemd unit, by systemd's own tool; skipped where that is not installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from support import GATEWAY, PACKAGING

UNIT = PACKAGING / "systemd" / "lattice-gateway.service"
# Tenths, of 100: what `systemd-analyze security` calls exposure. A unit without any hardening has 96.
EXPOSURE_MAX = 15


@unittest.skipUnless(shutil.which("systemd-analyze"), "needs systemd-analyze: apt-get install systemd")
class Unit(unittest.TestCase):
    def setUp(self) -> None:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.unit = folder / UNIT.name
        # Where it is installed there is nothing yet.
        self.unit.write_text(UNIT.read_text().replace("/usr/bin/lattice-gateway", str(GATEWAY)))

    def analyze(self, *args: str | Path) -> None:
        told = subprocess.run(["systemd-analyze", *args, self.unit], capture_output=True, text=True)
        self.assertEqual(told.returncode, 0, told.stdout + told.stderr)
        self.assertNotIn(UNIT.name, told.stderr)

    def test_systemd_knows_every_line(self) -> None:
        self.analyze("verify", "--man=no")

    def test_it_may_do_little(self) -> None:
        self.analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX}")


if __name__ == "__main__":
    unittest.main()
