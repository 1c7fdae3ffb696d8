"""A client in another language: calls every RPC of a running gateway through stubs generated from `proto/`.

`make test` runs it. The gateway is `lattice-gateway dev` with a nats-server of its own; each test has a lattice of
its own in it.
"""

from __future__ import annotations

import importlib
import itertools
import json
import pkgutil
import subprocess
import unittest
import urllib.request
from typing import Any, Callable, Iterator

import grpc
import yaml
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

import dev_gateway
import lattice.control.v1
from lattice.control.v1 import (
    apply_service_pb2_grpc,
    claims_service_pb2_grpc,
    config_service_pb2_grpc,
    error_reason_pb2,
    interface_link_service_pb2_grpc,
    lattice_service_pb2_grpc,
    link_definition_service_pb2_grpc,
    oci_reference_service_pb2_grpc,
    watch_service_pb2_grpc,
)
from lattice.control.v1.apply_service_pb2 import ApplyManifestRequest, ApplyRequest
from lattice.control.v1.claims_service_pb2 import (
    DeleteClaimsRequest,
    GetClaimsRequest,
    ListClaimsRequest,
    PutClaimsRequest,
)
from lattice.control.v1.config_service_pb2 import (
    DeleteConfigRequest,
    GetConfigRequest,
    ListConfigsRequest,
    PutConfigRequest,
    PutConfigResponse,
)
from lattice.control.v1.core_pb2 import (
    OUTCOME_ALREADY_APPLIED,
    OUTCOME_APPLIED,
    OUTCOME_UNCHANGED,
    OUTCOME_VALIDATED,
    Claims,
    Consistency,
    InterfaceLink,
    LinkDefinition,
    NamedConfig,
    OciReference,
    Revision,
)
from lattice.control.v1.diagnosis_pb2 import DiagnoseLatticeRequest
from lattice.control.v1.interface_link_service_pb2 import (
    DeleteInterfaceLinkRequest,
    GetInterfaceLinkRequest,
    ListInterfaceLinksRequest,
    PutInterfaceLinkRequest,
    PutInterfaceLinkResponse,
)
from lattice.control.v1.lattice_service_pb2 import (
    LAYOUT_CACHE_STREAM,
    LAYOUT_COMPONENT,
    LAYOUT_KV,
    GetLatticeRequest,
    GetServerInfoRequest,
    ListLatticesRequest,
    ProvisionLatticeRequest,
)
from lattice.control.v1.link_definition_service_pb2 import (
    DeleteLinkDefinitionRequest,
    GetLinkDefinitionRequest,
    ListLinkDefinitionsRequest,
    PutLinkDefinitionRequest,
    PutLinkDefinitionResponse,
)
from lattice.control.v1.migration_pb2 import MigrateLatticeRequest
from lattice.control.v1.oci_reference_service_pb2 import (
    DeleteOciReferenceRequest,
    GetOciReferenceRequest,
    ListOciReferencesRequest,
    SetOciReferenceRequest,
    SetOciReferenceResponse,
)
from lattice.control.v1.provisioning_pb2 import (
    STORAGE_FILE,
    STORAGE_MEMORY,
    STREAM_ACTION_CREATED,
    STREAM_ACTION_UNCHANGED,
    ProvisionWadmRequest,
)
from lattice.control.v1.watch_service_pb2 import ENTRY_KIND_LINK_DEFINITION, WatchRequest

EXAMPLE = yaml.safe_load((dev_gateway.EXAMPLE / "lattice.yaml").read_text())
TOKENS = [(dev_gateway.EXAMPLE / claims["jwt_file"]).read_text() for claims in EXAMPLE["claims"]]
# As answers have them, the name that is left out included.
LINKS = [LinkDefinition(link_name="default", **link) for link in EXAMPLE["link_definitions"]]
REFERENCES = [OciReference(**reference) for reference in EXAMPLE["oci_references"]]
# The example lists its tokens and its references in one order.
ECHO, KVCOUNTER, HTTPSERVER, REDIS = [reference.public_key for reference in REFERENCES]

LOG = dev_gateway.ROOT / ".tools" / "python-client-gateway.log"
STOP_SECONDS = 40
# Bounds every call, so that a gateway that hangs fails a test and does not stop the run.
SERVICE_CONFIG = json.dumps({"methodConfig": [{"name": [{}], "timeout": "20s"}]})


class CalledMethods(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Notes the path of every method that is called."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def intercept_unary_unary(self, continuation: Callable, details: grpc.ClientCallDetails, request: Any) -> Any:
        self.paths.add(details.method)
        return continuation(details, request)

    intercept_unary_stream = intercept_unary_unary
    intercept_stream_stream = intercept_unary_unary


CALLED = CalledMethods()
LATTICE_NAMES = (f"python-{number}" for number in itertools.count(1))


def setUpModule() -> None:
    global addresses, channel
    with LOG.open("wb") as log:
        gateway = dev_gateway.start(dev_gateway.FREE_PORTS, log)
    unittest.addModuleCleanup(stop, gateway)
    addresses = dev_gateway.wait_ready(gateway)
    channel = grpc.insecure_channel(addresses["grpc"], options=[("grpc.service_config", SERVICE_CONFIG)])
    unittest.addModuleCleanup(channel.close)


def stop(gateway: subprocess.Popen[bytes]) -> None:
    gateway.terminate()
    gateway.stdout.close()
    code = gateway.wait(STOP_SECONDS)
    if code != 0:
        raise AssertionError(f"the gateway ended with {code}; its log is {LOG}")


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, _pattern: str | None) -> unittest.TestSuite:
    """Puts the test of what the others called behind them, unless only some of them are run."""
    if loader.testNamePatterns is None:
        tests.addTest(EveryRpc("is_called"))
    return tests


class EveryRpc(unittest.TestCase):
    """Fails when an RPC is in `proto/` and no test here called it."""

    def is_called(self) -> None:
        self.assertEqual(set(rpc_paths()) - CALLED.paths, set())


def rpcs() -> Iterator[MethodDescriptor]:
    for module in pkgutil.iter_modules(lattice.control.v1.__path__):
        if module.name.endswith("_pb2"):
            descriptor = importlib.import_module(f"lattice.control.v1.{module.name}").DESCRIPTOR
            for service in descriptor.services_by_name.values():
                yield from service.methods


def rpc_path(rpc: MethodDescriptor) -> str:
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


def rpc_paths() -> Iterator[str]:
    return map(rpc_path, rpcs())


class ClientTest(unittest.TestCase):
    """Has a provisioned lattice of its own."""

    layout = LAYOUT_CACHE_STREAM

    def setUp(self) -> None:
        noted = grpc.intercept_channel(channel, CALLED)
        self.claims = claims_service_pb2_grpc.ClaimsServiceStub(noted)
        self.links = link_definition_service_pb2_grpc.LinkDefinitionServiceStub(noted)
        self.interface_links = interface_link_service_pb2_grpc.InterfaceLinkServiceStub(noted)
        self.references = oci_reference_service_pb2_grpc.OciReferenceServiceStub(noted)
        self.configs = config_service_pb2_grpc.ConfigServiceStub(noted)
        self.applying = apply_service_pb2_grpc.ApplyServiceStub(noted)
        self.watching = watch_service_pb2_grpc.WatchServiceStub(noted)
        self.lattices = lattice_service_pb2_grpc.LatticeServiceStub(noted)
        self.lattice = next(LATTICE_NAMES)
        self.lattices.ProvisionLattice(ProvisionLatticeRequest(lattice=self.lattice, layout=self.layout))

    def refused(self, call: Callable, request: Any, code: grpc.StatusCode, reason: int) -> RefusalDetails:
        """Calls and requires this refusal, with exactly one `ErrorInfo`."""
        with self.assertRaises(grpc.RpcError) as raised:
            call(request)
        self.assertEqual(raised.exception.code(), code, raised.exception.details())
        details = RefusalDetails(raised.exception)
        self.assertEqual(details.info.domain, "lattice.control.v1")
        self.assertEqual(details.info.reason, error_reason_pb2.ErrorReason.Name(reason))
        return details

    def violations(self, call: Callable, request: Any) -> set[str]:
        """Calls and gives the paths of the fields that are refused."""
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        return self.refused(call, request, invalid, error_reason_pb2.INVALID_FIELD).fields

    def put_link(self, link: LinkDefinition, **also: Any) -> PutLinkDefinitionResponse:
        return self.links.PutLinkDefinition(self.put_link_request(link, **also))

    def put_link_request(self, link: LinkDefinition, **also: Any) -> PutLinkDefinitionRequest:
        return PutLinkDefinitionRequest(lattice=self.lattice, link_definition=link, **also)

    def get_link_request(self, link: LinkDefinition, **also: Any) -> GetLinkDefinitionRequest:
        return GetLinkDefinitionRequest(lattice=self.lattice, **identity(link), **also)

    def delete_link_request(self, link: LinkDefinition, **also: Any) -> DeleteLinkDefinitionRequest:
        return DeleteLinkDefinitionRequest(lattice=self.lattice, **identity(link), **also)

    def set_reference(self, reference: OciReference, **also: Any) -> SetOciReferenceResponse:
        return self.references.SetOciReference(
            SetOciReferenceRequest(lattice=self.lattice, oci_reference=reference, **also)
        )


class RefusalDetails:
    """The `google.rpc` details of an error."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.fields: set[str] = set()
        infos = []
        for detail in rpc_status.from_call(error).details:
            info, bad_request = ErrorInfo(), BadRequest()
            if detail.Unpack(info):
                infos.append(info)
            elif detail.Unpack(bad_request):
                self.fields |= {violation.field for violation in bad_request.field_violations}
        [self.info] = infos


def unpacked_info(detail: Any) -> ErrorInfo | None:
    info = ErrorInfo()
    return info if detail.Unpack(info) else None


def identity(link: LinkDefinition) -> dict[str, str]:
    return {"actor_id": link.actor_id, "contract_id": link.contract_id, "link_name": link.link_name}


def at_least(revision: Revision) -> Consistency:
    return Consistency(at_least_as_fresh=revision)


class ClaimsService(ClientTest):
    def test_tokens_are_verified_flattened_and_read_back(self) -> None:
        for token in TOKENS:
            put = self.claims.PutClaims(PutClaimsRequest(lattice=self.lattice, jwt=token))
            self.assertEqual(put.result.outcome, OUTCOME_APPLIED)
        fresh = at_least(put.result.revision)

        got = self.claims.GetClaims(
            GetClaimsRequest(lattice=self.lattice, public_key=ECHO, consistency=fresh)
        ).claims
        self.assertEqual((got.public_key, got.name, got.call_alias), (ECHO, "Echo", "echo"))
        self.assertEqual(list(got.capabilities), ["wasmcloud:httpserver", "wasmcloud:builtin:logging"])
        self.assertEqual(list(got.tags), ["example"])
        self.assertEqual((got.claims_revision, got.version), ("4", "0.3.4"))
        self.assertTrue(got.etag)

        listed = self.claims.ListClaims(ListClaimsRequest(lattice=self.lattice, consistency=fresh))
        self.assertEqual(
            [claims.public_key for claims in listed.claims], sorted([ECHO, KVCOUNTER, HTTPSERVER, REDIS])
        )

    def test_a_token_with_the_signature_of_another_is_refused(self) -> None:
        body = TOKENS[0].rsplit(".", 1)[0]
        signature = TOKENS[1].rsplit(".", 1)[1]
        refusal = self.refused(
            self.claims.PutClaims,
            PutClaimsRequest(lattice=self.lattice, jwt=f"{body}.{signature}"),
            grpc.StatusCode.INVALID_ARGUMENT,
            error_reason_pb2.CLAIMS_INVALID,
        )
        self.assertTrue(refusal.info.metadata["cause"])

    def test_all_violations_of_unsigned_claims_come_together(self) -> None:
        claims = Claims(public_key="M", issuer=ECHO, name="Echo", call_alias="No Alias", contract_id="no spaces")
        fields = self.violations(self.claims.PutClaims, PutClaimsRequest(lattice="a.b", claims=claims))
        wrong = {"public_key", "issuer", "call_alias", "contract_id"}
        self.assertEqual(fields, {"lattice"} | {f"claims.{field}" for field in wrong})

    def test_what_hosts_do_not_keep_is_refused(self) -> None:
        valid = PutClaimsRequest(lattice=self.lattice, jwt=TOKENS[0], validate_only=True)
        claims = self.claims.PutClaims(valid).claims
        claims.contract_id = "wasmcloud:httpserver"
        fields = self.violations(self.claims.PutClaims, PutClaimsRequest(lattice=self.lattice, claims=claims))
        self.assertEqual(fields, {"claims.contract_id"})

    def test_absent_claims_are_not_found(self) -> None:
        self.refused(
            self.claims.GetClaims,
            GetClaimsRequest(lattice=self.lattice, public_key=ECHO),
            grpc.StatusCode.NOT_FOUND,
            error_reason_pb2.ENTRY_NOT_FOUND,
        )

    def test_claims_that_must_not_exist_are_put_once(self) -> None:
        request = PutClaimsRequest(lattice=self.lattice, jwt=TOKENS[0], must_not_exist=True)
        self.claims.PutClaims(request)
        self.refused(
            self.claims.PutClaims, request, grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ENTRY_EXISTS
        )

    def test_hosts_cannot_forget_claims(self) -> None:
        refusal = self.refused(
            self.claims.DeleteClaims,
            DeleteClaimsRequest(lattice=self.lattice, public_key=ECHO),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.LAYOUT_UNSUPPORTED,
        )
        self.assertTrue(refusal.info.metadata["layout"])


class LinkDefinitionService(ClientTest):
    def test_a_link_is_put_read_and_deleted(self) -> None:
        [link, *_] = LINKS
        put = self.put_link(link)
        self.assertEqual(put.result.outcome, OUTCOME_APPLIED)
        self.assertEqual(put.link_definition.values, link.values)

        got = self.links.GetLinkDefinition(
            self.get_link_request(link, consistency=at_least(put.result.revision))
        ).link_definition
        self.assertEqual(got, put.link_definition)
        self.assertEqual((got.etag, got.revision), (put.result.etag, put.result.revision))

        deleted = self.links.DeleteLinkDefinition(self.delete_link_request(link, etag=got.etag))
        self.assertEqual((deleted.result.outcome, deleted.result.etag), (OUTCOME_APPLIED, ""))
        self.refused(
            self.links.GetLinkDefinition,
            self.get_link_request(link, consistency=at_least(deleted.result.revision)),
            grpc.StatusCode.NOT_FOUND,
            error_reason_pb2.ENTRY_NOT_FOUND,
        )

    def test_all_violations_come_together(self) -> None:
        link = LinkDefinition(
            actor_id=HTTPSERVER, provider_id="V", contract_id="no spaces", link_name="a.b", values={"": "nameless"}
        )
        fields = self.violations(self.links.PutLinkDefinition, self.put_link_request(link, request_id="short"))
        wrong = {"actor_id", "provider_id", "contract_id", "link_name", 'values[""]'}
        self.assertEqual(fields, {"request_id"} | {f"link_definition.{field}" for field in wrong})

    def test_deleting_an_absent_link_is_not_found_unless_it_may_be_missing(self) -> None:
        [link, *_] = LINKS
        self.refused(
            self.links.DeleteLinkDefinition,
            self.delete_link_request(link),
            grpc.StatusCode.NOT_FOUND,
            error_reason_pb2.ENTRY_NOT_FOUND,
        )
        deleted = self.links.DeleteLinkDefinition(self.delete_link_request(link, allow_missing=True))
        self.assertEqual(deleted.result.outcome, OUTCOME_UNCHANGED)

    def test_a_stale_etag_is_refused(self) -> None:
        [link, *_] = LINKS
        stale = self.put_link(link).result.etag
        self.put_link(changed(link))
        self.refused(
            self.links.PutLinkDefinition,
            self.put_link_request(link, etag=stale),
            grpc.StatusCode.ABORTED,
            error_reason_pb2.ETAG_MISMATCH,
        )

    def test_a_link_that_must_not_exist_is_put_once(self) -> None:
        request = self.put_link_request(LINKS[0], must_not_exist=True)
        self.links.PutLinkDefinition(request)
        self.refused(
            self.links.PutLinkDefinition, request, grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ENTRY_EXISTS
        )

    def test_a_retry_is_applied_once(self) -> None:
        [link, *_] = LINKS
        first = self.put_link(link, request_id="python-retry")
        retry = self.put_link(link, request_id="python-retry", retry_age=Duration(seconds=1))
        self.assertEqual(retry.result.outcome, OUTCOME_ALREADY_APPLIED)
        self.assertEqual(retry.result.revision, first.result.revision)
        self.assertFalse(retry.result.superseded)

        self.put_link(changed(link))
        late = self.put_link(link, request_id="python-retry", retry_age=Duration(seconds=2))
        self.assertEqual(late.result.outcome, OUTCOME_ALREADY_APPLIED)
        self.assertTrue(late.result.superseded)
        self.assertEqual(late.link_definition.values, changed(link).values)

    def test_a_request_id_is_of_one_content(self) -> None:
        [link, *_] = LINKS
        self.put_link(link, request_id="python-reused")
        self.refused(
            self.links.PutLinkDefinition,
            self.put_link_request(changed(link), request_id="python-reused"),
            grpc.StatusCode.INVALID_ARGUMENT,
            error_reason_pb2.REQUEST_ID_REUSED,
        )

    def test_validate_only_writes_nothing(self) -> None:
        [link, *_] = LINKS
        self.assertEqual(self.put_link(link, validate_only=True).result.outcome, OUTCOME_VALIDATED)
        self.refused(
            self.links.GetLinkDefinition,
            self.get_link_request(link, consistency=Consistency(fully_consistent=True)),
            grpc.StatusCode.NOT_FOUND,
            error_reason_pb2.ENTRY_NOT_FOUND,
        )

    def test_putting_what_stands_changes_nothing(self) -> None:
        first = self.put_link(LINKS[0])
        again = self.put_link(LINKS[0])
        self.assertEqual(again.result.outcome, OUTCOME_UNCHANGED)
        self.assertEqual(again.result.etag, first.result.etag)

    def test_pages_hold_every_link_once_in_order(self) -> None:
        for number in range(5):
            put = self.put_link(named(LINKS[0], f"link-{number}"))
        request = ListLinkDefinitionsRequest(
            lattice=self.lattice, page_size=2, consistency=at_least(put.result.revision)
        )
        pages = [self.links.ListLinkDefinitions(request)]
        while pages[-1].next_page_token:
            request.page_token = pages[-1].next_page_token
            pages.append(self.links.ListLinkDefinitions(request))
        self.assertEqual([len(page.link_definitions) for page in pages], [2, 2, 1])
        names = [link.link_name for page in pages for link in page.link_definitions]
        self.assertEqual(names, [f"link-{number}" for number in range(5)])

        request.page_token = pages[0].next_page_token
        request.actor_id = ECHO
        self.refused(
            self.links.ListLinkDefinitions,
            request,
            grpc.StatusCode.INVALID_ARGUMENT,
            error_reason_pb2.PAGE_TOKEN_INVALID,
        )

    def test_filters_choose_links(self) -> None:
        for link in LINKS:
            put = self.put_link(link)
        listed = self.links.ListLinkDefinitions(
            ListLinkDefinitionsRequest(
                lattice=self.lattice,
                contract_id="wasmcloud:keyvalue",
                consistency=at_least(put.result.revision),
            )
        )
        self.assertEqual([identity(link) for link in listed.link_definitions], [identity(LINKS[2])])

    def test_a_revision_of_another_stream_is_refused(self) -> None:
        revision = self.put_link(LINKS[0]).result.revision
        elsewhere = Revision(epoch=revision.epoch ^ 1, sequence=revision.sequence)
        self.refused(
            self.links.GetLinkDefinition,
            self.get_link_request(LINKS[0], consistency=at_least(elsewhere)),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.REVISION_UNAVAILABLE,
        )


def changed(link: LinkDefinition) -> LinkDefinition:
    return LinkDefinition(**identity(link), provider_id=link.provider_id, values={"address": "127.0.0.1:9090"})


def named(link: LinkDefinition, name: str) -> LinkDefinition:
    copy = LinkDefinition()
    copy.CopyFrom(link)
    copy.link_name = name
    return copy


class OciReferenceService(ClientTest):
    def test_references_are_set_and_read_back(self) -> None:
        for reference in REFERENCES:
            put = self.set_reference(reference)
            self.assertEqual(put.result.outcome, OUTCOME_APPLIED)
            self.assertEqual(put.oci_reference.public_key, reference.public_key)
        fresh = at_least(put.result.revision)

        got = self.references.GetOciReference(
            GetOciReferenceRequest(lattice=self.lattice, oci_url=REFERENCES[0].oci_url, consistency=fresh)
        )
        self.assertEqual(got.oci_reference.public_key, ECHO)
        listed = self.references.ListOciReferences(
            ListOciReferencesRequest(lattice=self.lattice, consistency=fresh)
        )
        self.assertEqual(
            [reference.oci_url for reference in listed.oci_references],
            sorted(reference.oci_url for reference in REFERENCES),
        )

    def test_all_violations_come_together(self) -> None:
        request = SetOciReferenceRequest(
            lattice=self.lattice, oci_reference=OciReference(oci_url="no spaces", public_key=ECHO.lower())
        )
        fields = self.violations(self.references.SetOciReference, request)
        self.assertEqual(fields, {"oci_reference.oci_url", "oci_reference.public_key"})

    def test_an_absent_reference_is_not_found(self) -> None:
        self.refused(
            self.references.GetOciReference,
            GetOciReferenceRequest(lattice=self.lattice, oci_url=REFERENCES[0].oci_url),
            grpc.StatusCode.NOT_FOUND,
            error_reason_pb2.ENTRY_NOT_FOUND,
        )

    def test_a_stale_etag_is_refused(self) -> None:
        [reference, other, *_] = REFERENCES
        stale = self.set_reference(reference).result.etag
        self.set_reference(OciReference(oci_url=reference.oci_url, public_key=other.public_key))
        request = SetOciReferenceRequest(lattice=self.lattice, oci_reference=reference, etag=stale)
        self.refused(
            self.references.SetOciReference, request, grpc.StatusCode.ABORTED, error_reason_pb2.ETAG_MISMATCH
        )

    def test_hosts_cannot_forget_a_reference(self) -> None:
        self.refused(
            self.references.DeleteOciReference,
            DeleteOciReferenceRequest(lattice=self.lattice, oci_url=REFERENCES[0].oci_url),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.LAYOUT_UNSUPPORTED,
        )


class ComponentTest(ClientTest):
    """Has a lattice as hosts of wasmCloud 1.0 to 1.9 keep it."""

    layout = LAYOUT_COMPONENT

    def put_interface_link(self, link: InterfaceLink, **also: Any) -> PutInterfaceLinkResponse:
        return self.interface_links.PutInterfaceLink(self.put_interface_link_request(link, **also))

    def put_interface_link_request(self, link: InterfaceLink, **also: Any) -> PutInterfaceLinkRequest:
        return PutInterfaceLinkRequest(lattice=self.lattice, interface_link=link, **also)

    def put_config(self, config: NamedConfig, **also: Any) -> PutConfigResponse:
        return self.configs.PutConfig(PutConfigRequest(lattice=self.lattice, named_config=config, **also))


PORT = NamedConfig(name="port", values={"address": "127.0.0.1:8080"})


def interface_link(target: str = "echo", interfaces: tuple[str, ...] = ("incoming-handler",)) -> InterfaceLink:
    return InterfaceLink(
        source_id="http-server",
        target=target,
        name="default",
        wit_namespace="wasi",
        wit_package="http",
        interfaces=interfaces,
    )


def without_target(link: InterfaceLink) -> dict[str, str]:
    return {
        "source_id": link.source_id,
        "name": link.name,
        "wit_namespace": link.wit_namespace,
        "wit_package": link.wit_package,
    }


class ComponentClaims(ComponentTest):
    def test_claims_are_put_read_and_deleted(self) -> None:
        put = self.claims.PutClaims(PutClaimsRequest(lattice=self.lattice, jwt=TOKENS[0]))
        self.assertEqual(put.result.outcome, OUTCOME_APPLIED)
        got = self.claims.GetClaims(
            GetClaimsRequest(lattice=self.lattice, public_key=ECHO, consistency=at_least(put.result.revision))
        ).claims
        self.assertEqual(got, put.claims)
        self.assertEqual((got.name, got.version), ("Echo", "0.3.4"))
        self.assertEqual((list(got.capabilities), got.contract_id), ([], ""))

        deleted = self.claims.DeleteClaims(
            DeleteClaimsRequest(lattice=self.lattice, public_key=ECHO, etag=got.etag)
        )
        self.assertEqual((deleted.result.outcome, deleted.result.etag), (OUTCOME_APPLIED, ""))
        self.refused(
            self.claims.GetClaims,
            GetClaimsRequest(
                lattice=self.lattice, public_key=ECHO, consistency=at_least(deleted.result.revision)
            ),
            grpc.StatusCode.NOT_FOUND,
            error_reason_pb2.ENTRY_NOT_FOUND,
        )

    def test_what_hosts_do_not_keep_is_refused(self) -> None:
        valid = PutClaimsRequest(lattice=self.lattice, jwt=TOKENS[0], validate_only=True)
        claims = self.claims.PutClaims(valid).claims
        claims.capabilities.append("wasmcloud:httpserver")
        claims.contract_id = "wasmcloud:httpserver"
        fields = self.violations(self.claims.PutClaims, PutClaimsRequest(lattice=self.lattice, claims=claims))
        self.assertEqual(fields, {"claims.capabilities", "claims.contract_id"})


class InterfaceLinkService(ComponentTest):
    def test_a_link_is_put_read_and_deleted(self) -> None:
        self.put_config(PORT)
        link = interface_link()
        link.source_config.append(PORT.name)
        put = self.put_interface_link(link)
        self.assertEqual(put.result.outcome, OUTCOME_APPLIED)
        stands = put.interface_link
        self.assertEqual(list(stands.interfaces), ["incoming-handler"])
        self.assertEqual(list(stands.source_config), ["port"])

        got = self.interface_links.GetInterfaceLink(
            GetInterfaceLinkRequest(
                lattice=self.lattice, **without_target(link), consistency=at_least(put.result.revision)
            )
        ).interface_link
        self.assertEqual(got, stands)
        self.assertEqual((got.etag, got.revision), (put.result.etag, put.result.revision))

        deleted = self.interface_links.DeleteInterfaceLink(
            DeleteInterfaceLinkRequest(
                lattice=self.lattice, **without_target(link), target=link.target, etag=got.etag
            )
        )
        self.assertEqual((deleted.result.outcome, deleted.result.etag), (OUTCOME_APPLIED, ""))
        self.refused(
            self.interface_links.GetInterfaceLink,
            GetInterfaceLinkRequest(
                lattice=self.lattice, **without_target(link), consistency=at_least(deleted.result.revision)
            ),
            grpc.StatusCode.NOT_FOUND,
            error_reason_pb2.ENTRY_NOT_FOUND,
        )

    def test_all_violations_come_together(self) -> None:
        link = InterfaceLink(
            source_id="a.b", target="*", name="no spaces", wit_namespace="no spaces", interfaces=["types", "types"]
        )
        fields = self.violations(
            self.interface_links.PutInterfaceLink, self.put_interface_link_request(link, request_id="short")
        )
        wrong = {"source_id", "target", "name", "wit_namespace", "wit_package", "interfaces[1]"}
        self.assertEqual(fields, {"request_id"} | {f"interface_link.{field}" for field in wrong})

    def test_an_interface_is_served_by_one_target(self) -> None:
        self.put_interface_link(interface_link())
        refusal = self.refused(
            self.interface_links.PutInterfaceLink,
            self.put_interface_link_request(interface_link("other")),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.LINK_CONFLICT,
        )
        self.assertIn("echo", refusal.info.metadata["entry"])

    def test_the_target_is_needed_where_several_links_have_the_rest(self) -> None:
        self.put_interface_link(interface_link())
        self.put_interface_link(interface_link("other", ("types",)))
        rest = without_target(interface_link())
        for call, request in [
            (self.interface_links.GetInterfaceLink, GetInterfaceLinkRequest(lattice=self.lattice, **rest)),
            (self.interface_links.DeleteInterfaceLink, DeleteInterfaceLinkRequest(lattice=self.lattice, **rest)),
        ]:
            refusal = self.refused(
                call, request, grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.AMBIGUOUS_LINK
            )
            for target in ["echo", "other"]:
                self.assertIn(target, refusal.info.metadata["targets"])
            request.target = "other"
            call(request)

    def test_configs_that_a_link_names_must_stand(self) -> None:
        link = interface_link()
        link.target_config.append("absent")
        refusal = self.refused(
            self.interface_links.PutInterfaceLink,
            self.put_interface_link_request(link),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.CONFIG_NOT_FOUND,
        )
        self.assertEqual(refusal.info.metadata["configs"], "absent")

    def test_a_retry_is_applied_once(self) -> None:
        first = self.put_interface_link(interface_link(), request_id="python-retry")
        retry = self.put_interface_link(
            interface_link(), request_id="python-retry", retry_age=Duration(seconds=1)
        )
        self.assertEqual(retry.result.outcome, OUTCOME_ALREADY_APPLIED)
        self.assertEqual(retry.result.revision, first.result.revision)

    def test_pages_hold_every_link_once_in_order(self) -> None:
        for number in range(5):
            link = interface_link(f"target-{number}", (f"interface-{number}",))
            put = self.put_interface_link(link)
        link.source_id = "other"
        self.put_interface_link(link)
        request = ListInterfaceLinksRequest(
            lattice=self.lattice, source_id="http-server", page_size=2, consistency=at_least(put.result.revision)
        )
        pages = [self.interface_links.ListInterfaceLinks(request)]
        while pages[-1].next_page_token:
            request.page_token = pages[-1].next_page_token
            pages.append(self.interface_links.ListInterfaceLinks(request))
        self.assertEqual([len(page.interface_links) for page in pages], [2, 2, 1])
        targets = [link.target for page in pages for link in page.interface_links]
        self.assertEqual(targets, [f"target-{number}" for number in range(5)])

    def test_a_lattice_has_links_of_one_kind(self) -> None:
        refusal = self.refused(
            self.links.PutLinkDefinition,
            self.put_link_request(LINKS[0]),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.LAYOUT_UNSUPPORTED,
        )
        self.assertEqual(refusal.info.metadata["layout"], "component")


class ConfigService(ComponentTest):
    def get_config(self, revision: Revision) -> NamedConfig:
        request = GetConfigRequest(lattice=self.lattice, name=PORT.name, consistency=at_least(revision))
        return self.configs.GetConfig(request).named_config

    def test_a_config_is_put_read_and_deleted(self) -> None:
        put = self.put_config(PORT)
        self.assertEqual(put.result.outcome, OUTCOME_APPLIED)
        got = self.get_config(put.result.revision)
        self.assertEqual(got, put.named_config)
        self.assertEqual((got.values, got.etag), (PORT.values, put.result.etag))
        listed = self.configs.ListConfigs(
            ListConfigsRequest(lattice=self.lattice, consistency=at_least(put.result.revision))
        )
        self.assertEqual(list(listed.named_configs), [got])

        deleted = self.configs.DeleteConfig(
            DeleteConfigRequest(lattice=self.lattice, name=PORT.name, etag=got.etag)
        )
        self.assertEqual((deleted.result.outcome, deleted.result.etag), (OUTCOME_APPLIED, ""))
        self.refused(
            self.get_config, deleted.result.revision, grpc.StatusCode.NOT_FOUND, error_reason_pb2.ENTRY_NOT_FOUND
        )

    def test_all_violations_come_together(self) -> None:
        config = NamedConfig(name="no spaces", values={"": "nameless"})
        fields = self.violations(
            self.configs.PutConfig, PutConfigRequest(lattice=self.lattice, named_config=config)
        )
        self.assertEqual(fields, {"named_config.name", 'named_config.values[""]'})

    def test_a_config_in_use_is_deleted_by_force_alone(self) -> None:
        self.put_config(PORT)
        link = interface_link()
        link.source_config.append(PORT.name)
        self.put_interface_link(link)
        request = DeleteConfigRequest(lattice=self.lattice, name=PORT.name)
        refusal = self.refused(
            self.configs.DeleteConfig,
            request,
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.CONFIG_IN_USE,
        )
        self.assertIn("http-server", refusal.info.metadata["link"])
        request.force = True
        self.assertEqual(self.configs.DeleteConfig(request).result.outcome, OUTCOME_APPLIED)

    def test_a_config_that_must_not_exist_is_put_once(self) -> None:
        request = PutConfigRequest(lattice=self.lattice, named_config=PORT, must_not_exist=True)
        self.configs.PutConfig(request)
        self.refused(
            self.configs.PutConfig, request, grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ENTRY_EXISTS
        )


class ApplyService(ClientTest):
    def test_many_operations_go_over_one_call(self) -> None:
        claims = PutClaimsRequest(lattice=self.lattice, jwt=TOKENS[0])
        reference = SetOciReferenceRequest(lattice=self.lattice, oci_reference=REFERENCES[0])
        nameless = ApplyRequest(id="nameless", put_link_definition=self.put_link_request(LinkDefinition()))
        operations = [
            ApplyRequest(id="claims", put_claims=claims),
            ApplyRequest(id="reference", set_oci_reference=reference),
            nameless,
            *(ApplyRequest(id=f"link {number}", put_link_definition=self.put_link_request(link))
              for number, link in enumerate(LINKS)),
        ]
        answers = {answer.id: answer for answer in self.applying.Apply(iter(operations))}
        self.assertEqual(set(answers), {operation.id for operation in operations})
        refused = answers.pop("nameless").status
        self.assertEqual(refused.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
        infos = [info for info in map(unpacked_info, refused.details) if info]
        self.assertEqual([info.reason for info in infos], ["INVALID_FIELD"])
        for answer in answers.values():
            self.assertEqual(answer.result.outcome, OUTCOME_APPLIED, answer)

    def test_a_manifest_is_applied_whole_or_refused_with_every_path(self) -> None:
        operations = [ApplyRequest(put_link_definition=self.put_link_request(link)) for link in LINKS]
        bad = ApplyRequest(delete_link_definition=DeleteLinkDefinitionRequest(lattice=self.lattice))
        refused = ApplyManifestRequest(operations=[*operations, bad])
        fields = self.violations(self.applying.ApplyManifest, refused)
        path = f"operations[{len(LINKS)}].delete_link_definition"
        self.assertEqual(fields, {f"{path}.actor_id", f"{path}.contract_id"})

        rehearsed = self.applying.ApplyManifest(ApplyManifestRequest(operations=operations, validate_only=True))
        self.assertEqual({result.result.outcome for result in rehearsed.results}, {OUTCOME_VALIDATED})
        applied = self.applying.ApplyManifest(ApplyManifestRequest(operations=operations))
        self.assertEqual([result.result.outcome for result in applied.results], [OUTCOME_APPLIED] * len(LINKS))


class WatchService(ClientTest):
    def follow(self, resume_token: str = "") -> Any:
        request = WatchRequest(
            lattice=self.lattice, kinds=[ENTRY_KIND_LINK_DEFINITION], resume_token=resume_token
        )
        watch = self.watching.Watch(request)
        self.addCleanup(watch.cancel)
        return watch

    def test_what_stands_and_what_changes_is_told_and_a_watch_goes_on_behind_its_token(self) -> None:
        first, *others = LINKS
        self.put_link(first)
        watch = self.follow()
        self.assertEqual([entry.link_definition.actor_id for entry in next(watch).snapshot.entries], [first.actor_id])
        self.assertEqual(next(watch).WhichOneof("event"), "snapshot_complete")
        self.assertTrue(next(watch).bookmark.resume_token)

        self.put_link(others[0])
        changes = next(watch).changes
        self.assertEqual(identity(changes.changes[0].put.link_definition), identity(others[0]))
        watch.cancel()
        self.links.DeleteLinkDefinition(self.delete_link_request(first))
        [change] = next(self.follow(changes.resume_token)).changes.changes
        self.assertEqual(identity(change.delete.link_definition), identity(first))

    def test_a_token_of_something_else_is_refused(self) -> None:
        self.put_link(LINKS[0])
        self.refused(
            lambda token: next(self.follow(token)),
            "no token",
            grpc.StatusCode.INVALID_ARGUMENT,
            error_reason_pb2.RESUME_TOKEN_INVALID,
        )


class LatticeService(ClientTest):
    def test_a_lattice_is_provisioned_once_and_shown(self) -> None:
        name = next(LATTICE_NAMES)
        first = self.lattices.ProvisionLattice(ProvisionLatticeRequest(lattice=name))
        again = self.lattices.ProvisionLattice(ProvisionLatticeRequest(lattice=name))
        self.assertEqual((first.created, again.created), (True, False))

        shown = self.lattices.GetLattice(GetLatticeRequest(lattice=name)).lattice
        self.assertEqual((shown.name, shown.layout), (name, LAYOUT_CACHE_STREAM))
        self.assertEqual(shown.stream, f"LATTICECACHE_{name}")
        self.assertEqual((shown.durability.storage, shown.durability.replicas), (STORAGE_MEMORY, 1))
        self.assertEqual((list(shown.drift), shown.malformed_count), ([], 0))

    def test_a_lattice_is_provisioned_in_the_layout_asked_for(self) -> None:
        for layout in [LAYOUT_KV, LAYOUT_COMPONENT]:
            name = next(LATTICE_NAMES)
            self.lattices.ProvisionLattice(ProvisionLatticeRequest(lattice=name, layout=layout))
            shown = self.lattices.GetLattice(GetLatticeRequest(lattice=name)).lattice
            self.assertEqual((shown.layout, shown.stream), (layout, f"KV_LATTICEDATA_{name}"))
            self.assertEqual(shown.durability.storage, STORAGE_FILE)
            self.assertEqual(shown.HasField("settle"), layout == LAYOUT_COMPONENT)

    def test_the_streams_of_wadm_are_provisioned_once(self) -> None:
        for action in [STREAM_ACTION_CREATED, STREAM_ACTION_UNCHANGED]:
            answer = self.lattices.ProvisionWadm(ProvisionWadmRequest())
            self.assertEqual({plan.action for plan in answer.streams}, {action})
        self.assertIn("wadm_event_consumer", {plan.stream for plan in answer.streams})

    def test_a_lattice_that_is_well_has_no_findings(self) -> None:
        name = next(LATTICE_NAMES)
        # A strict NATS server is none to hosts of the first layout.
        self.lattices.ProvisionLattice(ProvisionLatticeRequest(lattice=name, layout=LAYOUT_COMPONENT))
        answer = self.lattices.DiagnoseLattice(DiagnoseLatticeRequest(lattice=name))
        self.assertEqual(list(answer.findings), [])

    def test_a_lattice_is_migrated_as_far_as_it_can_be(self) -> None:
        name = next(LATTICE_NAMES)
        self.lattices.ProvisionLattice(ProvisionLatticeRequest(lattice=name))
        revision = self.links.PutLinkDefinition(
            PutLinkDefinitionRequest(lattice=name, link_definition=LINKS[0])
        ).result.revision
        rehearsed = self.lattices.MigrateLattice(MigrateLatticeRequest(lattice=name, validate_only=True))
        self.assertEqual((rehearsed.remaining_count, rehearsed.verified), (1, False))
        migrated = self.lattices.MigrateLattice(MigrateLatticeRequest(lattice=name))
        self.assertEqual((migrated.moved_count, migrated.verified), (1, True))
        self.assertEqual(migrated.source_revision, revision)
        self.assertFalse(migrated.source_deleted)

    def test_a_lattice_counts_its_entries(self) -> None:
        self.claims.PutClaims(PutClaimsRequest(lattice=self.lattice, jwt=TOKENS[0]))
        self.set_reference(REFERENCES[0])
        revision = self.put_link(LINKS[0]).result.revision
        # A read of one's own write: the mirror has it afterwards.
        self.links.GetLinkDefinition(self.get_link_request(LINKS[0], consistency=at_least(revision)))
        shown = self.lattices.GetLattice(GetLatticeRequest(lattice=self.lattice)).lattice
        counts = (shown.claims_count, shown.link_definition_count, shown.oci_reference_count)
        self.assertEqual(counts, (1, 1, 1))

    def test_pages_hold_every_lattice_once_by_name(self) -> None:
        names, request = [], ListLatticesRequest(page_size=1)
        while True:
            page = self.lattices.ListLattices(request)
            names += [summary.name for summary in page.lattices]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        self.assertIn(self.lattice, names)
        self.assertEqual(names, sorted(set(names)))

    def test_a_lattice_that_is_not_there_is_not_provisioned(self) -> None:
        self.refused(
            self.lattices.GetLattice,
            GetLatticeRequest(lattice=next(LATTICE_NAMES)),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_reason_pb2.NOT_PROVISIONED,
        )

    def test_a_name_that_is_no_subject_token_is_refused(self) -> None:
        fields = self.violations(self.lattices.ProvisionLattice, ProvisionLatticeRequest(lattice="a.>"))
        self.assertEqual(fields, {"lattice"})

    def test_the_server_tells_what_it_is(self) -> None:
        server = self.lattices.GetServerInfo(GetServerInfoRequest())
        self.assertTrue(server.version)
        self.assertTrue(server.nats_version)
        self.assertIn(LAYOUT_CACHE_STREAM, server.layouts)
        self.assertEqual((server.limits.lattice_bytes_max, server.limits.page_size_max), (63, 1000))


class Beside(unittest.TestCase):
    """What is served beside the services."""

    def test_health_is_serving(self) -> None:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest())
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_reflection_lists_the_services(self) -> None:
        # Version 1 has the messages of v1alpha, and the Python package has no stubs of its own for it.
        reflect = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        [answer] = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        listed = {service.name for service in answer.list_services_response.service}
        self.assertEqual({path.split("/")[1] for path in rpc_paths()} - listed, set())

    def test_the_admin_port_tells_health_and_metrics(self) -> None:
        for path in ["/livez", "/readyz", "/metrics"]:
            with urllib.request.urlopen(f"http://{addresses['admin']}{path}", timeout=20) as answer:
                self.assertEqual(answer.status, 200, path)
                body = answer.read().decode()
        self.assertIn("# TYPE ", body)


if __name__ == "__main__":
    unittest.main()
