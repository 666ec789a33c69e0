// Guarantees of precision: what each says, whether it holds, and its history.

import { useState } from "preact/hooks";
import { call, messageOf } from "../api/connect";
import {
  certifyGuarantee,
  createGuarantee,
  getGuarantee,
  listGuarantees,
  type Guarantee,
  type GuaranteedClass,
} from "../api/messages";
import { may } from "../session/session";
import { texts } from "../texts";
import { Copied, Failure, TableHead, useLoad } from "../ui/parts";
import { moment } from "../ui/time";
import { NewGuarantee } from "./NewGuarantee";

const words = texts.guarantees;

export function GuaranteesView({ name }: { name: string }) {
  const { value, error, again } = useLoad(
    (signal) => call(listGuarantees, { pageSize: 200 }, signal),
    [],
  );
  const guarantees = value?.guarantees ?? [];
  const chosen = name || (guarantees[0]?.name ?? "");
  return (
    <>
      <h1>{words.title}</h1>
      <Failure message={error} again={again} />
      {value && !guarantees.length && <p>{words.none}</p>}
      {guarantees.length > 0 && (
        <div class="beside-list">
          <ul class="choices" aria-label={words.title}>
            {guarantees.map((one) => (
              <li key={one.name}>
                <a
                  class="card"
                  href={`#/jobs/guarantees/${encodeURIComponent(one.name ?? "")}`}
                  aria-current={one.name === chosen ? "true" : undefined}
                >
                  <strong>{one.name}</strong>
                  <State state={one.state} />
                  <span class="quiet">{one.run}</span>
                </a>
              </li>
            ))}
          </ul>
          <Details key={chosen} name={chosen} onChange={again} />
        </div>
      )}
      {may(createGuarantee) && (
        <NewGuarantee
          onMade={(made) => {
            location.hash = `#/jobs/guarantees/${encodeURIComponent(made)}`;
            again();
          }}
        />
      )}
    </>
  );
}

const MARKS: Record<string, string> = { holds: "accepted", asking: "unsure" };

function State({ state = "" }: { state: string | undefined }) {
  const word = words.states[state as keyof typeof words.states] ?? state;
  return <span class={`outcome ${MARKS[state] ?? "rejected"}`}>{word}</span>;
}

function Details({ name, onChange }: { name: string; onChange: () => void }) {
  const { value, error, again } = useLoad(
    (signal) => call(getGuarantee, { name }, signal),
    [name],
  );
  if (!value?.guarantee) return <Failure message={error} again={again} />;
  const { guarantee, classes = [], notGuaranteed = [], history = [] } = value;
  const [asked, answered] = [Number(value.asked ?? 0), Number(value.answered ?? 0)];
  return (
    <article class="panel details">
      <div class="row">
        <h2>{name}</h2>
        <State state={guarantee.state} />
      </div>
      <p>{words.terms(guarantee.precision ?? 0, guarantee.confidence ?? 0)}</p>
      <p class="row apart">
        <a href={`#/browse/${encodeURIComponent(guarantee.run ?? "")}`}>
          {words.run(guarantee.run ?? "")}
        </a>
        {asked > 0 && (
          <a href={`#/review/${encodeURIComponent(guarantee.queue ?? "")}`}>
            {words.answered(answered, asked)}
          </a>
        )}
      </p>
      {guarantee.state === "asking" && may(certifyGuarantee) && (
        <Certify
          name={name}
          onDone={() => {
            again();
            onChange();
          }}
        />
      )}
      {classes.length > 0 && <Classes classes={classes} />}
      <Checks guarantee={guarantee} />
      {notGuaranteed.length > 0 && (
        <>
          <h3>{words.notGuaranteed}</h3>
          <ul class="sentences">
            {notGuaranteed.map((one) => (
              <li key={one}>{one}</li>
            ))}
          </ul>
        </>
      )}
      <h3>{words.history}</h3>
      <ol class="history">
        {history.map((one, index) => (
          <li key={index}>
            <time dateTime={new Date((one.at ?? 0) * 1000).toISOString()}>
              {moment(one.at ?? 0)}
            </time>
            <span>
              {words.events[one.kind as keyof typeof words.events] ?? one.kind}
              {one.reason && <span class="quiet"> {one.reason}</span>}
            </span>
          </li>
        ))}
      </ol>
      <details>
        <summary>{texts.commandLine}</summary>
        <Copied title={words.show} text={words.showCommand(name)} />
      </details>
    </article>
  );
}

/** Writes the certificate once the answers are enough. */
function Certify({ name, onDone }: { name: string; onDone: () => void }) {
  const [told, setTold] = useState("");
  const certify = async () => {
    try {
      const { guarantee = {} } = await call(certifyGuarantee, { name });
      const missing = guarantee.state === "asking";
      setTold(missing ? words.missing(Number(guarantee.asked ?? 0), Number(guarantee.answered ?? 0)) : "");
      onDone();
    } catch (error) {
      setTold(messageOf(error));
    }
  };
  return (
    <div class="row">
      <button type="button" class="primary" onClick={() => void certify()}>
        {words.certify}
      </button>
      <span role="status">{told}</span>
    </div>
  );
}

/** The certificate, a row a class. */
function Classes({ classes }: { classes: GuaranteedClass[] }) {
  const figure = (value: number | undefined, digits: number) =>
    value === undefined ? texts.none : value.toFixed(digits);
  return (
    <>
      <table>
        <TableHead words={words.table} />
        <tbody>
          {classes.map((one) => (
            <tr key={one.className}>
              <td>{one.className || words.together}</td>
              <td class="number">{figure(one.threshold, 3)}</td>
              <td class="number">{figure(one.bound, 3)}</td>
              <td class="number">{Number(one.accepted ?? 0).toLocaleString("en")}</td>
              <td class="number">{words.percent(one.coverage ?? 0)}</td>
              <td class="number">{Number(one.answers ?? 0).toLocaleString("en")}</td>
              <td class="number">{Number(one.wrong ?? 0).toLocaleString("en")}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {classes.map((one) => one.reason && <p key={one.className}>{one.reason}</p>)}
    </>
  );
}

/** How the checks of running jobs stand. */
function Checks({ guarantee }: { guarantee: Guarantee }) {
  return (
    <>
      <h3>{words.checks}</h3>
      <p>{guarantee.checks || words.noChecks}</p>
      {guarantee.checksQueue && (
        <p>
          <a href={`#/review/${encodeURIComponent(guarantee.checksQueue)}`}>{words.answerChecks}</a>
        </p>
      )}
    </>
  );
}
