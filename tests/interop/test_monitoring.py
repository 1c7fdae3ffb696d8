"""Alerts and dashboard, by Prometheus itself; skipped where it is not installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

import dev_gateway
from support import ACTOR, LATTICECTL, PACKAGING, dev, until

ALERTS = PACKAGING / "prometheus" / "alerts.yaml"
DASHBOARD = PACKAGING / "grafana" / "lattice-gateway.json"
JOB = "lattice-gateway"

# Told of only where there is such a thing, and there is none in what this test does.
ABSENT = {
    "lattice_gateway_audit_records_total",
    "lattice_gateway_config_reloads_total",
    "lattice_gateway_link_edits_undone_total",
    "lattice_gateway_nats_credential_not_after_seconds",
    "lattice_gateway_stream_config_differences",
    "lattice_gateway_stream_malformed_messages",
    "lattice_gateway_tls_certificate_not_after_seconds",
    "lattice_gateway_tls_client_ca_not_after_seconds",
    "lattice_gateway_turned_away_total",
    "lattice_gateway_unauthenticated_total",
}


def has(program: str) -> bool:
    return shutil.which(program) is not None


@unittest.skipUnless(has("promtool"), "needs promtool: apt-get install prometheus")
class Rules(unittest.TestCase):
    def promtool(self, *args: str) -> None:
        told = subprocess.run(["promtool", *args], cwd=ALERTS.parent, capture_output=True, text=True)
        self.assertEqual(told.returncode, 0, told.stdout + told.stderr)

    def test_they_parse(self) -> None:
        self.promtool("check", "rules", ALERTS.name)

    def test_each_fires_when_it_should_and_none_when_all_is_well(self) -> None:
        self.promtool("test", "rules", "alerts_test.yaml")
        tested = set(re.findall(r'alertname="(\w+)"', ALERTS.with_name("alerts_test.yaml").read_text()))
        [group] = yaml.safe_load(ALERTS.read_text())["groups"]
        self.assertEqual(tested, {rule["alert"] for rule in group["rules"]})


class Prometheus:
    """One that scrapes this gateway, and has the rules."""

    def __init__(self, test: unittest.TestCase, gateway: str) -> None:
        folder = Path(test.enterContext(tempfile.TemporaryDirectory()))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [gateway]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.address = f"127.0.0.1:{dev_gateway.free_port()}"
        log = test.enterContext((folder / "log").open("wb"))
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address={self.address}", "--log.level=warn"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        test.enterContext(dev_gateway.stopped_behind(process))

    def get(self, path: str, **query: str) -> Any:
        """What it answers; nothing while it does not."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        except OSError:
            return None

    def query(self, expression: str) -> list[Any]:
        answer = self.get("query", query=expression)
        return answer["result"] if answer else []


@unittest.skipUnless(has("prometheus"), "needs prometheus: apt-get install prometheus")
class Scraped(unittest.TestCase):
    def setUp(self) -> None:
        ready = dev(self, "default")
        self.endpoint = f"http://{ready['grpc']}"
        self.prometheus = Prometheus(self, ready["admin"])

    def latticectl(self, *args: str | Path, ends_with: int = 0) -> None:
        command = [LATTICECTL, "--endpoint", self.endpoint, "--lattice", "default", *args]
        told = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(told.returncode, ends_with, told.stderr)

    def test_every_rule_and_every_panel_has_an_answer(self) -> None:

        def is_counted_in_every_rate() -> bool:
            # Two scrapes apart, that there is a rate; the second put changes nothing, and a link that is not there is refused.
            self.latticectl("apply", "-f", dev_gateway.EXAMPLE)
            self.latticectl("link", "get", ACTOR, "a:b", ends_with=3)
            return bool(self.prometheus.query("sum(rate(lattice_gateway_rpc_total{code='NOT_FOUND'}[10s])) > 0"))

        until("calls are counted", is_counted_in_every_rate)
        silent = []
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "30s")
                expression = expression.replace("$job", ".*").replace("$instance", ".*")
                named = set(re.findall(r"\b(?:lattice_gateway|process)_\w+", expression))
                if not self.prometheus.query(expression) and not named & ABSENT:
                    silent.append(f"{panel['title']}: {expression}")
        self.assertEqual(silent, [])

        def rules() -> list[Any] | None:
            groups = self.prometheus.get("rules")["groups"]
            told = [rule for group in groups for rule in group["rules"]]
            return told if all(rule["health"] != "unknown" for rule in told) else None

        told = until("the rules are evaluated", rules)
        self.assertEqual([rule for rule in told if rule["health"] != "ok"], [])
        self.assertEqual([rule["name"] for rule in told if rule["state"] != "inactive"], [])


if __name__ == "__main__":
    unittest.main()
