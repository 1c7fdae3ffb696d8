// The story of `link.ts` from a page, over gRPC-Web. Where the gateway is, is behind the page's `#`, which is sent to nobody.

import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { bearer, linksLife } from "./link";

const told = document.querySelector("#told") as HTMLOListElement;
const outcome = document.querySelector("#outcome") as HTMLOutputElement;

function say(line: string): void {
  told.append(Object.assign(document.createElement("li"), { textContent: line }));
}

async function tell(): Promise<void> {
  const given = new URLSearchParams(location.hash.slice(1));
  const transport = createGrpcWebTransport({
    baseUrl: given.get("endpoint") ?? "http://127.0.0.1:7400",
    interceptors: [bearer(given.get("token") ?? "")],
  });
  await linksLife(transport, given.get("lattice") ?? "default", say);
}

tell().then(
  () => (outcome.value = "done"),
  (error) => (outcome.value = `failed: ${error}`),
);
