"""The Helm chart: as Helm lints and renders it, and as Kubernetes and the gateway take what comes of that."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

from support import GATEWAY, PACKAGING, self_signed

CHART = PACKAGING / "helm" / "lattice-gateway"
# The oldest that the chart is for, and the newest that there are schemas of.
KUBERNETES = ["1.27", kubernetes_validate.latest_version()]
# Of operators that are no part of Kubernetes.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}

CONFIG = """
[nats]
servers = "nats://nats:4222"

[lattices.default]
trusted_issuers = ["*"]

[callers.ci]
token_sha256 = ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
grants = [{ lattices = ["default"], verbs = ["read"] }]
"""
LEAST = {"config": CONFIG}
MOST = {
    "existingConfigSecret": "mine",
    "imagePullSecrets": [{"name": "registry"}],
    "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.org/pool": "edge"}},
    "podDisruptionBudget": {"maxUnavailable": None, "minAvailable": "50%"},
    "networkPolicy": {
        "callers": [{"podSelector": {"matchLabels": {"lattice": "yes"}}}],
        "scrapers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "nats"}}}], "ports": [{"port": 4222}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "extraEnv": [{"name": "LATTICE_GATEWAY_LOG_FORMAT", "value": "json"}],
    "podAnnotations": {"example.org/owner": "team"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "edge", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
}


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [found for found in objects if found["kind"] == kind]


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.chart = cls.enterClassContext(helm_python.Chart.load(CHART))

    def rendered(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Every object, as a release `gateways` has it."""
        self.chart.validate_schema(values)
        files = self.chart.render(values, name="gateways", namespace="lattices")
        manifests = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
        return [found for text in manifests for found in yaml.safe_load_all(text) if found]

    def test_helm_finds_nothing_wrong(self) -> None:
        for values in (LEAST, MOST):
            report = helm_python.lint(CHART, values, strict=True)
            self.assertEqual(report["errors"], [])
            self.assertEqual([found["error"] for found in report["messages"]], ["icon is recommended"])

    def test_kubernetes_takes_every_object(self) -> None:
        for values in (LEAST, MOST):
            for found in self.rendered(values):
                if found["kind"] in FOREIGN:
                    continue
                for version in KUBERNETES:
                    kubernetes_validate.validate(found, version, strict=True)

    def test_values_that_mean_nothing_are_refused_by_name(self) -> None:
        for values, told in [
            ({}, "`config` is empty"),
            ({**LEAST, "replicas": 2}, "'replicas' not allowed"),
            ({**LEAST, "lameDuck": "5 seconds"}, "/lameDuck"),
            ({**LEAST, "service": {"port": 70000}}, "/service/port"),
        ]:
            with self.assertRaisesRegex(helm_python.HelmError, re.escape(told)):
                self.rendered(values)

    def test_every_value_of_the_chart_is_one_that_its_schema_knows(self) -> None:
        schema, values = self.chart.schema, self.chart.values
        self.assertEqual(set(schema["properties"]), {*values, "global"})
        for name, value in values.items():
            known = schema["properties"][name].get("properties")
            if isinstance(value, dict) and known is not None:
                self.assertLessEqual(set(value), set(known), name)

    def test_what_is_selected_is_there(self) -> None:
        objects = self.rendered(MOST)
        [deployment] = of_kind(objects, "Deployment")
        pod = deployment["spec"]["template"]
        [container] = pod["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        selectors = [service["spec"]["selector"] for service in of_kind(objects, "Service")]
        selectors += [of_kind(objects, kind)[0]["spec"]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget", "Deployment")]
        selectors += [of_kind(objects, "NetworkPolicy")[0]["spec"]["podSelector"]["matchLabels"]]
        selectors += [spread["labelSelector"]["matchLabels"] for spread in pod["spec"]["topologySpreadConstraints"]]
        for selector in selectors:
            self.assertLessEqual(selector.items(), pod["metadata"]["labels"].items())
        for service in of_kind(objects, "Service"):
            self.assertLessEqual({port["targetPort"] for port in service["spec"]["ports"]}, ports)
        for probe in ("livenessProbe", "readinessProbe"):
            self.assertIn(container[probe]["httpGet"]["port"], ports)
        [monitor] = of_kind(objects, "ServiceMonitor")
        scraped = [
            {port["name"] for port in service["spec"]["ports"]}
            for service in of_kind(objects, "Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        ]
        self.assertEqual(len(scraped), 1)
        self.assertLessEqual({endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}, scraped[0])

    def test_the_rules_are_those_of_the_file(self) -> None:
        [rules] = of_kind(self.rendered(MOST), "PrometheusRule")
        self.assertEqual(rules["spec"], yaml.safe_load((PACKAGING / "prometheus" / "alerts.yaml").read_text()))

    def test_the_gateway_takes_its_configuration_as_the_pod_gives_it(self) -> None:
        objects = self.rendered(LEAST)
        [secret] = of_kind(objects, "Secret")
        [deployment] = of_kind(objects, "Deployment")
        spec = deployment["spec"]["template"]["spec"]
        self.assertEqual(spec["volumes"][0]["secret"]["secretName"], secret["metadata"]["name"])
        [container] = spec["containers"]
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = self_signed(Path(folder), "gateways")
            mounted = {"/tls/tls.crt": str(certificate), "/tls/tls.key": str(key)}
            environment = {given["name"]: mounted.get(given["value"], given["value"]) for given in container["env"]}
            config = Path(folder) / "gateway.toml"
            config.write_text(secret["stringData"]["gateway.toml"])
            checked = subprocess.run(
                [GATEWAY, "check-config", config], env={**os.environ, **environment}, capture_output=True, text=True
            )
        self.assertEqual(checked.returncode, 0, checked.stderr)
        longest = sum(int(environment[f"LATTICE_GATEWAY_SERVER_{name}"].rstrip("s")) for name in ("LAME_DUCK", "DRAIN_TIMEOUT"))
        self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], longest + 4)


if __name__ == "__main__":
    unittest.main()
