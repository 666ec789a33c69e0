// Snapshots: labels that are frozen for trainings, and a form for a new one.

import { useState } from "preact/hooks";
import { call } from "../api/connect";
import {
  createSnapshot,
  listGuarantees,
  listSnapshots,
  type Snapshot,
  type SnapshotQuery,
} from "../api/messages";
import { may } from "../session/session";
import { texts } from "../texts";
import { Copied, Failure, useLoad } from "../ui/parts";
import { RunChoice, useRunNames } from "../ui/RunChoice";
import { NAME_PATTERN, useSubmit } from "../ui/submit";
import { moment } from "../ui/time";

const words = texts.snapshots;

export function SnapshotsView() {
  const { value, error, again } = useLoad(
    (signal) => call(listSnapshots, { pageSize: 200 }, signal),
    [],
  );
  const snapshots = value?.snapshots ?? [];
  return (
    <>
      <h1>{words.title}</h1>
      <p class="quiet">{words.intro}</p>
      <Failure message={error} again={again} />
      {value && !snapshots.length && <p>{words.none}</p>}
      <ul class="jobs" aria-label={words.title}>
        {snapshots.map((one) => (
          <li key={one.name} class="card">
            <Frozen snapshot={one} />
          </li>
        ))}
      </ul>
      {may(createSnapshot) && <NewSnapshot onMade={again} />}
    </>
  );
}

/** Labels of the statistics, which an older server may not have. */
function labelsOf(snapshot: Snapshot): number | undefined {
  try {
    const { labels } = JSON.parse(snapshot.statisticsJson ?? "") as { labels?: unknown };
    return typeof labels === "number" ? labels : undefined;
  } catch {
    return undefined;
  }
}

function Frozen({ snapshot }: { snapshot: Snapshot }) {
  const { name = "", classes = [], splits = {}, query = {}, createdAt = 0 } = snapshot;
  const labels = labelsOf(snapshot);
  const parts = Object.entries(splits).map(([split, images]) => [split, Number(images)] as const);
  return (
    <>
      <div class="row">
        <strong>{name}</strong>
        <span class="quiet">{moment(createdAt)}</span>
      </div>
      <div class="row">
        {parts
          .sort(([, one], [, other]) => other - one)
          .map(([split, images]) => (
            <span key={split}>{words.split(split, images)}</span>
          ))}
        {labels !== undefined && <span>{words.labels(labels)}</span>}
      </div>
      <span class="quiet">{classes.join(", ")}</span>
      <span class="quiet">
        {query.guarantee ? texts.runs.under(query.guarantee) : words.runs(query.runs ?? [])}
      </span>
      <details>
        <summary>{texts.commandLine}</summary>
        <Copied title={words.show} text={words.showCommand(name)} />
      </details>
    </>
  );
}

function NewSnapshot({ onMade }: { onMade: () => void }) {
  const [guarantee, setGuarantee] = useState("");
  const names = useRunNames();
  const { value } = useLoad((signal) => call(listGuarantees, { pageSize: 200 }, signal), []);
  const holding = (value?.guarantees ?? []).filter((one) => one.state === "holds");
  const { submit, busy, failure } = useSubmit(async (field) => {
    const query: SnapshotQuery = guarantee
      ? { guarantee }
      : { runs: [field("run")], minProbability: Number(field("probability")) };
    query.hardNegatives = field("negatives") !== "";
    await call(createSnapshot, { name: field("name"), query });
    onMade();
  });
  if (!names.length) return null;
  return (
    <form class="new-queue" aria-labelledby="make-title" onSubmit={submit}>
      <h2 id="make-title">{words.make}</h2>
      <Failure message={failure} />
      <label>
        {words.name}
        <input
          name="name"
          type="text"
          required
          maxLength={200}
          pattern={NAME_PATTERN}
        />
      </label>
      {holding.length > 0 && (
        <label>
          {words.guarantee}
          <select
            value={guarantee}
            onChange={(event) => setGuarantee(event.currentTarget.value)}
          >
            <option value="">{texts.runs.make.noGuarantee}</option>
            {holding.map((one) => (
              <option key={one.name}>{one.name}</option>
            ))}
          </select>
        </label>
      )}
      {!guarantee && (
        <>
          <RunChoice names={names} />
          <label>
            {words.probability}
            <input name="probability" type="number" min="0" max="1" step="any" defaultValue="0" />
          </label>
        </>
      )}
      <label class="check">
        <input name="negatives" type="checkbox" />
        {words.negatives}
      </label>
      <button type="submit" class="primary" disabled={busy}>
        {words.create}
      </button>
    </form>
  );
}
