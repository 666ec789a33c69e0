// The queues of the server, and a form for a new one.

import { useState } from "preact/hooks";
import { call } from "../api/connect";
import {
  createReviewQueue,
  getRun,
  listReviewQueues,
  type ReviewOrder,
  type ReviewQueue,
} from "../api/messages";
import { texts } from "../texts";
import { Failure, Options, useLoad } from "../ui/parts";
import { RunChoice, useRunNames } from "../ui/RunChoice";
import { useSubmit } from "../ui/submit";

const words = texts.queues;

export function QueueList() {
  const { value, error, again } = useLoad(
    (signal) => call(listReviewQueues, { pageSize: 200 }, signal),
    [],
  );
  const queues = value?.queues ?? [];
  return (
    <div class="page">
      <h1>{words.title}</h1>
      <p class="quiet">{words.intro}</p>
      <Failure message={error} again={again} />
      {value && !queues.length && <p>{words.none}</p>}
      <ul class="cards">
        {queues.map((one) => (
          <QueueCard key={one.name} queue={one} />
        ))}
      </ul>
      <NewQueue />
    </div>
  );
}

function QueueCard({ queue }: { queue: ReviewQueue }) {
  const [total, answered] = [Number(queue.total ?? 0), Number(queue.answered ?? 0)];
  return (
    <li>
      <a class="card" href={`#/review/${encodeURIComponent(queue.name ?? "")}`}>
        <strong>{queue.name}</strong>
        <span class="quiet">
          {queue.run} · {queue.order}
        </span>
        <progress
          max={Math.max(total, 1)}
          value={answered}
          aria-label={texts.review.progressLabel}
        />
        <span>{words.left(total - answered, total)}</span>
      </a>
    </li>
  );
}

/** Whether objects were followed through the frames of a run. */
function hasTracks(settingsJson: string | undefined): boolean {
  try {
    return (JSON.parse(settingsJson ?? "{}") as { tracks?: unknown }).tracks === true;
  } catch {
    return false;
  }
}

function NewQueue() {
  const [run, setRun] = useState("");
  const names = useRunNames();
  const about = useLoad(async (signal) => (run ? call(getRun, { run }, signal) : null), [run]);
  const tracked = hasTracks(about.value?.settingsJson);
  const { submit, failure } = useSubmit(async (field) => {
    await call(createReviewQueue, {
      name: field("name"),
      run: field("run"),
      order: field("order") as ReviewOrder,
      count: String(Math.max(Math.round(Number(field("count"))), 0) || 0),
    });
    location.hash = `#/review/${encodeURIComponent(field("name"))}`;
  });
  if (!names.length) return null;
  return (
    <form class="new-queue" aria-labelledby="make-title" onSubmit={submit}>
      <h2 id="make-title">{words.make}</h2>
      <Failure message={failure} />
      <RunChoice names={names} onChoose={setRun} />
      <label>
        {words.name}
        <input name="name" type="text" required maxLength={200} />
      </label>
      <label>
        {words.order}
        <select name="order">
          <Options words={words.orders} />
          {tracked && <Options words={words.ordersOfTracks} />}
        </select>
      </label>
      <label>
        {words.count}
        <input name="count" type="number" min="0" defaultValue="200" />
      </label>
      <button type="submit" class="primary">
        {words.create}
      </button>
    </form>
  );
}
