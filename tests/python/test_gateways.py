"""A client of several gateways in another language: gRPC spreads its calls, and restarts go unnoticed.

With what `examples/clients` gives to clients: a service config, and the loop around a write.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import unittest

import dev_gateway
from lattice.control.v1 import lattice_service_pb2_grpc, link_definition_service_pb2_grpc
from lattice.control.v1.core_pb2 import Consistency, LinkDefinition
from lattice.control.v1.lattice_service_pb2 import ProvisionLatticeRequest
from lattice.control.v1.link_definition_service_pb2 import GetLinkDefinitionRequest, PutLinkDefinitionRequest
from test_client import ECHO, HTTPSERVER, rpc_paths, stop

sys.path.insert(0, str(dev_gateway.ROOT / "examples" / "clients"))
import retrying  # noqa: E402

LOG = dev_gateway.ROOT / ".tools" / "python-gateways.log"
# While each gateway is away, and once it is back.
WRITES = 50


class ServiceConfig(unittest.TestCase):
    def test_every_read_and_no_write_is_retried_by_grpc_itself(self) -> None:
        retried = {
            f"/{name['service']}/{name['method']}"
            for config in json.loads(retrying.SERVICE_CONFIG)["methodConfig"]
            if "retryPolicy" in config
            for name in config["name"]
        }
        reads = {path for path in rpc_paths() if path.rsplit("/")[-1].startswith(("Get", "List", "Diagnose"))}
        self.assertEqual(retried, reads)


class SeveralGateways(unittest.TestCase):
    def setUp(self) -> None:
        self.log = self.enterContext(LOG.open("wb"))
        first = self.start(dev_gateway.free_port(), [])
        nats = ["--nats-url", dev_gateway.wait_ready(first)["nats"]]
        self.ports = [dev_gateway.free_port(), dev_gateway.free_port()]
        self.gateways = [self.start(port, nats) for port in self.ports]
        for gateway in self.gateways:
            dev_gateway.wait_ready(gateway)
        # Stops what is there by then; the one that has the nats-server goes last.
        self.addCleanup(lambda: [stop(gateway) for gateway in [*self.gateways, first]])
        self.nats = nats
        addresses = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        channel = retrying.connect(f"ipv4:{addresses}", "localhost")
        self.addCleanup(channel.close)
        self.links = link_definition_service_pb2_grpc.LinkDefinitionServiceStub(channel)
        lattices = lattice_service_pb2_grpc.LatticeServiceStub(channel)
        lattices.ProvisionLattice(ProvisionLatticeRequest(lattice="default"))

    def start(self, port: int, args: list[str]) -> subprocess.Popen[bytes]:
        listen = ["--listen", f"127.0.0.1:{port}", "--admin-listen", "127.0.0.1:0"]
        return dev_gateway.start([*listen, *args], self.log)

    def test_a_rolling_restart_fails_no_call(self) -> None:
        written = 0

        def write_and_read() -> None:
            nonlocal written
            value = {"number": str(written)}
            link = LinkDefinition(
                actor_id=ECHO, provider_id=HTTPSERVER, contract_id="wasmcloud:httpserver", values=value
            )
            request = PutLinkDefinitionRequest(
                lattice="default", link_definition=link, request_id=f"request-{written:04}"
            )
            result = retrying.write(self.links.PutLinkDefinition, request).result
            read = self.links.GetLinkDefinition(
                GetLinkDefinitionRequest(
                    lattice="default",
                    actor_id=ECHO,
                    contract_id="wasmcloud:httpserver",
                    consistency=Consistency(at_least_as_fresh=result.revision),
                )
            )
            self.assertEqual(read.link_definition.values, value)
            written += 1

        def meanwhile(work: threading.Thread) -> None:
            """Goes on until that is done, and then some more."""
            work.start()
            while work.is_alive():
                write_and_read()
            for _ in range(WRITES):
                write_and_read()

        write_and_read()
        for place in range(2):
            meanwhile(threading.Thread(target=stop, args=[self.gateways[place]]))
            self.gateways[place] = self.start(self.ports[place], self.nats)
            meanwhile(threading.Thread(target=dev_gateway.wait_ready, args=[self.gateways[place]]))


if __name__ == "__main__":
    unittest.main()
