// Connects from a browser, over gRPC-web.
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { type Clients, clients, interceptors, type Options } from "./clients.js";

/**
 * A client for http://host:port or https://host:port. The page's origin must be among
 * the server's cors_origins, unless both are the same. Calls end by their signal.
 */
export function connect(address: string, options: Options = {}): Clients {
  const transport = createGrpcWebTransport({
    baseUrl: address,
    interceptors: interceptors(options),
  });
  return clients(transport, () => {});
}
