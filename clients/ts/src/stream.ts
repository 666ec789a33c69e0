import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code } from "@connectrpc/connect";

import { Attempts, SecondlookError } from "./errors.js";
import {
  type FrameAnswer,
  FrameAnswerSchema,
  type LabelingService,
  type LabelStreamRequestSchema,
  type StreamFrame,
  StreamFrameSchema,
  StreamMode,
  type StreamOpeningSchema,
} from "./secondlook/v1/labeling_pb.js";

/** How many frames may be sent and not answered; they are in memory, to be sent again. */
const WINDOW = 32;
/** The highest number of a server that is counted on from; no clock gives such a one. */
const FOLLOWED = 1n << 46n;

/** An encoded image for a stream, with a name for people. */
export interface Frame {
  image: Uint8Array;
  name?: string;
}

/** A stream over as many connections as it takes; see `Client.stream`. */
export class FrameStream {
  /** Frames without an answer, by number. */
  readonly #waiting = new Map<bigint, StreamFrame>();
  readonly #attempts: Attempts;
  #last = -1n;
  #opened = false;
  #finished = false;
  #failure: unknown;
  #changed = Promise.withResolvers<void>();

  constructor(
    private readonly labeling: Client<typeof LabelingService>,
    private readonly opening: MessageInitShape<typeof StreamOpeningSchema>,
    private readonly signal?: AbortSignal,
  ) {
    this.#attempts = new Attempts(Infinity, signal);
  }

  /** The answers as they come; leaving the loop hangs up. */
  async *answers(frames: Iterable<Frame> | AsyncIterable<Frame>): AsyncGenerator<FrameAnswer> {
    void this.#take(frames);
    try {
      for (;;) {
        try {
          return yield* this.#connect();
        } catch (failed) {
          if (this.#failure) throw this.#failure;
          await this.#attempts.wait(failed);
        }
      }
    } finally {
      this.#finished = true;
      this.#notify();
    }
  }

  /** Numbers frames as far as there is room, once the first connection has told where to begin. */
  async #take(frames: Iterable<Frame> | AsyncIterable<Frame>): Promise<void> {
    const source = Symbol.asyncIterator in frames ? frames[Symbol.asyncIterator]() : frames[Symbol.iterator]();
    try {
      for (;;) {
        while (!this.#finished && (!this.#opened || this.#waiting.size === WINDOW)) await this.#changed.promise;
        const taken = this.#finished ? await source.return?.() : await source.next();
        if (!taken || taken.done) break;
        const clock = this.opening.mode === StreamMode.CAPTURE ? BigInt(Date.now()) : 0n;
        this.#last = this.#last >= clock ? this.#last + 1n : clock;
        const frame = create(StreamFrameSchema, { sequence: this.#last, ...taken.value });
        this.#waiting.set(frame.sequence, frame);
        this.#notify();
      }
    } catch (failed) {
      this.#failure = failed;
    } finally {
      this.#finished = true;
      this.#notify();
    }
  }

  /** One connection, to its end; throws where something is left to do. */
  async *#connect(): AsyncGenerator<FrameAnswer, void> {
    const line = { open: false, over: false };
    const options = { timeoutMs: 0, ...(this.signal && { signal: this.signal }) };
    try {
      for await (const { message } of this.labeling.labelStream(this.#requests(line), options)) {
        if (message.case === "opened") {
          line.open = this.#opened = true;
          const after = message.value.resumeAfter ?? -1n;
          if (after < FOLLOWED && after > this.#last) this.#last = after;
        } else if (message.case === "answer" && this.#waiting.delete(message.value.sequence)) {
          this.#attempts.progress();
          yield message.value;
        }
        this.#notify();
      }
      throw new SecondlookError("the server ended the stream", Code.Unavailable, "unavailable");
    } catch (failed) {
      if (line.open && this.#finished && !this.#waiting.size && !this.#failure) return;
      yield* this.#givenUp(SecondlookError.from(failed));
      throw failed;
    } finally {
      line.over = true;
      this.#notify();
    }
  }

  /** What goes out on one connection. */
  async *#requests(line: { open: boolean; over: boolean }): AsyncGenerator<MessageInitShape<typeof LabelStreamRequestSchema>> {
    yield { message: { case: "opening", value: this.opening } };
    let sent = -1n;
    while (!line.over && !this.#failure) {
      const frame = line.open ? this.#waiting.values().find(({ sequence }) => sequence > sent) : undefined;
      if (frame) {
        sent = frame.sequence;
        yield { message: { case: "frame", value: frame } };
      } else if (line.open && this.#finished) return;
      else await this.#changed.promise;
    }
    throw this.#failure ?? new Error("the line is broken");
  }

  /** The largest frame where a message was too large, for it would break each line. */
  *#givenUp({ reason, message }: SecondlookError): Generator<FrameAnswer> {
    const [largest] = [...this.#waiting.values()].sort((a, b) => b.image.length - a.image.length);
    if (reason !== "message_too_large" || !largest) return;
    this.#waiting.delete(largest.sequence);
    const answer = { case: "failure", value: { reason, message } } as const;
    yield create(FrameAnswerSchema, { sequence: largest.sequence, answer });
    throw new SecondlookError(message, Code.Unavailable, "unavailable");
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
