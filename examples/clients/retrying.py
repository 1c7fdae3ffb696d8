"""Writes over several gateways so that no restart of one is noticed, and nothing is applied twice."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

SERVICE_CONFIG = (Path(__file__).parent / "service-config.json").read_text()
NOT_APPLIED = {"BACKEND_UNAVAILABLE", "OVERLOADED", "SHUTTING_DOWN"}
# No reason: the gateway did not answer. Then it may have been applied, whatever the code is.
MAY_BE_APPLIED = {"OUTCOME_UNKNOWN", ""}


def connect(target: str, authority: str) -> grpc.Channel:
    """To `dns:///gateways.example:7400`, every address of which is a gateway, or `ipv4:10.0.0.1:7400,10.0.0.2:7400`.

    `authority` is the gateways' name: gRPC would send the whole list of addresses for it, which no HTTP/2 server takes.
    """
    options = [("grpc.service_config", SERVICE_CONFIG), ("grpc.default_authority", authority)]
    return grpc.insecure_channel(target, options=options)


def reason(error: grpc.RpcError) -> str:
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "") if status else ""


def write(call: Callable, request: Any, patience: float = 10, pause: float = 0.1) -> Any:
    """Calls until there is an answer. The request needs a `request_id` of its own."""
    first, doubtful_since = time.monotonic(), None
    while True:
        sent = time.monotonic()
        if doubtful_since is not None:
            request.retry_age.FromTimedelta(timedelta(seconds=sent - doubtful_since))
        try:
            return call(request, timeout=2)
        except grpc.RpcError as error:
            if reason(error) in MAY_BE_APPLIED:
                doubtful_since = doubtful_since or sent
            elif reason(error) not in NOT_APPLIED:
                raise
            if sent - first > patience:
                raise
        time.sleep(pause)
