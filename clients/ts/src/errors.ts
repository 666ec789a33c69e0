import { Code, ConnectError } from "@connectrpc/connect";
import { setTimeout as sleep } from "node:timers/promises";

/** Why a call failed. The message is the server's sentence, which names the cause and the way out. */
export class SecondlookError extends Error {
  override readonly name = "SecondlookError";

  constructor(
    message: string,
    readonly code: Code,
    /** Stable word for programs, such as "bad_image". */
    readonly reason: string,
    /** When trying again is likely to succeed; absent when nothing is known. */
    readonly retryAfterMs?: number,
    /** Connect's error, whose details name the wrong field of a request. */
    override readonly cause?: unknown,
  ) {
    super(message);
  }

  /** The typed error for whatever a call threw. */
  static from(cause: unknown): SecondlookError {
    if (cause instanceof SecondlookError) return cause;
    const { rawMessage, code, metadata } = ConnectError.from(cause);
    const reason = metadata.get("secondlook-reason");
    const hint = metadata.get("secondlook-retry-after-ms");
    if (reason) return new this(rawMessage, code, reason, hint ? Number(hint) : undefined, cause);
    if (rawMessage.includes("larger than max"))
      return new this(rawMessage, Code.InvalidArgument, "message_too_large", undefined, cause);
    // What a broken line is called depends on where it broke.
    const ofTransport = TRANSPORT[code] ? code : Code.Unavailable;
    return new this(rawMessage, ofTransport, TRANSPORT[ofTransport]!, undefined, cause);
  }
}

/** What gRPC itself says, without a reason of the server. */
const TRANSPORT: Partial<Record<Code, string>> = {
  [Code.Unavailable]: "unavailable",
  [Code.DeadlineExceeded]: "deadline_exceeded",
  [Code.ResourceExhausted]: "busy",
  [Code.Unimplemented]: "not_supported",
};

/** Codes with which the same request would be refused again. */
const REFUSED = [
  ...[Code.InvalidArgument, Code.NotFound, Code.AlreadyExists, Code.PermissionDenied],
  ...[Code.Unauthenticated, Code.FailedPrecondition, Code.Unimplemented],
];

/** The tries of one call. Times are in milliseconds. */
export class Attempts {
  #failures = 0;
  #silentSince = Infinity;

  /** Infinite patience is that of streams, which outlive many servers. */
  constructor(
    private readonly patience: number,
    private readonly signal?: AbortSignal,
    private readonly ends = Infinity,
  ) {}

  /** Of the time of the call. */
  get left(): number {
    return Math.max(this.ends - Date.now(), 1);
  }

  /** An attempt made progress: the next failure is the first again. */
  progress(): void {
    this.#failures = 0;
    this.#silentSince = Infinity;
  }

  /** Waits before the next try: busy servers are tried at the pace that they hint. Throws the typed
   * error when there is none. */
  async wait(cause: unknown): Promise<void> {
    const failed = SecondlookError.from(cause);
    if (this.signal?.aborted) throw new SecondlookError(failed.message, Code.Canceled, "cancelled", undefined, cause);
    const silent = failed.code === Code.Unavailable;
    this.#silentSince = silent ? Math.min(this.#silentSince, Date.now()) : Infinity;
    const busy = failed.code === Code.ResourceExhausted && failed.reason !== "storage_full";
    const patient = silent && Date.now() - this.#silentSince < this.patience;
    const forever = this.patience === Infinity && !REFUSED.includes(failed.code);
    const backoff = Math.min(100 * 2 ** this.#failures++, 5000) * (1 + Math.random()) / 2;
    // A hint is the same for everybody who was refused; chance spreads them.
    const pause = Math.max((failed.retryAfterMs ?? 0) * (1 + Math.random() / 2), backoff);
    if (!(busy || patient || forever) || Date.now() + pause >= this.ends) throw failed;
    await sleep(pause, undefined, this.signal && { signal: this.signal }).catch(() => this.wait(failed));
  }
}
