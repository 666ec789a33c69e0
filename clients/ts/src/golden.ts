/** Replays the steps of tests/golden/scenario.yaml: reads one a line as JSON, makes it with this
 * client, and writes what came of it. */
import { type DescService, fromJson, toJson } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

import { Client, type Frame, SecondlookError } from "./index.js";
import { BrowseService } from "./secondlook/v1/browse_pb.js";
import { DatasetService } from "./secondlook/v1/datasets_pb.js";
import { JobService } from "./secondlook/v1/jobs_pb.js";
import { type FrameAnswer, type Labelled, LabelingService, Outcome, StreamMode } from "./secondlook/v1/labeling_pb.js";
import { ModelService } from "./secondlook/v1/models_pb.js";
import { ReviewAnswer, ReviewService } from "./secondlook/v1/reviews_pb.js";

/** One line of the scenario. What a step does not need is absent. */
interface Step {
  do: string;
  as: string;
  seconds?: number;
  [key: string]: any;
}

/** Frames as they are sent. */
class Queue implements AsyncIterable<Frame> {
  readonly #frames: Frame[] = [];
  #wake = Promise.withResolvers<void>();
  #ended = false;

  push(...frames: Frame[]): void {
    this.#frames.push(...frames);
    this.#wake.resolve();
  }

  end(): void {
    this.#ended = true;
    this.#wake.resolve();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Frame> {
    for (;;) {
      while (this.#frames.length) yield this.#frames.shift()!;
      if (this.#ended) return;
      await this.#wake.promise;
      this.#wake = Promise.withResolvers();
    }
  }
}

const clients = new Map<string, Client>();
const streams = new Map<string, { frames: Queue; answers: AsyncGenerator<FrameAnswer> }>();
const services: Record<string, [DescService, (client: Client) => any]> = {
  BrowseService: [BrowseService, (client) => client.browse],
  DatasetService: [DatasetService, (client) => client.datasets],
  JobService: [JobService, (client) => client.jobs],
  LabelingService: [LabelingService, (client) => client.labeling],
  ModelService: [ModelService, (client) => client.models],
  ReviewService: [ReviewService, (client) => client.reviews],
};
const bytes = (base64: string) => Buffer.from(base64, "base64");
const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");
const within = ({ seconds }: Step) => (seconds ? { timeoutMs: seconds * 1000 } : {});
const ontology = (names?: string[]) => (names ? { ontology: { classes: names.map((name) => ({ name })) } } : {});

function labelled(found: Labelled) {
  const labels = found.judgements
    .filter(({ outcome }) => outcome === Outcome.ACCEPT)
    .map(({ className, box, probability }) => ({ class: className, box: [box!.x1, box!.y1, box!.x2, box!.y2], probability }));
  return { name: found.name, sha256: found.sha256, labels, size: [found.width, found.height] };
}

function told({ sequence, answer }: FrameAnswer) {
  const number = Number(sequence);
  switch (answer.case) {
    case "labelled":
      return { sequence: number, labelled: labelled(answer.value) };
    case "failure":
      return { sequence: number, failure: { reason: answer.value.reason, message: answer.value.message } };
    default:
      return { sequence: number, [answer.case!]: true };
  }
}

async function taken(stream: string, count: number) {
  const found = [];
  while (found.length < count) {
    const next = await streams.get(stream)!.answers.next();
    if (next.done) break;
    found.push(told(next.value));
  }
  return found.sort((a, b) => a.sequence - b.sequence);
}

const actions: Record<string, (step: Step, client: Client) => unknown> = {
  connect({ as, address, token, ca }) {
    clients.set(as, new Client(address, { token, ca }));
    return {};
  },
  async call(step, client) {
    const [service, calls] = services[step.service]!;
    const method = service.methods.find(({ name }) => name === step.method)!;
    const answer = await calls(client)[method.localName](fromJson(method.input, step.request), within(step));
    return toJson(method.output, answer);
  },
  async label(step, client) {
    const { name, keep } = step;
    const request = { image: bytes(step.image), name, keep, ...ontology(step.classes) };
    return labelled((await client.labeling.label(request, within(step))).labelled!);
  },
  open(step, client) {
    const mode = StreamMode[step.mode as keyof typeof StreamMode];
    const frames = new Queue();
    const answers = client.stream({ streamId: step.name, mode, ...ontology(step.classes) }, frames);
    streams.set(step.stream, { frames, answers });
    return {};
  },
  send({ stream, images, name }) {
    streams.get(stream)!.frames.push(...images.map((image: string) => ({ image: bytes(image), name })));
    return {};
  },
  answers: ({ stream, count }) => taken(stream, count),
  finish({ stream }) {
    streams.get(stream)!.frames.end();
    return taken(stream, Infinity);
  },
  async pull({ snapshot }, client) {
    const found = [];
    for await (const { sha256, name, split, boxes, content } of client.pull({ snapshot, images: true }))
      found.push({ sha256, name, split, boxes: boxes.length, bytes: content.length });
    return found;
  },
  async fetch({ model: name, version }, client) {
    const { model } = await client.models.getModel({ name, version });
    const files: Record<string, string> = {};
    for (const file of Object.keys(model!.files)) files[file] = sha256(await client.modelFile(model!, file));
    return { version: model!.version, files };
  },
  async review({ queue, person, answer }, client) {
    const { items } = await client.reviews.nextReviewItems({ queue, person });
    if (!items[0]) return { asked: "" };
    const said = ReviewAnswer[answer as keyof typeof ReviewAnswer];
    const { review } = await client.reviews.answerReviewItem({ item: items[0].id, person, answer: said });
    return { asked: items[0].className, kept: `REVIEW_ANSWER_${ReviewAnswer[review!.answer]}`, person: review!.person };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const step: Step = JSON.parse(line);
  let outcome: unknown;
  try {
    outcome = await actions[step.do]!(step, clients.get(step.as)!);
  } catch (failed) {
    if (!(failed instanceof SecondlookError)) outcome = { refused: String(failed) };
    else {
      const { code, reason, message, retryAfterMs } = failed;
      outcome = { error: { code: Code[code], reason, message, hint: Boolean(retryAfterMs) } };
    }
  }
  console.log(JSON.stringify(outcome));
}
for (const client of clients.values()) client.close();
