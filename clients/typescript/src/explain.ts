// What an error says to programs.
import { Code, ConnectError } from "@connectrpc/connect";

import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** One wrong field of a request. */
export interface Violation {
  /** Its path in JSON names, as "ports[0].internal". */
  field: string;
  /** Why it is wrong and what to do. */
  description: string;
}

/** What a call answered in place of a result. */
export interface Explained {
  code: Code;
  /** What was wrong and what to do. */
  message: string;
  /** Names the cause for programs, as "NAME_TAKEN"; empty when the answer does not
   * come from container-svc. */
  reason: string;
  /** Facts for programs, as the permission that is missing. */
  metadata: Record<string, string>;
  /** The wrong fields of the request. */
  violations: Violation[];
}

/** Reads what was caught. */
export function explain(error: unknown): Explained {
  const told = ConnectError.from(error);
  const info = told.findDetails(ErrorInfoSchema)[0];
  const wrong = told.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations);
  return {
    code: told.code,
    message: told.rawMessage,
    reason: info?.reason ?? "",
    metadata: { ...info?.metadata },
    violations: wrong.map(({ field, description }) => ({ field, description })),
  };
}
