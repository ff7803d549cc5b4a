// list | busy START DAYS | book ID START MINUTES — times as 2026-12-04T10:00Z.

import { credentials } from "@grpc/grpc-js";

import { Calendars } from "./calendars.js";
import { CalendarError } from "./errors.js";
import type { Timestamp__Output } from "./generated/google/protobuf/Timestamp.js";

const address = process.env.CALENDAR_ADDRESS ?? "127.0.0.1:50051";
const local = /^(127\.0\.0\.1|localhost|\[::1\]):/.test(address);
const calendars = new Calendars(
  address,
  process.env.CALENDAR_API_KEY ?? "",
  local ? credentials.createInsecure() : credentials.createSsl(),
);

const timestamp = (moment: Date) => ({ seconds: Math.floor(moment.getTime() / 1000) });
const text = (moment: Timestamp__Output | null) => new Date(Number(moment?.seconds ?? 0) * 1000).toISOString();
const later = (moment: Date, minutes: number) => new Date(moment.getTime() + minutes * 60_000);

function moment(typed: string | undefined): Date {
  const read = new Date(typed ?? "");
  if (Number.isNaN(read.getTime())) throw new RangeError(`${typed ?? ""} is not a time: write it as 2026-12-04T10:00Z.`);
  return read;
}

async function list(): Promise<void> {
  for (let page_token = ""; ; ) {
    const page = await calendars.list({ page_token });
    for (const each of page.data) console.log(each.id, each.account_email, each.status);
    page_token = page.next_page_token;
    if (!page_token) return;
  }
}

async function busy(start: Date, days: number): Promise<void> {
  const answer = await calendars.getBusy({
    start_time: timestamp(start),
    end_time: timestamp(later(start, days * 24 * 60)),
  });
  // Nothing asked is not the same as free.
  if (answer.calendars.length === 0) throw new Error("No calendar was asked: connect one first.");
  for (const each of answer.busy) console.log(text(each.start_time), text(each.end_time));
}

async function book(id: string, start: Date, minutes: number): Promise<void> {
  const answer = await calendars.syncBooking({
    booking: {
      id,
      revision: 1,
      status: "BOOKING_STATUS_CONFIRMED",
      title: "Interview",
      start_time: timestamp(start),
      end_time: timestamp(later(start, minutes)),
    },
    require_free: true,
  });
  for (const each of answer.events) console.log(each.connection_id, each.calendar_id, each.state);
}

try {
  const [command, ...rest] = process.argv.slice(2);
  if (command === "list") await list();
  else if (command === "busy") await busy(moment(rest[0]), Number(rest[1] ?? 7));
  else if (command === "book") await book(rest[0] ?? "", moment(rest[1]), Number(rest[2] ?? 45));
  else throw new RangeError("Say list, busy START DAYS or book ID START MINUTES.");
} catch (error) {
  process.exitCode = 1;
  if (error instanceof CalendarError) {
    console.error(`${error.code} ${error.reason}: ${error.message}`);
    for (const each of error.violations) console.error(`  ${each.field}: ${each.description}`);
  } else {
    console.error(error instanceof Error ? error.message : error);
  }
} finally {
  calendars.close();
}
