// The services over one transport, whichever it is.
import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";

import { AssetService } from "./gen/containersvc/v1/asset_service_pb.js";
import { BuildService } from "./gen/containersvc/v1/build_service_pb.js";
import { ContainerService } from "./gen/containersvc/v1/container_service_pb.js";
import { EventService } from "./gen/containersvc/v1/event_service_pb.js";
import { GpuService } from "./gen/containersvc/v1/gpu_service_pb.js";
import { ImageService } from "./gen/containersvc/v1/image_service_pb.js";
import { KeepService } from "./gen/containersvc/v1/keep_service_pb.js";
import { LogService } from "./gen/containersvc/v1/log_service_pb.js";
import { NodeService } from "./gen/containersvc/v1/node_service_pb.js";
import { TokenService } from "./gen/containersvc/v1/token_service_pb.js";
import { retryIdempotent } from "./retry.js";

/** One connection and the services on it. */
export interface Clients {
  assets: Client<typeof AssetService>;
  builds: Client<typeof BuildService>;
  containers: Client<typeof ContainerService>;
  events: Client<typeof EventService>;
  gpus: Client<typeof GpuService>;
  images: Client<typeof ImageService>;
  keeps: Client<typeof KeepService>;
  logs: Client<typeof LogService>;
  node: Client<typeof NodeService>;
  tokens: Client<typeof TokenService>;
  /** Ends the connection and the calls on it. */
  close(): void;
}

/** What a connection may be told. */
export interface Options {
  /** Sent with every call. */
  token?: string;
  /** Whether unary calls that the proto calls idempotent are repeated. Default true. */
  retries?: boolean;
}

export function clients(transport: Transport, close: () => void): Clients {
  return {
    assets: createClient(AssetService, transport),
    builds: createClient(BuildService, transport),
    containers: createClient(ContainerService, transport),
    events: createClient(EventService, transport),
    gpus: createClient(GpuService, transport),
    images: createClient(ImageService, transport),
    keeps: createClient(KeepService, transport),
    logs: createClient(LogService, transport),
    node: createClient(NodeService, transport),
    tokens: createClient(TokenService, transport),
    close,
  };
}

export function interceptors({ token, retries = true }: Options): Interceptor[] {
  const bearer: Interceptor = (next) => (request) => {
    if (token !== undefined) request.header.set("Authorization", `Bearer ${token.trim()}`);
    return next(request);
  };
  return retries ? [retryIdempotent, bearer] : [bearer];
}
