// One judgement in words: question, answer, reason, and what it rests on.

import type { ComponentChildren } from "preact";
import type {
  ClassEvidence,
  ExplainLabelResponse,
  Judgement,
  LabelUncertainty,
  Review,
} from "../api/messages";
import { texts } from "../texts";
import { ClassMark, OutcomeMark, share } from "./parts";

const words = texts.browse;

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** What the judgement itself says. */
export function JudgementFacts({ one, labelId }: { one: Judgement; labelId?: string }) {
  const { verdict } = one;
  return (
    <dl class="fact-list">
      <Fact name={words.outcome}>
        <OutcomeMark outcome={one.outcome} /> · {words.probability} {share(one.probability ?? 0)}
      </Fact>
      <Fact name={words.reason}>{one.reason || texts.none}</Fact>
      <Fact name={words.question}>{verdict?.question || words.noVerdict}</Fact>
      {verdict && (
        <Fact name={words.answer}>
          {verdict.error || `“${verdict.rawAnswer ?? ""}”`} · {words.table.yes}{" "}
          {share(verdict.pYes)}
        </Fact>
      )}
      <Fact name={words.table.score}>{share(one.score ?? 0)}</Fact>
      {verdict?.model && <Fact name={words.model}>{verdict.model}</Fact>}
      {labelId && <Fact name={words.label}>{labelId}</Fact>}
    </dl>
  );
}

function Classes({ classes, colours }: { classes: ClassEvidence[]; colours: Map<string, string> }) {
  if (classes.length < 2) return null;
  return (
    <>
      <h3>{words.evidence}</h3>
      <table>
        <thead>
          <tr>
            <th scope="col">{words.table.class}</th>
            <th scope="col" class="number">
              {words.table.score}
            </th>
            <th scope="col" class="number">
              {words.table.yes}
            </th>
          </tr>
        </thead>
        <tbody>
          {classes.map((one) => (
            <tr key={one.spec?.name}>
              <td>
                <ClassMark name={one.spec?.name ?? ""} colours={colours} />
              </td>
              <td class="number">{share(one.score ?? 0)}</td>
              <td class="number">{share(one.verdict?.pYes)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

function Reviews({ reviews }: { reviews: Review[] }) {
  if (!reviews.length) return null;
  return (
    <>
      <h3>{words.reviews}</h3>
      <ul class="plain-list">
        {reviews.map((one) => (
          <li key={one.id} class={one.undoneBy ? "quiet" : ""}>
            {one.person}: {word(one.answer, "REVIEW_ANSWER_")}
            {one.reason && one.reason !== "WRONG_REASON_UNSPECIFIED"
              ? ` (${word(one.reason, "WRONG_REASON_")})`
              : ""}
            {one.newClass ? ` → ${one.newClass}` : ""}
            {one.undoneBy ? ` · ${words.undone}` : ""}
          </li>
        ))}
      </ul>
    </>
  );
}

/** A name of the wire as a word. */
function word(name: string | undefined, prefix: string): string {
  return (name ?? "").replace(prefix, "").replaceAll("_", " ").toLowerCase();
}

function Uncertainties({ found }: { found: LabelUncertainty[] }) {
  if (!found.length) return null;
  return (
    <>
      <h3>{words.uncertainty}</h3>
      <ul class="plain-list">
        {found.map((one) => (
          <li key={one.method}>
            {one.method} {share(one.value ?? 0)}: {one.reason}
          </li>
        ))}
      </ul>
    </>
  );
}

/** Everything that a label rests on. */
export function Explanation(props: {
  one: Judgement;
  labelId: string;
  more: ExplainLabelResponse | null;
  colours: Map<string, string>;
}) {
  const { more, colours } = props;
  return (
    <>
      <JudgementFacts one={props.one} labelId={props.labelId} />
      {more && (
        <>
          <Classes classes={more.classes ?? []} colours={colours} />
          <Uncertainties found={more.uncertainties ?? []} />
          <Reviews reviews={(more.reviews ?? []).filter((one) => !one.undoes)} />
        </>
      )}
    </>
  );
}
