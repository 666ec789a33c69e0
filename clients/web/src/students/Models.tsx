// The versions of the models: which one devices fetch, and how good each is.

import { useState } from "preact/hooks";
import { call, follow, imageUrl } from "../api/connect";
import {
  downloadModel,
  getModel,
  listModels,
  promoteModel,
  rollbackModel,
  type ModelComparison,
  type ModelVersion,
} from "../api/messages";
import { may } from "../session/session";
import { texts } from "../texts";
import { Failure, share, TableHead, useLoad } from "../ui/parts";
import { StoredImage } from "../ui/StoredImage";
import { moment } from "../ui/time";
import { Curve } from "./Curve";
import { metricOf, readReport, type ClassFigures, type WrongImage } from "./report";

const words = texts.students;
const HTML_REPORT = "report.html";
/** Bytes of a report that is saved; its own limit is far below. */
const MOST_BYTES = 64 * 2 ** 20;
const CLASSES = 50;
const THUMBNAIL = 512;

export function Models({ turn }: { turn: number }) {
  const [changed, setChanged] = useState(0);
  const [failure, setFailure] = useState("");
  const [told, setTold] = useState("");
  const { value, error, again } = useLoad(
    (signal) => call(listModels, { pageSize: 200 }, signal),
    [turn, changed],
  );
  const models = value?.models ?? [];
  const names = [...new Set(models.map((one) => one.name ?? ""))];
  const act = (made: Promise<string>) => {
    setTold(words.comparing);
    setFailure("");
    made
      .then(setTold)
      .catch((cause: unknown) => {
        setTold("");
        setFailure(cause instanceof Error ? cause.message : String(cause));
      })
      .finally(() => setChanged((was) => was + 1));
  };
  return (
    <>
      <Failure message={error} again={again} />
      <Failure message={failure} />
      <p role="status" class={told ? "" : "unseen"}>
        {told}
      </p>
      {value && !models.length && <p>{words.noModel}</p>}
      {names.map((name) => (
        <section key={name} class="model" aria-label={name}>
          <h2>{name}</h2>
          <ul class="jobs">
            {models
              .filter((one) => one.name === name)
              .map((one) => (
                <Version key={one.version} model={one} onAct={act} />
              ))}
          </ul>
        </section>
      ))}
    </>
  );
}

interface VersionProps {
  model: ModelVersion;
  onAct: (made: Promise<string>) => void;
}

function comparison(found: ModelComparison | undefined): string {
  return found
    ? words.compared(found.candidateMap50 ?? 0, found.currentMap50 ?? 0, found.images ?? 0)
    : "";
}

function Version({ model, onAct }: VersionProps) {
  const { name = "", version = 0, current = false } = model;
  const map50 = metricOf(model.manifestJson ?? "", "map50");
  const [open, setOpen] = useState(false);
  const promote = async () => {
    const answer = await call(promoteModel, { name, version });
    return `${words.promoted(name, version)} ${comparison(answer.comparison)}`;
  };
  const rollBack = async () => {
    const { model: now } = await call(rollbackModel, { name, fromVersion: version });
    return words.promoted(name, now?.version ?? 0);
  };
  return (
    <li class="card">
      <div class="row">
        <strong>{words.versionNumber(version)}</strong>
        {current && <span class="outcome accepted">{words.current}</span>}
        {map50 !== null && <span>{words.map50(map50)}</span>}
        <span class="quiet">{moment(model.createdAt ?? 0)}</span>
        <span class="grow" />
        {!current && may(promoteModel) && (
          <button type="button" onClick={() => onAct(promote())}>
            {words.promote}
          </button>
        )}
        {current && version > 1 && may(rollbackModel) && (
          <button type="button" onClick={() => onAct(rollBack())}>
            {words.rollBack}
          </button>
        )}
      </div>
      {model.promotion && <p class="quiet">{model.promotion}</p>}
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>{words.report}</summary>
        {open && <Report model={model} />}
      </details>
    </li>
  );
}

function Report({ model }: { model: ModelVersion }) {
  const { name = "", version = 0 } = model;
  const [failure, setFailure] = useState("");
  const { value, error } = useLoad(
    (signal) => call(getModel, { name, version, report: true }, signal),
    [name, version],
  );
  if (!value) return <Failure message={error} />;
  const report = readReport(value.model?.reportJson ?? "");
  const save = () => {
    saveReport(name, version).catch((cause: unknown) =>
      setFailure(cause instanceof Error ? cause.message : String(cause)),
    );
  };
  return (
    <div class="report">
      {!report && <p>{words.noReport}</p>}
      {report && report.loss.length + report.map50.length > 1 && (
        <div class="curves">
          <Curve title={words.loss} points={report.loss} />
          <Curve title={words.heldOut} points={report.map50} share />
        </div>
      )}
      {report && <ClassTable classes={report.classes.slice(0, CLASSES)} />}
      {report && report.worst.length > 0 && <Worst images={report.worst} />}
      {model.files?.[HTML_REPORT] && (
        <button type="button" onClick={save}>
          {words.save}
        </button>
      )}
      <Failure message={failure} />
    </div>
  );
}

/** Classes on the held-out images, the worst first. */
function ClassTable({ classes }: { classes: ClassFigures[] }) {
  return (
    <table>
      <TableHead words={words.table} />
      <tbody>
        {classes.map((one) => (
          <tr key={one.name}>
            <td>{one.name}</td>
            <td class="number">{share(one.map50)}</td>
            <td class="number">{share(one.precision)}</td>
            <td class="number">{share(one.recall)}</td>
            <td class="number">{one.missed.toLocaleString("en")}</td>
            <td class="number">{one.wrong.toLocaleString("en")}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The held-out images with most mistakes, with these over them. */
function Worst({ images }: { images: WrongImage[] }) {
  return (
    <>
      <h3>{words.worst}</h3>
      <p class="quiet">{words.worstWhy}</p>
      <ul class="worst">
        {images.map((one, index) => (
          <li key={index}>
            <span class="wrong-image">
              {one.sha256 && <StoredImage address={imageUrl(one.sha256, THUMBNAIL)} />}
              <svg viewBox={`0 0 ${one.width} ${one.height}`} aria-hidden="true">
                {one.boxes.map(({ box: [x1, y1, x2, y2], missed }, place) => (
                  <rect
                    key={place}
                    class={missed ? "missed" : "false"}
                    x={x1}
                    y={y1}
                    width={Math.max(x2 - x1, 0)}
                    height={Math.max(y2 - y1, 0)}
                  />
                ))}
              </svg>
            </span>
            <span class="name">{one.name}</span>
            <span class="quiet">{mistakesOf(one)}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

function mistakesOf(one: WrongImage): string {
  const named = (missed: boolean) => [
    ...new Set(one.boxes.filter((box) => box.missed === missed).map((box) => box.name)),
  ];
  return words.mistakes(one.mistakes, named(true), named(false));
}

/** Save the report that was made with a version; it is a page with a script, and never opened here. */
async function saveReport(name: string, version: number): Promise<void> {
  const parts: BlobPart[] = [];
  let size = 0;
  for await (const { data = "" } of follow(downloadModel, { name, version, file: HTML_REPORT })) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    size += bytes.length;
    if (size > MOST_BYTES) throw new Error(texts.errors.tooLarge);
    parts.push(bytes);
  }
  const address = URL.createObjectURL(new Blob(parts, { type: "text/html" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = `${name}-${version}-report.html`;
  link.click();
  URL.revokeObjectURL(address);
}
