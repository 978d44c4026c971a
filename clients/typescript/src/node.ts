// Connects from Node, over gRPC.
import { connect as plain } from "node:net";

import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { type Clients, clients, interceptors, type Options } from "./clients.js";

/** What a connection from Node may be told. */
export interface NodeOptions extends Options {
  /** The authorities to trust in place of the system's, in PEM form. */
  ca?: string | Buffer;
}

/**
 * A client for http://host:port, https://host:port (TLS) or unix:///path. It connects
 * with the first call; close() lets the process end.
 */
export function connect(address: string, options: NodeOptions = {}): Clients {
  const socket = address.startsWith("unix://") ? address.slice("unix://".length) : undefined;
  const baseUrl = socket === undefined ? address : "http://localhost";
  const session = new Http2SessionManager(baseUrl, undefined, {
    ca: options.ca,
    ...(socket !== undefined && { createConnection: () => plain(socket) }),
  });
  const transport = createGrpcTransport({
    baseUrl,
    interceptors: interceptors(options),
    sessionManager: session,
  });
  return clients(transport, () => session.abort());
}
