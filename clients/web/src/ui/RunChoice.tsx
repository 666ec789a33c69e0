// The run that a form is about.

import { useEffect } from "preact/hooks";
import { call } from "../api/connect";
import { listRuns } from "../api/messages";
import { texts } from "../texts";
import { usefulFirst } from "../tryout/trial";
import { useLoad } from "./parts";

/** The names of the runs, those that were labelled for their labels first. */
export function useRunNames(): string[] {
  const { value } = useLoad((signal) => call(listRuns, { pageSize: 200 }, signal), []);
  return usefulFirst(value?.runs ?? []).map((one) => one.name ?? "");
}

interface Props {
  names: readonly string[];
  /** Called with the first one, too. */
  onChoose?: (name: string) => void;
}

/** A field "run". */
export function RunChoice({ names, onChoose = () => undefined }: Props) {
  const [first = ""] = names;
  useEffect(() => onChoose(first), [first]);
  return (
    <label>
      {texts.browse.run}
      <select name="run" onChange={(event) => onChoose(event.currentTarget.value)}>
        {names.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}
