// The queues of the server, and a form for a new one.

import { useState } from "preact/hooks";
import { call, messageOf } from "../api/connect";
import {
  createReviewQueue,
  listReviewQueues,
  listRuns,
  type ReviewOrder,
  type ReviewQueue,
} from "../api/messages";
import { usefulFirst } from "../tryout/trial";
import { texts } from "../texts";
import { Failure, Options, useLoad } from "../ui/parts";

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

function NewQueue() {
  const [failure, setFailure] = useState("");
  const runs = useLoad((signal) => call(listRuns, { pageSize: 200 }, signal), []);
  const names = usefulFirst(runs.value?.runs ?? []).map((one) => one.name ?? "");
  const make = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const text = (name: string) => String(form.get(name) ?? "");
    try {
      await call(createReviewQueue, {
        name: text("name"),
        run: text("run"),
        order: text("order") as ReviewOrder,
        count: String(Math.max(Math.round(Number(text("count"))), 0) || 0),
      });
      location.hash = `#/review/${encodeURIComponent(text("name"))}`;
    } catch (error) {
      setFailure(messageOf(error));
    }
  };
  if (!names.length) return null;
  return (
    <form class="new-queue" onSubmit={(event) => void make(event)}>
      <h2>{words.make}</h2>
      <Failure message={failure} />
      <label>
        {words.run}
        <select name="run">
          {names.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      </label>
      <label>
        {words.name}
        <input name="name" type="text" required maxLength={200} />
      </label>
      <label>
        {words.order}
        <select name="order">
          <Options words={words.orders} />
        </select>
      </label>
      <label>
        {words.count}
        <input name="count" type="number" min="0" value="200" />
      </label>
      <button type="submit" class="primary">
        {words.create}
      </button>
    </form>
  );
}
