// A client of container-svc: the messages, the services, what errors say, and a
// tail of logs that outlives lost connections. `./node` and `./web` connect it.
export { type Clients, type Options } from "./clients.js";
export { explain, type Explained, type Violation } from "./explain.js";
export { followLogs, type FollowOptions } from "./follow.js";

export * from "./gen/containersvc/v1/access_pb.js";
export * from "./gen/containersvc/v1/asset_service_pb.js";
export * from "./gen/containersvc/v1/build_service_pb.js";
export * from "./gen/containersvc/v1/container_pb.js";
export * from "./gen/containersvc/v1/container_service_pb.js";
export * from "./gen/containersvc/v1/event_pb.js";
export * from "./gen/containersvc/v1/event_service_pb.js";
export * from "./gen/containersvc/v1/gpu_pb.js";
export * from "./gen/containersvc/v1/gpu_service_pb.js";
export * from "./gen/containersvc/v1/health_pb.js";
export * from "./gen/containersvc/v1/image_service_pb.js";
export * from "./gen/containersvc/v1/keep_service_pb.js";
export * from "./gen/containersvc/v1/log_pb.js";
export * from "./gen/containersvc/v1/log_service_pb.js";
export * from "./gen/containersvc/v1/node_service_pb.js";
export * from "./gen/containersvc/v1/token_service_pb.js";
