"""A link's life over the gateway: followed, put, put again as if the answer had been lost, refused, read, deleted.

    ENDPOINT=http://127.0.0.1:7400 TOKEN=… LATTICE=default python link.py

`retrying.py`, one folder up, has the loop around a write.
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from datetime import timedelta
from typing import Callable, Iterator
from urllib.parse import urlsplit

import grpc
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from lattice.control.v1.core_pb2 import Consistency, LinkDefinition, Outcome
from lattice.control.v1.link_definition_service_pb2 import (
    DeleteLinkDefinitionRequest,
    GetLinkDefinitionRequest,
    ListLinkDefinitionsRequest,
    PutLinkDefinitionRequest,
)
from lattice.control.v1.link_definition_service_pb2_grpc import LinkDefinitionServiceStub
from lattice.control.v1.watch_service_pb2 import EntryKind, WatchRequest, WatchResponse
from lattice.control.v1.watch_service_pb2_grpc import WatchServiceStub
from retrying import reason, write

ACTOR = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5"
PROVIDER = "VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N"
CONTRACT = "wasmcloud:keyvalue"
TIMEOUT = 10


def connect(endpoint: str) -> grpc.Channel:
    """A token goes beyond this machine by TLS alone. Requests go compressed; answers come as they are."""
    url = urlsplit(endpoint)
    gzip = grpc.Compression.Gzip
    if url.scheme == "https":
        return grpc.secure_channel(url.netloc, grpc.ssl_channel_credentials(), compression=gzip)
    return grpc.insecure_channel(url.netloc, compression=gzip)


def read_until(watch: Iterator[WatchResponse], is_wanted: Callable[[WatchResponse], bool]) -> None:
    if not any(is_wanted(message) for message in watch):
        raise SystemExit("the watch ended")


def has_change(kind: str) -> Callable[[WatchResponse], bool]:
    return lambda message: any(change.WhichOneof("change") == kind for change in message.changes.changes)


def expect(told: object, wanted: object) -> None:
    if told != wanted:
        raise SystemExit(f"the gateway told {told}, not {wanted}")


def tell_links_life(channel: grpc.Channel, token: str, lattice: str) -> None:
    metadata = [("authorization", f"Bearer {token}")]
    links = LinkDefinitionServiceStub(channel)
    identity = {"lattice": lattice, "actor_id": ACTOR, "contract_id": CONTRACT}
    watch = WatchServiceStub(channel).Watch(
        WatchRequest(lattice=lattice, kinds=[EntryKind.ENTRY_KIND_LINK_DEFINITION]), metadata=metadata
    )
    read_until(watch, lambda message: message.HasField("snapshot_complete"))
    print("watching: what stood before is told")

    link = LinkDefinition(
        actor_id=ACTOR, provider_id=PROVIDER, contract_id=CONTRACT, values={"url": "redis://127.0.0.1"}
    )
    put = PutLinkDefinitionRequest(lattice=lattice, link_definition=link, request_id=str(uuid.uuid4()))
    call = functools.partial(links.PutLinkDefinition, metadata=metadata)
    first = time.monotonic()
    written = write(call, put).result
    expect(written.outcome, Outcome.OUTCOME_APPLIED)
    print(f"put: {Outcome.Name(written.outcome)} at {written.revision.sequence}")

    # As if the answer had not come: the same id, and for how long it has been under way.
    put.retry_age.FromTimedelta(timedelta(seconds=time.monotonic() - first))
    again = call(put, timeout=TIMEOUT).result
    expect(again.outcome, Outcome.OUTCOME_ALREADY_APPLIED)
    print(f"put again: {Outcome.Name(again.outcome)}, nothing is written twice")

    link.provider_id = ACTOR
    try:
        call(PutLinkDefinitionRequest(lattice=lattice, link_definition=link), timeout=TIMEOUT)
        raise SystemExit("an actor was taken for a provider")
    except grpc.RpcError as error:
        expect(reason(error), "INVALID_FIELD")
        bad = BadRequest()
        details = rpc_status.from_call(error).details
        violations = next(bad.field_violations for detail in details if detail.Unpack(bad))
        expect([violation.field for violation in violations], ["link_definition.provider_id"])
        print(f"refused: {reason(error)}: {violations[0].field}: {violations[0].description}")

    # Reads the own write, on any gateway.
    consistency = Consistency(at_least_as_fresh=written.revision)
    get = GetLinkDefinitionRequest(**identity, consistency=consistency)
    expect(links.GetLinkDefinition(get, timeout=TIMEOUT, metadata=metadata).link_definition.provider_id, PROVIDER)
    listed = ListLinkDefinitionsRequest(lattice=lattice, consistency=consistency)
    page = links.ListLinkDefinitions(listed, timeout=TIMEOUT, metadata=metadata)
    expect(len(page.link_definitions), 1)
    print(f"listed: {len(page.link_definitions)} link")

    read_until(watch, has_change("put"))
    print("watched: the put")
    delete = DeleteLinkDefinitionRequest(**identity, request_id=str(uuid.uuid4()))
    deleted = write(functools.partial(links.DeleteLinkDefinition, metadata=metadata), delete).result
    expect(deleted.outcome, Outcome.OUTCOME_APPLIED)
    read_until(watch, has_change("delete"))
    print("watched: the delete")
    watch.cancel()


if __name__ == "__main__":
    with connect(os.environ.get("ENDPOINT", "http://127.0.0.1:7400")) as channel:
        tell_links_life(channel, os.environ.get("TOKEN", ""), os.environ.get("LATTICE", "default"))
