// The story of `link.ts` from Node, over gRPC: ENDPOINT=http://127.0.0.1:7400 TOKEN=… LATTICE=default node out/node.mjs

import { createGrpcTransport } from "@connectrpc/connect-node";

import { bearer, linksLife } from "./link";

const { ENDPOINT = "http://127.0.0.1:7400", TOKEN = "", LATTICE = "default" } = process.env;
const transport = createGrpcTransport({ baseUrl: ENDPOINT, interceptors: [bearer(TOKEN)] });
await linksLife(transport, LATTICE, console.log);
