// A tail of logs that outlives lost connections.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import type { Clients } from "./clients.js";
import { explain } from "./explain.js";
import type { TailLogsRequestSchema, TailLogsResponse } from "./gen/containersvc/v1/log_service_pb.js";
import { delay } from "./retry.js";

/** How to follow. */
export interface FollowOptions {
  /** Ends it. */
  signal?: AbortSignal;
  /** Called with the error each time that the connection is lost. */
  onLost?: (error: unknown) => void;
  /** Milliseconds for which nobody may answer. Default a minute. */
  patience?: number;
}

const FIRST_WAIT = 100;
const LONGEST_WAIT = 2000;

/**
 * TailLogs, begun again after its last message when the connection is lost, so that
 * no line is lost or told twice. What the service itself refuses is thrown.
 */
export async function* followLogs(
  client: Pick<Clients, "logs">,
  request: MessageInitShape<typeof TailLogsRequestSchema>,
  { signal, onLost, patience = 60_000 }: FollowOptions = {},
): AsyncGenerator<TailLogsResponse> {
  let from = request;
  let heard = Date.now();
  let wait = FIRST_WAIT;
  for (;;) {
    try {
      for await (const message of client.logs.tailLogs(from, { signal })) {
        if (message.cursor) {
          from = { ...request, cursor: message.cursor, since: undefined, lastLines: undefined };
        }
        yield message;
        heard = Date.now();
        wait = FIRST_WAIT;
      }
      return;
    } catch (error) {
      if (signal?.aborted) return;
      const { code, reason } = explain(error);
      const refused = reason !== "" && code !== Code.Unavailable;
      if (refused || Date.now() - heard > patience) throw error;
      onLost?.(error);
    }
    await delay(wait, signal);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }
}
