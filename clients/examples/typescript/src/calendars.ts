// The client: a channel, the key on every call, a deadline, the standard retries, and errors with their reason.

import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./generated/calendar_service.js";
import type { CalendarServiceClient } from "./generated/calendars/v1/CalendarService.js";
import type { GetBusyRequest } from "./generated/calendars/v1/GetBusyRequest.js";
import type { GetBusyResponse__Output } from "./generated/calendars/v1/GetBusyResponse.js";
import type { ListRequest } from "./generated/calendars/v1/ListRequest.js";
import type { ListResponse__Output } from "./generated/calendars/v1/ListResponse.js";
import type { SyncBookingRequest } from "./generated/calendars/v1/SyncBookingRequest.js";
import type { SyncBookingResponse__Output } from "./generated/calendars/v1/SyncBookingResponse.js";
import { CalendarError } from "./errors.js";

const here = path.dirname(fileURLToPath(import.meta.url));
const protos = path.resolve(here, "../../../../protos");
// protobufjs brings google/api and google/protobuf, which the protos import.
const common = path.dirname(createRequire(import.meta.url).resolve("protobufjs/package.json"));

// The same options as in package.json's `types`: the types hold only for these.
const definition = protoLoader.loadSync("calendars/v1/calendar_service.proto", {
  includeDirs: [protos, common],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const loaded = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;

// Only UNAVAILABLE is tried again, three times within the deadline, and never Connect: it tries a password.
const service = "calendars.v1.CalendarService";
const serviceConfig = JSON.stringify({
  methodConfig: [
    {
      name: [{ service }],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: "0.3s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        // CANCELLED: a server that ends says so of calls that it has not begun.
        retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
      },
    },
    { name: [{ service, method: "Connect" }] },
  ],
});

/** What every call of the generated client takes after its request. */
type Rest<Answer> = [grpc.Metadata, grpc.CallOptions, grpc.requestCallback<Answer>];

/** Three calls of the service as promises, the others go the same way; each rejects with a `CalendarError`. */
export class Calendars {
  readonly #client: CalendarServiceClient;
  readonly #metadata = new grpc.Metadata();

  /** `credentials`: TLS by default. Plaintext is for a service on this machine only, for the key travels with every call. */
  constructor(address: string, apiKey: string, credentials: grpc.ChannelCredentials = grpc.credentials.createSsl()) {
    this.#client = new loaded.calendars.v1.CalendarService(address, credentials, {
      "grpc.service_config": serviceConfig,
      "grpc.max_receive_message_length": 64 * 1024 * 1024,
    });
    this.#metadata.set("authorization", `Bearer ${apiKey}`);
  }

  list(request: ListRequest): Promise<ListResponse__Output> {
    return this.#call(10, (...rest) => this.#client.List(request, ...rest));
  }

  getBusy(request: GetBusyRequest): Promise<GetBusyResponse__Output> {
    return this.#call(20, (...rest) => this.#client.GetBusy(request, ...rest));
  }

  syncBooking(request: SyncBookingRequest): Promise<SyncBookingResponse__Output> {
    return this.#call(30, (...rest) => this.#client.SyncBooking(request, ...rest));
  }

  close(): void {
    this.#client.close();
  }

  #call<Answer>(seconds: number, send: (...rest: Rest<Answer>) => grpc.ClientUnaryCall): Promise<Answer> {
    return new Promise((resolve, reject) => {
      send(this.#metadata, { deadline: Date.now() + seconds * 1000 }, (error, answer) => {
        if (error) reject(CalendarError.of(error));
        else resolve(answer as Answer);
      });
    });
  }
}
