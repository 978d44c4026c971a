// Repeats calls that nobody answered, when the proto calls them idempotent: of the
// others, nobody knows whether they were done. A stream is not repeated here, as
// its reader may have read of it; followLogs goes on after what it has read.
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";

const FIRST_WAIT = 200;
const LAST_WAIT = 800;

export const retryIdempotent: Interceptor = (next) => async (request) => {
  if (
    request.stream ||
    request.method.idempotency === MethodOptions_IdempotencyLevel.IDEMPOTENCY_UNKNOWN
  ) {
    return next(request);
  }
  for (let wait = FIRST_WAIT; ; wait *= 2) {
    try {
      return await next(request);
    } catch (error) {
      if (!isAbsence(error) || wait > LAST_WAIT || request.signal.aborted) throw error;
      await delay(wait, request.signal);
    }
  }
};

/** True when nobody answered, or the service says that it cannot at the moment. */
export function isAbsence(error: unknown): boolean {
  const told = ConnectError.from(error);
  // What a browser makes of a connection that there is not, or that broke.
  return told.code === Code.Unavailable || told.cause instanceof TypeError;
}

/** Waits so many milliseconds, or until the call is given up. */
export function delay(wait: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, wait);
    signal?.addEventListener("abort", end);
  });
}
