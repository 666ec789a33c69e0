// The runs of the server, and the images of one of them as a grid or one at a time.

import { useEffect, useMemo, useReducer, useState } from "preact/hooks";
import { call } from "../api/connect";
import { getRun, listRuns, type Run, type RunImage } from "../api/messages";
import { classColours } from "../canvas/colours";
import { texts } from "../texts";
import { Failure, useLoad } from "../ui/parts";
import { moment } from "../ui/time";
import { CompareChoice } from "./CompareView";
import { Filters } from "./Filters";
import { ImageGrid } from "./ImageGrid";
import { ImageView } from "./ImageView";
import { ImageList, type Query } from "./list";

const words = texts.browse;

/** All runs, as cards. */
export function RunList() {
  const { value, error, again } = useLoad(
    (signal) => call(listRuns, { pageSize: 200 }, signal),
    [],
  );
  const runs = value?.runs ?? [];
  return (
    <div class="page">
      <h1>{words.title}</h1>
      <Failure message={error} again={again} />
      {value && !runs.length && <p>{words.none}</p>}
      <ul class="cards">
        {runs.map((run) => (
          <RunCard key={run.name} run={run} />
        ))}
      </ul>
    </div>
  );
}

function RunCard({ run }: { run: Run }) {
  return (
    <li>
      <a class="card" href={`#/browse/${encodeURIComponent(run.name ?? "")}`}>
        <strong>{run.name}</strong>
        <span>{words.images(Number(run.images ?? 0))}</span>
        <span class="quiet">{(run.classes ?? []).join(", ")}</span>
        <span class="quiet">{moment(run.createdAt ?? 0)}</span>
        {run.guarantee && <span class="quiet">{words.guarantee(run.guarantee)}</span>}
      </a>
    </li>
  );
}

/** The images of a run. `cursor`: of the image that is shown alone; empty: the grid. */
export function BrowseView({ run, cursor }: { run: string; cursor: string }) {
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  const [query, setQuery] = useState<Query>(() => firstQuery(run));
  const [at, setAt] = useState(0);
  const list = useMemo(() => new ImageList(query), [query]);
  useEffect(() => {
    list.onChange = () => update(0);
    return () => list.close();
  }, [list]);
  useEffect(() => {
    if (query.run !== run) change({ ...firstQuery(run) });
  }, [run]);
  // Asked for at once, as thumbnails wait for the colours of the classes.
  const early = useMemo(() => call(getRun, { run }), [run]);
  const about = useLoad(() => early, [early]);
  const classes = about.value?.run?.classes ?? [];
  const key = classes.join("\u0000");
  const colours = useMemo(() => classColours(classes), [key]);
  const palette = useMemo(() => {
    const known = about.value || about.error;
    return known ? classes.map((name) => colours.get(name) ?? "") : null;
  }, [colours, about.value, about.error]);

  const change = (changed: Partial<Query>) => {
    setAt(0);
    setQuery((was) => ({ ...was, ...changed }));
  };
  const open = (image: RunImage, index: number) => {
    setAt(index);
    location.hash = address(run, image.cursor);
  };
  const stepTo = async (by: number) => {
    const next = at + by;
    if (next < 0 || next >= (list.total ?? 0)) return;
    list.want(next, next + 1);
    const image = list.get(next);
    if (!image) return;
    setAt(next);
    history.replaceState(null, "", address(run, image.cursor));
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  };
  // An address of one image that was opened alone: its list is fetched for the steps from it.
  useEffect(() => {
    if (cursor && list.total === null) list.want(0, 1);
  }, [list, cursor]);
  useEffect(() => {
    const place = cursor ? list.find(cursor) : -1;
    if (place >= 0 && place !== at) setAt(place);
    if (cursor) list.want(at, Math.min(at + 2, list.total ?? 1));
  }, [cursor, list.total, at]);

  const failure = <Failure message={list.error || about.error} again={() => list.again()} />;
  if (cursor) {
    return (
      <>
        {failure}
        <ImageView
          run={run}
          cursor={cursor}
          colours={colours}
          onStep={(by) => void stepTo(by)}
          onBack={() => (location.hash = address(run))}
        />
      </>
    );
  }
  return (
    <div class="browse">
      <header class="status">
        <h1>{run}</h1>
        <span role="status">
          {list.total === null ? texts.loading : words.matching(list.total, list.ofRun)}
        </span>
        {about.value?.run?.guarantee && (
          <span>{words.guarantee(about.value.run.guarantee)}</span>
        )}
        <span class="grow" />
        <CompareChoice run={run} />
        <a href="#/browse">{words.title}</a>
      </header>
      <Filters
        query={query}
        classes={classes}
        images={list.ofRun}
        guaranteed={Boolean(about.value?.run?.guarantee)}
        onChange={change}
      />
      {failure}
      {list.total === 0 && <p class="quiet">{words.nothing}</p>}
      <ImageGrid list={list} palette={palette} at={at} onMove={setAt} onOpen={open} />
    </div>
  );
}

function firstQuery(run: string): Query {
  return { run, filter: {}, order: "RUN_IMAGE_ORDER_DECIDED", reverse: false };
}

function address(run: string, cursor?: string): string {
  const at = `#/browse/${encodeURIComponent(run)}`;
  return cursor ? `${at}/${cursor}` : at;
}
