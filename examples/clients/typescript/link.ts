// A link's life over the gateway, the same in Node and in a page: followed, put, put again as if the answer had been lost,
// refused, read, deleted.

import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";

import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb";
import { Outcome, type Revision } from "./gen/lattice/control/v1/core_pb";
import {
  LinkDefinitionService,
  type PutLinkDefinitionRequest,
  PutLinkDefinitionRequestSchema,
  type PutLinkDefinitionResponse,
} from "./gen/lattice/control/v1/link_definition_service_pb";
import {
  EntryKind,
  WatchService,
  type WatchResponse,
  type WatchResponse_Change,
} from "./gen/lattice/control/v1/watch_service_pb";

const ACTOR = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";
const PROVIDER = "VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N";
const CONTRACT = "wasmcloud:keyvalue";

const NOT_APPLIED = ["BACKEND_UNAVAILABLE", "OVERLOADED", "SHUTTING_DOWN"];
// No reason: the gateway did not answer. Then it may have been applied, whatever the code is.
const MAY_BE_APPLIED = ["OUTCOME_UNKNOWN", ""];
const ATTEMPT_MS = 2_000;
const PATIENCE_MS = 10_000;
const PAUSE_MS = 100;

/** Shows the token in every call. */
export function bearer(token: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
}

/** Tells each step through `say`, and throws where the gateway does not answer as it promises. */
export async function linksLife(transport: Transport, lattice: string, say: (line: string) => void): Promise<void> {
  const links = createClient(LinkDefinitionService, transport);
  const identity = { lattice, actorId: ACTOR, contractId: CONTRACT };
  const ended = new AbortController();
  const watch = createClient(WatchService, transport).watch(
    { lattice, kinds: [EntryKind.LINK_DEFINITION] },
    { signal: ended.signal },
  );
  const messages = watch[Symbol.asyncIterator]();
  try {
    await next(messages, (message) => message.event.case === "snapshotComplete");
    say("watching: what stood before is told");

    const put = create(PutLinkDefinitionRequestSchema, {
      lattice,
      linkDefinition: { actorId: ACTOR, providerId: PROVIDER, contractId: CONTRACT, values: { url: "redis://127.0.0.1" } },
      requestId: crypto.randomUUID(),
    });
    const first = Date.now();
    const written = await patiently(put, (request, options) => links.putLinkDefinition(request, options));
    expect(written.result?.outcome, Outcome.APPLIED);
    say(`put: ${Outcome[Outcome.APPLIED]} at ${written.result?.revision?.sequence}`);

    // As if the answer had not come: the same id, and for how long it has been under way.
    put.retryAge = durationFromMs(Date.now() - first);
    const again = await links.putLinkDefinition(put);
    expect(again.result?.outcome, Outcome.ALREADY_APPLIED);
    say(`put again: ${Outcome[Outcome.ALREADY_APPLIED]}, nothing is written twice`);

    const refused = await links
      .putLinkDefinition({ lattice, linkDefinition: { actorId: ACTOR, providerId: ACTOR, contractId: CONTRACT } })
      .then(() => undefined, ConnectError.from);
    expect(refused?.code, Code.InvalidArgument);
    const violations = refused?.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations) ?? [];
    expect(violations.map((violation) => violation.field).join(), "link_definition.provider_id");
    say(`refused: ${reason(refused)}: ${violations[0]?.field}: ${violations[0]?.description}`);

    // Reads the own write, on any gateway.
    const consistency = atLeast(written.result?.revision);
    const got = await links.getLinkDefinition({ ...identity, consistency });
    expect(got.linkDefinition?.providerId, PROVIDER);
    const listed = await links.listLinkDefinitions({ lattice, consistency });
    expect(listed.linkDefinitions.length, 1);
    say(`listed: ${listed.linkDefinitions.length} link`);

    await next(messages, (message) => changes(message).some((change) => change.change.case === "put"));
    say("watched: the put");
    const deleted = await links.deleteLinkDefinition({ ...identity, requestId: crypto.randomUUID() });
    expect(deleted.result?.outcome, Outcome.APPLIED);
    await next(messages, (message) => changes(message).some((change) => change.change.case === "delete"));
    say("watched: the delete");
  } finally {
    ended.abort();
  }
}

/** Calls until there is an answer. A request that may have been applied goes on with its `retryAge`. */
async function patiently(
  request: PutLinkDefinitionRequest,
  call: (request: PutLinkDefinitionRequest, options: { timeoutMs: number }) => Promise<PutLinkDefinitionResponse>,
): Promise<PutLinkDefinitionResponse> {
  const first = Date.now();
  let doubtfulSince: number | undefined;
  for (;;) {
    const sent = Date.now();
    if (doubtfulSince !== undefined) {
      request.retryAge = durationFromMs(sent - doubtfulSince);
    }
    try {
      return await call(request, { timeoutMs: ATTEMPT_MS });
    } catch (error) {
      const why = reason(ConnectError.from(error));
      if (MAY_BE_APPLIED.includes(why)) {
        doubtfulSince ??= sent;
      } else if (!NOT_APPLIED.includes(why)) {
        throw error;
      }
      if (sent - first > PATIENCE_MS) {
        throw error;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** The reason for programs; none where it was not the gateway that answered. */
function reason(error: ConnectError | undefined): string {
  return error?.findDetails(ErrorInfoSchema)[0]?.reason ?? "";
}

function atLeast(revision: Revision | undefined) {
  return revision && { requirement: { case: "atLeastAsFresh" as const, value: revision } };
}

function changes(message: WatchResponse): WatchResponse_Change[] {
  return message.event.case === "changes" ? message.event.value.changes : [];
}

/** Reads on until a message is as wanted. */
async function next(messages: AsyncIterator<WatchResponse>, isWanted: (message: WatchResponse) => boolean): Promise<void> {
  for (;;) {
    const { done, value } = await messages.next();
    if (done) {
      throw new Error("the watch ended");
    }
    if (isWanted(value)) {
      return;
    }
  }
}

function expect<T>(told: T, wanted: T): void {
  if (told !== wanted) {
    throw new Error(`the gateway told ${told}, not ${wanted}`);
  }
}
