// Trainings with their curves, and the versions that they made.

import { useEffect, useState } from "preact/hooks";
import { call, follow, messageOf, persistently } from "../api/connect";
import {
  cancelTraining,
  getTraining,
  listSnapshots,
  listTrainings,
  trainModel,
  watchTraining,
  type Training,
  type TrainingPoint,
} from "../api/messages";
import { may } from "../session/session";
import { texts } from "../texts";
import { Failure, useLoad } from "../ui/parts";
import { useSubmit } from "../ui/submit";
import { Curve, type Point } from "./Curve";
import { Models } from "./Models";

const words = texts.students;
const ACTIVE = new Set(["TRAINING_STATE_QUEUED", "TRAINING_STATE_RUNNING"]);
/** A watched training keeps a connection, of which a browser has few. */
const MOST_WATCHED = 2;
const SHOWN = 20;

function isActive(one: Training): boolean {
  return ACTIVE.has(one.state ?? "");
}

export function StudentsView() {
  const [made, setMade] = useState(0);
  const { value, error, again } = useLoad(
    (signal) => call(listTrainings, { pageSize: SHOWN }, signal),
    [made],
  );
  const trainings = value?.trainings ?? [];
  const watched = new Set(trainings.filter(isActive).slice(0, MOST_WATCHED));
  const changed = () => setMade((was) => was + 1);
  return (
    <>
      <h1>{words.title}</h1>
      <Models turn={made} />
      <h2>{words.trainings}</h2>
      <Failure message={error} again={again} />
      {value && !trainings.length && <p>{words.noTraining}</p>}
      <ul class="jobs">
        {trainings.map((one) => (
          <TrainingCard
            key={one.id}
            first={one}
            watched={watched.has(one)}
            onEnd={changed}
          />
        ))}
      </ul>
      {may(trainModel) && <NewTraining onMade={changed} />}
    </>
  );
}

/** News of a training with its curve, as long as it goes on. */
function useTraining(first: Training, watched: boolean, onEnd: () => void) {
  const [training, setTraining] = useState(first);
  const [curve, setCurve] = useState<TrainingPoint[]>([]);
  useEffect(() => setTraining(first), [first]);
  useEffect(() => {
    if (!watched) return;
    const controller = new AbortController();
    const { signal } = controller;
    const request = { id: first.id ?? "0" };
    void persistently(signal, async () => {
      for await (const { training: now } of follow(watchTraining, request, signal)) {
        if (!now) continue;
        setTraining(now);
        if (!isActive(now)) return onEnd();
        const answer = await call(getTraining, { ...request, curve: true }, signal);
        if (answer.curve?.length) setCurve(answer.curve);
      }
    });
    return () => controller.abort();
  }, [first.id, watched]);
  return { training, curve };
}

function pointsOf(curve: readonly TrainingPoint[], key: "loss" | "map50"): Point[] {
  return curve.flatMap((one) => {
    const value = one[key];
    return value === undefined ? [] : [[one.step ?? 0, value] as const];
  });
}

interface CardProps {
  first: Training;
  watched: boolean;
  onEnd: () => void;
}

function TrainingCard({ first, watched, onEnd }: CardProps) {
  const { training, curve } = useTraining(first, watched, onEnd);
  const [failure, setFailure] = useState("");
  const { id = "", model = "", snapshot = "", step = 0, of = 0 } = training;
  const cancel = () => {
    call(cancelTraining, { id })
      .then(onEnd)
      .catch((error: unknown) =>
        setFailure(messageOf(error)),
      );
  };
  const active = isActive(training);
  return (
    <li class="card">
      <div class="row">
        <strong>{training.version ? words.version(model, training.version) : model}</strong>
        <span class="quiet">{words.states[training.state ?? "TRAINING_STATE_UNSPECIFIED"]}</span>
        <span class="grow" />
        {active && may(cancelTraining) && (
          <button type="button" onClick={cancel}>
            {words.cancel}
          </button>
        )}
      </div>
      {active && (
        <progress max={Math.max(of, 1)} value={step} aria-label={words.progress(model)} />
      )}
      <div class="row">
        <span>{words.from(snapshot, training.size ?? "")}</span>
        {active && of > 0 && <span>{words.stepOf(step, of)}</span>}
        {training.map50 !== undefined && <span>{words.map50(training.map50)}</span>}
      </div>
      {curve.length > 1 && (
        <div class="curves">
          <Curve title={words.loss} points={pointsOf(curve, "loss")} steps={of} />
          <Curve title={words.heldOut} points={pointsOf(curve, "map50")} steps={of} share />
        </div>
      )}
      {training.message && <p class="quiet">{training.message}</p>}
      <Failure message={failure} />
    </li>
  );
}

function NewTraining({ onMade }: { onMade: () => void }) {
  const { value, error } = useLoad((signal) => call(listSnapshots, { pageSize: 200 }, signal), []);
  const names = (value?.snapshots ?? []).map((one) => one.name ?? "");
  const { submit, failure } = useSubmit(async (field) => {
    const [model, snapshot, size] = [field("model"), field("snapshot"), field("size")];
    const steps = Math.max(Math.round(Number(field("steps"))), 0) || 0;
    await call(trainModel, { model, snapshot, size, steps });
    onMade();
  });
  if (value && !names.length) return (
      <p class="quiet">
        <a href="#/jobs/snapshots">{words.noSnapshot}</a>
      </p>
    );
  return (
    <form class="new-queue" aria-labelledby="make-title" onSubmit={submit}>
      <h2 id="make-title">{words.make}</h2>
      <Failure message={failure || error} />
      <label>
        {words.snapshot}
        <select name="snapshot">
          {names.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      </label>
      <label>
        {words.model}
        <input name="model" type="text" required maxLength={200} />
      </label>
      <label>
        {words.size}
        <select name="size">
          {["pico", "nano", "small"].map((size) => (
            <option key={size}>{size}</option>
          ))}
        </select>
      </label>
      <label>
        {words.stepsField}
        <input name="steps" type="number" min="0" max="1000000" defaultValue="0" />
      </label>
      <button type="submit" class="primary">
        {words.train}
      </button>
    </form>
  );
}
