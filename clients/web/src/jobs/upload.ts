// Files of this computer that become the images of a job: sent a few at a time, and each until the
// server has it.

import { call, CallError, messageOf } from "../api/connect";
import { createJob, finishUpload, uploadImage, type CreateJobRequest } from "../api/messages";
import { texts } from "../texts";

/** Images on their way at a time: each lies in memory, a third larger than its file. */
const TOGETHER = 3;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
/** Files of one job. */
export const MOST_FILES = 5000;

const listeners = new Set<() => void>();
let current: Upload | null = null;

/** That of this tab, running or ended; null before the first. It goes on in every view. */
export function currentUpload(): Upload | null {
  return current;
}

/** Call `listener` at each change; gives what ends that. */
export function onUploadChange(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell(): void {
  for (const listener of listeners) listener();
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });
}

async function base64(file: Blob): Promise<string> {
  const reader = new FileReader();
  const read = new Promise<string>((done, fail) => {
    reader.onload = () => done(String(reader.result));
    reader.onerror = () => fail(reader.error ?? new Error(texts.runs.upload.unreadable));
  });
  reader.readAsDataURL(file);
  const address = await read;
  return address.slice(address.indexOf(",") + 1);
}

/** One upload, from the first image to the end of the job's source. */
export class Upload {
  sent = 0;
  running = true;
  /** What the server said that it could not take now; empty when all goes well. */
  waits = "";
  /** Why it ended before its end. */
  failure = "";
  /** Names of files that are not in the job, and why. */
  readonly refused: [string, string][] = [];
  readonly total: number;
  private controller = new AbortController();

  constructor(
    readonly job: string,
    private files: File[],
    /** Bytes of one image; a larger one would be refused after it was sent. */
    private most: number,
  ) {
    this.total = files.length;
  }

  /** Send no more. What the server has stays in the job. */
  stop(): void {
    this.controller.abort();
  }

  async run(): Promise<void> {
    const leaving = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener("beforeunload", leaving);
    try {
      const work = async () => {
        for (let file = this.files.shift(); file && this.going; file = this.files.shift()) {
          await this.sendOne(file);
          tell();
        }
      };
      await Promise.all(Array.from({ length: TOGETHER }, work));
      await call(finishUpload, { job: this.job });
    } catch (error) {
      this.failure = messageOf(error);
    } finally {
      window.removeEventListener("beforeunload", leaving);
      this.running = false;
      tell();
    }
  }

  private get going(): boolean {
    return !this.controller.signal.aborted;
  }

  /** Send a file until the server has it or will not have it. */
  private async sendOne(file: File): Promise<void> {
    const refuse = (why: string) => void this.refused.push([file.name, why]);
    if (file.size > this.most) return refuse(texts.runs.upload.tooLarge);
    let image: string;
    try {
      image = await base64(file);
    } catch (error) {
      return refuse(messageOf(error));
    }
    const { signal } = this.controller;
    for (let wait = FIRST_PAUSE_MS; this.going; wait = Math.min(wait * 2, LONGEST_PAUSE_MS)) {
      try {
        // Sent again after a broken line it is stored once: its name and content are its key.
        await call(uploadImage, { job: this.job, name: file.name, image }, signal);
        this.sent += 1;
        this.waits = "";
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof CallError) || !error.transient) {
          return refuse(messageOf(error));
        }
        this.waits = error.message;
        tell();
        await pause(Math.max(wait, error.retryAfterMs), signal);
      }
    }
  }
}

/** Make the job and begin to send; raises what making it raises. */
export async function beginUpload(
  request: CreateJobRequest,
  files: File[],
  mostBytes: number,
): Promise<void> {
  await call(createJob, { ...request, upload: {} });
  current = new Upload(request.name ?? "", files, mostBytes);
  void current.run();
}
