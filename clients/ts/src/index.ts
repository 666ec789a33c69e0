/** Client of the secondlook labelling service: the generated calls of each service, with deadlines,
 * tokens, TLS, retries and typed errors, and what streams need beyond them. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { Attempts, SecondlookError } from "./errors.js";
import { BrowseService } from "./secondlook/v1/browse_pb.js";
import { DatasetService, PullRequestSchema, type SnapshotImage } from "./secondlook/v1/datasets_pb.js";
import { JobService } from "./secondlook/v1/jobs_pb.js";
import { type FrameAnswer, LabelingService, type StreamOpeningSchema } from "./secondlook/v1/labeling_pb.js";
import { ModelService, type ModelVersion } from "./secondlook/v1/models_pb.js";
import { ReviewService } from "./secondlook/v1/reviews_pb.js";
import { SegmentationService } from "./secondlook/v1/segmentation_pb.js";
import { type Frame, FrameStream } from "./stream.js";

export { SecondlookError } from "./errors.js";
export type { Frame } from "./stream.js";

/** How a client shows who it is, and knows the server. What is absent is taken from
 * SECONDLOOK_TOKEN, SECONDLOOK_CA, SECONDLOOK_CLIENT_CERT and SECONDLOOK_CLIENT_KEY. */
export interface Options {
  /** Secret of a token of the server. */
  token?: string;
  /** PEM files: whom to trust, and the client's own certificate and key. */
  ca?: string;
  cert?: string;
  key?: string;
  /** Send the token to another machine without encryption. */
  plainToken?: boolean;
  /** Of a unary call that names no timeoutMs. Default: a minute. */
  timeoutMs?: number;
  /** How long a server that does not answer is tried. Default: ten seconds. */
  unavailableMs?: number;
}

/** A connection to one server, made at the first call. */
export class Client {
  readonly labeling;
  readonly jobs;
  readonly datasets;
  readonly models;
  readonly reviews;
  readonly browse;
  readonly segmentation;
  readonly #session: Http2SessionManager;
  readonly #unavailableMs: number;

  /** The address is "host:port", or "tls://host:port" for an encrypted line. */
  constructor(address: string, options: Options = {}) {
    const { SECONDLOOK_TOKEN, SECONDLOOK_CA, SECONDLOOK_CLIENT_CERT, SECONDLOOK_CLIENT_KEY } = process.env;
    const token = (options.token || SECONDLOOK_TOKEN || "").trim();
    const target = address.replace(/^tls:\/\//, "");
    const encrypted = target !== address || Boolean(options.ca || options.cert);
    if (token && !encrypted && !options.plainToken && !/^(localhost|127\.[\d.]+|\[::1\]):/.test(target))
      throw new Error(
        `the token would travel to ${target} unencrypted; use tls://${target} (with ca for a ` +
          "certificate of your own), or set plainToken",
      );
    const pem = (file?: string) => (file && encrypted ? { file: readFileSync(file) } : {}).file;
    const files = {
      ca: pem(options.ca || SECONDLOOK_CA),
      cert: pem(options.cert || SECONDLOOK_CLIENT_CERT),
      key: pem(options.key || SECONDLOOK_CLIENT_KEY),
    };
    const baseUrl = `${encrypted ? "https" : "http"}://${target}`;
    this.#unavailableMs = options.unavailableMs ?? 10_000;
    this.#session = new Http2SessionManager(baseUrl, { pingIntervalMs: 30_000, pingTimeoutMs: 10_000 }, files);
    const identify: Interceptor = (next) => (request) => {
      if (token) request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    };
    const transport = this.#retried(
      createGrpcTransport({ baseUrl, sessionManager: this.#session, interceptors: [identify] }),
      options.timeoutMs ?? 60_000,
    );
    this.labeling = createClient(LabelingService, transport);
    this.jobs = createClient(JobService, transport);
    this.datasets = createClient(DatasetService, transport);
    this.models = createClient(ModelService, transport);
    this.reviews = createClient(ReviewService, transport);
    this.browse = createClient(BrowseService, transport);
    this.segmentation = createClient(SegmentationService, transport);
  }

  /** Labels frames (live), or hands them over for good (capture), as the opening's mode says. Each
   * frame has one answer, under a number that rises from 0 or, in capture mode, with the clock;
   * there "stored" means that the frame is durable. A broken line is made anew until the signal
   * ends it, and frames without an answer are sent again under their numbers, which a server
   * stores once. At most 32 frames are taken ahead of their answers. */
  stream(
    opening: MessageInitShape<typeof StreamOpeningSchema>,
    frames: Iterable<Frame> | AsyncIterable<Frame>,
    signal?: AbortSignal,
  ): AsyncGenerator<FrameAnswer> {
    return new FrameStream(this.labeling, opening, signal).answers(frames);
  }

  /** The images of a snapshot in its order, from the request's cursor on; goes on behind the last
   * one where the line breaks. Contents are checked by their hashes. */
  async *pull(request: MessageInitShape<typeof PullRequestSchema>, signal?: AbortSignal): AsyncGenerator<SnapshotImage> {
    const rest = create(PullRequestSchema, request);
    for (const attempts = new Attempts(this.#unavailableMs, signal); ; ) {
      try {
        for await (const page of this.datasets.pull(rest, { signal })) {
          for (const image of page.images) {
            if (rest.images) check(image.content, image.sha256, image.name);
            attempts.progress();
            yield image;
            rest.cursor = image.cursor;
          }
        }
        return;
      } catch (failed) {
        await attempts.wait(failed);
      }
    }
  }

  /** Fetches a file of a version, goes on where the line breaks, and checks it by its hash. */
  async modelFile(model: ModelVersion, file: string, signal?: AbortSignal): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    const { name, version } = model;
    let offset = 0;
    for (const attempts = new Attempts(this.#unavailableMs, signal); ; ) {
      try {
        const rest = { name, version, file, offset: BigInt(offset) };
        for await (const { data } of this.models.downloadModel(rest, { signal })) {
          attempts.progress();
          parts.push(data);
          offset += data.length;
          if (offset > (model.files[file]?.size ?? 0)) break;
        }
        return check(Buffer.concat(parts), model.files[file]?.sha256, file);
      } catch (failed) {
        await attempts.wait(failed);
      }
    }
  }

  /** Cancels what is running and hangs up. */
  close(): void {
    this.#session.abort();
  }

  #retried({ unary, stream }: Transport, timeoutMs: number): Transport {
    return {
      stream,
      unary: async (method, signal, ms, ...rest) => {
        const attempts = new Attempts(this.#unavailableMs, signal, Date.now() + (ms || timeoutMs));
        for (;;) {
          try {
            return await unary(method, signal, attempts.left, ...rest);
          } catch (failed) {
            await attempts.wait(failed);
          }
        }
      },
    };
  }
}

function check(content: Uint8Array, sha256: string | undefined, name: string): Uint8Array {
  if (createHash("sha256").update(content).digest("hex") !== sha256)
    throw new SecondlookError(`${name} came with other bytes than its hash says; run \`secondlook check\``, Code.DataLoss, "damaged");
  return content;
}
