// Connect's protocol in its JSON form: one POST a call, and enveloped answers where they stream.

import type { Stream, Unary } from "./method";
import { admitted, authorization, refuseToken, shownToken } from "../session/token";
import { texts } from "../texts";

/** Codes after which the same call may succeed later. */
const TRANSIENT = new Set(["unavailable", "resource_exhausted", "deadline_exceeded", "line_lost"]);
const END_OF_STREAM = 2;
/** What one message of a stream may hold: a hostile length must not fill the memory. */
const MAX_MESSAGE = 64 * 1024 * 1024;

/** A call that failed: Connect's code, the server's sentence, and its stable reason. */
export class CallError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly reason = "",
    readonly retryAfterMs = 0,
  ) {
    super(message);
  }

  /** Whether the same call may succeed later. */
  get transient(): boolean {
    return TRANSIENT.has(this.code);
  }
}

/** Why something failed, in words. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function post(
  token: string,
  path: string,
  kind: string,
  body: BodyInit,
  signal?: AbortSignal,
) {
  const headers = {
    "Content-Type": kind,
    "Connect-Protocol-Version": "1",
    ...authorization(token),
  };
  try {
    return await fetch(`/${path}`, {
      method: "POST",
      headers,
      body,
      signal: signal ?? null,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError("line_lost", texts.errors.lineLost);
  }
}

interface WireError {
  code?: string;
  message?: string;
  details?: { debug?: { reason?: string; retryDelay?: string } }[];
}

function errorOf(wire: WireError, status: number, about?: Headers): CallError {
  const code = wire.code ?? (status >= 502 && status <= 504 ? "unavailable" : "unknown");
  const reason =
    about?.get("secondlook-reason") ??
    wire.details
      ?.map((one) => one.debug?.reason)
      .find(Boolean)
      ?.toLowerCase() ??
    "";
  const retry = Number(about?.get("secondlook-retry-after-ms") ?? 0);
  return new CallError(code, wire.message || texts.errors.failed(status), reason, retry);
}

/**
 * Do `work` with the token of this tab. While the server takes none it waits for another, so that
 * no view fails, and nothing that was said is lost, when a token ends.
 */
async function withToken<T>(
  work: (token: string) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  for (;;) {
    await admitted(signal);
    const token = shownToken();
    try {
      return await work(token);
    } catch (error) {
      if (!(error instanceof CallError) || error.code !== "unauthenticated") throw error;
      refuseToken(token, error.message);
    }
  }
}

/** Make a call. Raises CallError; also when the line is lost. */
export function call<In, Out>(
  method: Unary<In, Out>,
  request: In,
  signal?: AbortSignal,
): Promise<Out> {
  return withToken((token) => callWith(token, method, request, signal), signal);
}

/** The same with a token of the caller's, which may be refused. */
export async function callWith<In, Out>(
  token: string,
  method: Unary<In, Out>,
  request: In,
  signal?: AbortSignal,
): Promise<Out> {
  const body = JSON.stringify(request);
  const answer = await post(token, method.path, "application/json", body, signal);
  let read: unknown;
  try {
    read = await answer.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    // The line broke in the middle of the answer, or somebody else answered.
    const code = answer.ok ? "line_lost" : "";
    throw code
      ? new CallError(code, texts.errors.lineLost)
      : errorOf({}, answer.status, answer.headers);
  }
  if (!answer.ok) throw errorOf(read as WireError, answer.status, answer.headers);
  return read as Out;
}

function envelope(message: unknown): Uint8Array<ArrayBuffer> {
  const body = new TextEncoder().encode(JSON.stringify(message));
  const framed = new Uint8Array(5 + body.length);
  new DataView(framed.buffer).setUint32(1, body.length);
  framed.set(body, 5);
  return framed;
}

/** The bytes of a stream, cut into envelopes: [flags, body]. */
async function* envelopes(body: ReadableStream<Uint8Array>): AsyncGenerator<[number, Uint8Array]> {
  const reader = body.getReader();
  let held = new Uint8Array(0);
  try {
    for (;;) {
      while (held.length >= 5) {
        const size = new DataView(held.buffer, held.byteOffset).getUint32(1);
        if (size > MAX_MESSAGE) throw new CallError("internal", texts.errors.tooLarge);
        if (held.length < 5 + size) break;
        yield [held[0] ?? 0, held.subarray(5, 5 + size)];
        held = held.slice(5 + size);
      }
      const { done, value } = await reader.read();
      if (done) return;
      const joined = new Uint8Array(held.length + value.length);
      joined.set(held);
      joined.set(value, held.length);
      held = joined;
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

/** Make a call whose answers stream. Raises CallError; ends when the server ends it. */
export async function* follow<In, Out>(
  method: Stream<In, Out>,
  request: In,
  signal?: AbortSignal,
): AsyncGenerator<Out> {
  await admitted(signal);
  const token = shownToken();
  const framed = envelope(request);
  const answer = await post(token, method.path, "application/connect+json", framed, signal);
  if (!answer.ok || !answer.body) {
    const body = (await answer.json().catch(() => ({}))) as WireError;
    throw errorOf(body, answer.status, answer.headers);
  }
  const text = new TextDecoder();
  try {
    for await (const [flags, bytes] of envelopes(answer.body)) {
      const message: unknown = JSON.parse(text.decode(bytes));
      if (flags & END_OF_STREAM) {
        const { error } = message as { error?: WireError };
        if (error?.code === "unauthenticated") {
          refuseToken(token, error.message ?? "");
          break; // as if the line were lost: whoever follows does so again, with another token
        }
        if (error) throw errorOf(error, 200);
        return;
      }
      yield message as Out;
    }
  } catch (error) {
    if (error instanceof CallError || signal?.aborted) throw error;
  }
  throw new CallError("line_lost", texts.errors.lineLost);
}

const AGAIN_MS = 2000;

/** Do `work` until it ends, anew a while after the line broke. Other failures end it, too. */
export async function persistently(
  signal: AbortSignal,
  work: () => Promise<void>,
): Promise<void> {
  while (!signal.aborted) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof CallError) || !error.transient) return;
      await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  }
}

/** The address of an image, at most `width` pixels wide; of all its pixels without one. */
export function imageUrl(sha256: string, width?: number): string {
  const address = `/images/${encodeURIComponent(sha256)}`;
  return width ? `${address}?width=${Math.ceil(width)}` : address;
}

/** The image at an address of ours. */
export function imageBlobAt(address: string, signal?: AbortSignal): Promise<Blob> {
  return withToken((token) => fetchedBlob(token, address, signal), signal);
}

async function fetchedBlob(token: string, address: string, signal?: AbortSignal): Promise<Blob> {
  let answer: Response;
  try {
    answer = await fetch(address, { headers: authorization(token), signal: signal ?? null });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError("line_lost", texts.errors.lineLost);
  }
  if (!answer.ok) {
    const body = (await answer.json().catch(() => ({}))) as WireError;
    throw errorOf(body, answer.status, answer.headers);
  }
  return answer.blob();
}

/** An image, upright and encoded anew. */
export function imageBlob(sha256: string, signal?: AbortSignal): Promise<Blob> {
  return imageBlobAt(imageUrl(sha256), signal);
}

/** An image as it was given to the store. */
export function originalBlob(sha256: string, signal?: AbortSignal): Promise<Blob> {
  return imageBlobAt(`/originals/${encodeURIComponent(sha256)}`, signal);
}
