"""The rules of `buf.validate` in `proto/` and the gateway refuse the same fields of the same requests.

The oracle is protovalidate, which reads the rules from the descriptors as clients do. It and a real gateway are shown
every field of every request, at and around each number of its rule and with each ASCII character, and then many broken
fields at once. A rule must refuse nothing that the gateway takes. Where the gateway refuses more, the proto's comment
says it and the field is listed here.
"""

from __future__ import annotations

import itertools
import random
import re
import unittest
from typing import Any, Callable, Iterable, Iterator

import grpc
import protovalidate
from buf.validate import validate_pb2
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

import dev_gateway
from test_client import ECHO, HTTPSERVER, SERVICE_CONFIG, TOKENS, rpc_path, rpcs, stop

LOG = dev_gateway.ROOT / ".tools" / "python-rules-gateway.log"
SEED = 1
BROKEN_AT_ONCE = 2_000
IN_FLIGHT = 64

# Ends of the paths of fields of which the gateway refuses more than their rule, or that have none.
STRICTER = {
    # Checksums of keys, and signatures.
    "actor_id",
    "issuer",
    "jwt",
    "provider_id",
    "public_key",
    # Grammars.
    "claims_revision",
    "oci_url",
    # Opaque.
    "etag",
    # Beside another field alone, or without it.
    "delete_source_at",
    "retry_age",
    # What only the gateway knows: its upstreams, and what hosts of the lattice keep of claims.
    "upstream",
    "claims.contract_id",
    "claims.config_schema",
    # One of each, which the API tells as of the list.
    "filters",
}

MUTATION = {"lattice": "rules", "requestId": "request-1", "retryAge": "5s", "mustExist": True, "validateOnly": True}
READ = {"lattice": "rules", "consistency": {"minimizeLatency": True}}
PAGE = {**READ, "pageSize": 10}
LINK = {
    "actorId": ECHO,
    "providerId": HTTPSERVER,
    "contractId": "wasmcloud:httpserver",
    "linkName": "default",
    "values": {"address": "127.0.0.1"},
}
LINK_ID = {"actorId": ECHO, "contractId": "wasmcloud:httpserver", "linkName": "default"}
INTERFACE_LINK_ID = {
    "sourceId": "http-server",
    "target": "echo",
    "name": "default",
    "witNamespace": "wasi",
    "witPackage": "http",
}
INTERFACE_LINK = {
    **INTERFACE_LINK_ID,
    "interfaces": ["incoming-handler"],
    "sourceConfig": ["port"],
    "targetConfig": ["port"],
}
CONFIG = {"name": "port", "values": {"port": "8080"}}
REFERENCE = {"ociUrl": "registry.example/echo:0.3.4", "publicKey": ECHO}
CLAIMS = {
    "publicKey": ECHO,
    "issuer": "ACOJJN6WUP4ODD75XEBKKTCCUJJCY5ZKQ56XVKYK4BEJWGVAOOQHZMCW",
    "name": "Echo",
    "callAlias": "echo",
    "capabilities": ["wasmcloud:httpserver"],
    "tags": ["example"],
    "claimsRevision": "4",
    "version": "0.3.4",
}
STREAMS = {"storage": "STORAGE_FILE", "replicas": 1, "placement": {"cluster": "east", "tags": ["ssd"]}}
# A valid request of each method, with as many fields set as can be.
VALID = {
    "PutClaims": [{**MUTATION, "claims": CLAIMS}, {**MUTATION, "jwt": TOKENS[0]}],
    "GetClaims": [{**READ, "publicKey": ECHO}],
    "ListClaims": [{**PAGE, "publicKey": ECHO}],
    "DeleteClaims": [{**MUTATION, "publicKey": ECHO}],
    "PutLinkDefinition": [{**MUTATION, "linkDefinition": LINK}],
    "GetLinkDefinition": [{**READ, **LINK_ID}],
    "ListLinkDefinitions": [{**PAGE, **LINK_ID}],
    "DeleteLinkDefinition": [{**MUTATION, **LINK_ID}],
    "SetOciReference": [{**MUTATION, "ociReference": REFERENCE}],
    "GetOciReference": [{**READ, "ociUrl": REFERENCE["ociUrl"]}],
    "ListOciReferences": [{**PAGE, "ociUrl": REFERENCE["ociUrl"]}],
    "DeleteOciReference": [{**MUTATION, "ociUrl": REFERENCE["ociUrl"]}],
    "PutInterfaceLink": [{**MUTATION, "interfaceLink": INTERFACE_LINK}],
    "GetInterfaceLink": [{**READ, **INTERFACE_LINK_ID}],
    "ListInterfaceLinks": [{**PAGE, **INTERFACE_LINK_ID}],
    "DeleteInterfaceLink": [{**MUTATION, **INTERFACE_LINK_ID}],
    "PutConfig": [{**MUTATION, "namedConfig": CONFIG}],
    "GetConfig": [{**READ, "name": "port"}],
    "ListConfigs": [{**PAGE, "name": "port"}],
    "DeleteConfig": [{**MUTATION, "name": "port"}],
    "ApplyManifest": [
        {
            "operations": [{"id": "one", "putLinkDefinition": {**MUTATION, "linkDefinition": LINK}}],
            "validateOnly": True,
        }
    ],
    "Watch": [
        {
            "lattice": "rules",
            "kinds": ["ENTRY_KIND_CLAIMS"],
            "filters": [{"claims": {"publicKey": ECHO}}],
        }
    ],
    "ListLattices": [{"pageSize": 10}],
    "GetLattice": [{"lattice": "rules"}],
    "ProvisionLattice": [{"lattice": "rules", "layout": "LAYOUT_KV", **STREAMS, "validateOnly": True}],
    "ProvisionWadm": [{**STREAMS, "validateOnly": True}],
    "MigrateLattice": [{"lattice": "rules", "validateOnly": True}],
    "DiagnoseLattice": [{"lattice": "rules", "replicasWanted": 1}],
    "GetServerInfo": [{}],
}
# It parses as `ApplyManifest` does, and tells fields as the operation's own method does.
STREAM_ALONE = {"Apply"}

# With these the request was not looked at, or not to the end.
UNJUDGED = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
}

Change = Callable[[Message], None]


# --- What is tried of a field ---


def changes(message: Message) -> Iterator[tuple[FieldDescriptor, Change]]:
    """Every change that is tried of one field, of this message or of what it holds."""
    for field in message.DESCRIPTOR.fields:
        for value in values(field, getattr(message, field.name)):
            yield field, lambda changed, field=field, value=value: put(changed, field.name, value)
        if field.has_presence:
            yield field, lambda changed, field=field: changed.ClearField(field.name)
        for item in held(message, field):
            for inner, change in changes(item):
                yield inner, lambda changed, field=field, change=change: [change(item) for item in held(changed, field)]


def held(message: Message, field: FieldDescriptor) -> list[Message]:
    """The message that a field holds; of several the first."""
    if field.message_type is None or is_map(field) or is_duration(field):
        return []
    if field.is_repeated:
        return getattr(message, field.name)[:1]
    return [getattr(message, field.name)] if message.HasField(field.name) else []


def put(message: Message, name: str, value: Any) -> None:
    message.ClearField(name)
    if isinstance(value, list):
        getattr(message, name).extend(value)
    elif isinstance(value, dict):
        getattr(message, name).update(value)
    elif isinstance(value, Message):
        getattr(message, name).SetInParent()
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def values(field: FieldDescriptor, valid: Any) -> list[Any]:
    around = numbers(field)
    if is_map(field):
        counted = ({f"key-{number}": "value" for number in range(count)} for count in around)
        return [*({key: "value"} for key in texts(around, next(iter(valid)))), *counted]
    if field.is_repeated:
        first = valid[0] if valid else None
        counted = (alike(first, count) for count in around if first)
        return [[], *([item] for item in of_one(field, around, first)), *counted]
    return of_one(field, around, valid)


def alike(first: Any, count: int) -> list[Any]:
    """As many, no two of them alike where they are texts; of two there is a pair that is."""
    if isinstance(first, str) and count != 2:
        return [f"{first}-{number}" for number in range(count)]
    return [first] * count


def of_one(field: FieldDescriptor, around: list[int], valid: Any) -> list[Any]:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return texts(around, valid)
        case FieldDescriptor.TYPE_BOOL:
            return [False, True]
        case FieldDescriptor.TYPE_ENUM:
            known = [value.number for value in field.enum_type.values]
            return [*known, max(known) + 1, 1_000]
        case FieldDescriptor.TYPE_INT32:
            return [number for number in [*around, -1, -(2**31), 2**31 - 1] if abs(number) < 2**31]
        case FieldDescriptor.TYPE_UINT32:
            return [number for number in [*around, 255, 256, 257, 2**32 - 1] if number < 2**32]
        case FieldDescriptor.TYPE_UINT64:
            return [number for number in [*around, 2**64 - 1] if number < 2**64]
        case FieldDescriptor.TYPE_MESSAGE if is_duration(field):
            seconds = [0, 1, *around, *(-number for number in around)]
            return [Duration(seconds=number, nanos=nanos) for number in seconds for nanos in (0, 1, 999_999_999)]
        case FieldDescriptor.TYPE_MESSAGE:
            return [GetMessageClass(field.message_type)()]
    raise AssertionError(f"{field.full_name}: no values are known for its type")


def texts(around: list[int], valid: str) -> list[str]:
    valid = valid or "aaaaaaaa"
    strangers = [chr(code) for code in range(128)] + ["\x80", "\x9f", "\xa0", "é", "\u0661", "\u2028", "\U0001f980"]
    return [
        *(valid[:-1] + stranger for stranger in strangers),
        *(stranger * length for length in around for stranger in ("a", "7", "é")),
        *(valid[:at] + valid[at + 1 :] for at in (0, len(valid) // 2)),
        *(f"{initial}{valid[1:]}" for initial in "AMNVSX"),
        *("0", "01", "-1", "2147483647", "2147483648", "{}", "*", ">", "a.b", "a b", "a,b", "a/b", f"{valid}\n", f" {valid}"),
    ]


def numbers(field: FieldDescriptor) -> list[int]:
    """Those of the field's rule, and their neighbours."""
    told = {int(number) for number in re.findall(r"\d+", str(rule(field) or ""))}
    return sorted({max(0, number + step) for number in told | {1} for step in (-1, 0, 1)})


def rule(field: FieldDescriptor) -> validate_pb2.FieldRules | None:
    options = field.GetOptions()
    return options.Extensions[validate_pb2.field] if options.HasExtension(validate_pb2.field) else None


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_duration(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration"


# --- What is refused ---


def broken(request: Message) -> set[str]:
    """Paths of the fields that break a rule, without places in lists and keys of maps."""
    return {
        ".".join(element.field_name for element in violation.proto.field.elements)
        for violation in protovalidate.collect_violations(request)
    }


def refused(error: grpc.RpcError | None) -> set[str]:
    """Paths of the fields that the gateway refused, in the same form."""
    if error is None:
        return set()
    if error.code() in UNJUDGED:
        raise error
    fields = set()
    for detail in rpc_status.from_call(error).details:
        bad_request = BadRequest()
        if detail.Unpack(bad_request):
            fields |= {violation.field for violation in bad_request.field_violations}
    # A key stands in quotes, and may hold anything.
    return {re.sub(r'\[("(\\.|[^"\\])*"|\d+)\]', "", field) for field in fields}


class Rules(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        with LOG.open("wb") as log:
            gateway = dev_gateway.start([*dev_gateway.FREE_PORTS, "--layout", "kv"], log)
        cls.addClassCleanup(stop, gateway)
        addresses = dev_gateway.wait_ready(gateway)
        cls.channel = grpc.insecure_channel(addresses["grpc"], options=[("grpc.service_config", SERVICE_CONFIG)])
        cls.addClassCleanup(cls.channel.close)
        cls.methods = [method for method in rpcs() if method.name not in STREAM_ALONE]

    def refusals(self, method: MethodDescriptor, requests: Iterable[Message]) -> Iterator[tuple[Message, set[str]]]:
        """Sends the requests, some at a time, and gives each with what the gateway refuses of it."""
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = kind(rpc_path(method), asked.SerializeToString, answered.FromString)
        for batch in batched(requests, IN_FLIGHT):
            if method.server_streaming:
                calls = [call(request) for request in batch]
                errors = [first_error(stream) for stream in calls]
            else:
                calls = [call.future(request) for request in batch]
                errors = [one.exception() for one in calls]
            for request, error in zip(batch, errors):
                yield request, refused(error)

    def judge(self, method: MethodDescriptor, request: Message, by_gateway: set[str]) -> set[str]:
        """Requires that both agree, and gives the paths that the rules refuse."""
        by_rules = broken(request)
        more = by_gateway - by_rules
        stricter = {path: end for path in more for end in STRICTER if f".{path}".endswith(f".{end}")}
        if not by_rules <= by_gateway or set(stricter) != more:
            shown = text_format.MessageToString(request, as_one_line=True)[:1_000]
            self.fail(f"the rules refuse {by_rules}, the gateway {by_gateway} of {method.name}: {shown}")
        self.stricter |= set(stricter.values())
        return by_rules

    def setUp(self) -> None:
        self.stricter: set[str] = set()

    def test_every_method_has_a_valid_request(self) -> None:
        self.assertEqual({method.name for method in self.methods}, set(VALID))
        for method, request in self.valid():
            for request, by_gateway in self.refusals(method, [request]):
                self.assertEqual((by_gateway, broken(request)), (set(), set()), method.name)

    def valid(self) -> Iterator[tuple[MethodDescriptor, Message]]:
        for method in self.methods:
            for fields in VALID[method.name]:
                yield method, json_format.ParseDict(fields, GetMessageClass(method.input_type)())

    def test_of_every_field_the_same_is_refused(self) -> None:
        with_rule, refused_by_rules = set(), set()
        for method, valid in self.valid():
            tried = list(changes(valid))
            requests = (changed(valid, [change]) for _, change in tried)
            for (field, _), (request, by_gateway) in zip(tried, self.refusals(method, requests)):
                if self.judge(method, request, by_gateway):
                    refused_by_rules.add(field.full_name)
                if rule(field):
                    with_rule.add(field.full_name)
        # Nothing is listed, and no rule is there, that was not met.
        self.assertEqual(self.stricter, STRICTER)
        self.assertEqual(with_rule - refused_by_rules, set())
        self.assertGreater(len(with_rule), 100)

    def test_of_many_broken_fields_the_same_are_refused(self) -> None:
        chance = random.Random(SEED)
        valid = [(method, valid, list(changes(valid))) for method, valid in self.valid()]
        for method, valid, tried in valid:
            share = BROKEN_AT_ONCE // len(self.methods)
            requests = [
                changed(valid, [change for _, change in chance.sample(tried, min(len(tried), chance.randint(2, 6)))])
                for _ in range(share)
            ]
            for request, by_gateway in self.refusals(method, requests):
                self.judge(method, request, by_gateway)


def changed(valid: Message, by: Iterable[Change]) -> Message:
    request = type(valid)()
    request.CopyFrom(valid)
    for change in by:
        change(request)
    return request


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def first_error(stream: Any) -> grpc.RpcError | None:
    try:
        next(stream)
        stream.cancel()
        return None
    except grpc.RpcError as error:
        return error


if __name__ == "__main__":
    unittest.main()
