// What a call ends in: the status, and its details (a google.rpc.Status in the trailers).

import { Metadata, status, type ServiceError } from "@grpc/grpc-js";
import protobuf from "protobufjs";

// Of google.rpc only what is read here; field numbers are those of google/rpc/status.proto and error_details.proto.
const rpc = protobuf.parse(
  `syntax = "proto3";
   message Any { string type_url = 1; bytes value = 2; }
   message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
   message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
   message BadRequest {
     message FieldViolation { string field = 1; string description = 2; }
     repeated FieldViolation field_violations = 1;
   }`,
  { keepCase: true },
).root;

interface Details {
  reason: string;
  metadata: Record<string, string>;
  violations: { field: string; description: string }[];
}

/** A call that failed. `reason` is a value of `calendars.v1.ErrorReason` without its prefix; empty if none was sent. */
export class CalendarError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly reason: string,
    readonly metadata: Record<string, string>,
    readonly violations: { field: string; description: string }[],
  ) {
    super(message);
  }

  static of(error: ServiceError): CalendarError {
    const { reason, metadata, violations } = read(error.metadata);
    return new CalendarError(status[error.code] ?? "UNKNOWN", error.details, reason, metadata, violations);
  }
}

function read(trailers: Metadata | undefined): Details {
  const found: Details = { reason: "", metadata: {}, violations: [] };
  const [raw] = trailers?.get("grpc-status-details-bin") ?? [];
  if (!(raw instanceof Buffer)) return found;
  const decode = <T>(type: string, bytes: Uint8Array): T => {
    const message = rpc.lookupType(type);
    return message.toObject(message.decode(bytes), { defaults: true }) as T;
  };
  type Any = { type_url: string; value: Uint8Array };
  for (const detail of decode<{ details: Any[] }>("Status", raw).details) {
    if (detail.type_url.endsWith("/google.rpc.ErrorInfo")) {
      const info = decode<{ reason: string; domain: string; metadata: Record<string, string> }>("ErrorInfo", detail.value);
      // A reason of another domain, a proxy's say, means something else.
      if (info.domain === "calendars.v1") Object.assign(found, { reason: info.reason, metadata: info.metadata });
    } else if (detail.type_url.endsWith("/google.rpc.BadRequest")) {
      found.violations = decode<{ field_violations: Details["violations"] }>("BadRequest", detail.value).field_violations;
    }
  }
  return found;
}
