// The judgements of an image as a table, of which one row is chosen.

import type { Judgement } from "../api/messages";
import { texts } from "../texts";
import { ClassMark, OutcomeMark, share } from "./parts";

const words = texts.browse.table;

interface Props {
  judgements: [number, Judgement][];
  colours: Map<string, string>;
  /** Place of the chosen judgement; -1: none. */
  chosen: number;
  onChoose: (index: number) => void;
  /** Places of those that are marked. */
  marked?: ReadonlySet<number>;
}

export function JudgementTable({ judgements, colours, chosen, onChoose, marked }: Props) {
  if (!judgements.length) return <p class="quiet">{texts.browse.noBoxes}</p>;
  return (
    <table class="judgements">
      <thead>
        <tr>
          <th scope="col">{words.class}</th>
          <th scope="col" class="number">
            {words.score}
          </th>
          <th scope="col" class="number">
            {words.yes}
          </th>
          <th scope="col">{words.outcome}</th>
        </tr>
      </thead>
      <tbody>
        {judgements.map(([index, one]) => (
          <tr key={index} aria-selected={index === chosen} onClick={() => onChoose(index)}>
            <td>
              <button type="button" class="row-button" aria-pressed={index === chosen}>
                {marked?.has(index) && <span title={texts.tryout.onlyHere}>≠ </span>}
                <ClassMark name={one.className ?? ""} colours={colours} />
              </button>
            </td>
            <td class="number">{share(one.score ?? 0)}</td>
            <td class="number">{share(one.verdict?.pYes)}</td>
            <td>
              <OutcomeMark outcome={one.outcome} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
