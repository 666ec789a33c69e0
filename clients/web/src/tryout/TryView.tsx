// Drop images, type classes, look at what both stages say, and turn the thresholds.

import { useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { call, originalBlob } from "../api/connect";
import { listRunImages, listRuns, type ClassSpec } from "../api/messages";
import { classColours } from "../canvas/colours";
import { texts } from "../texts";
import { BoxedImage } from "../ui/BoxedImage";
import { JudgementFacts } from "../ui/Explanation";
import { JudgementTable } from "../ui/JudgementTable";
import { step, useKeys } from "../ui/keys";
import { Failure, useLoad } from "../ui/parts";
import { BadLine, classesOfText, DEFAULTS, yamlOf, type Thresholds } from "./ontology";
import { Sliders } from "./Sliders";
import { Trial, triedImage, usefulFirst, type TriedImage } from "./trial";
import { UseDialog } from "./UseDialog";

const words = texts.tryout;
const MOST_IMAGES = 24;
const TAKEN = 6;

/** What was typed and dropped stays while another view is looked at. */
const kept = {
  text: "",
  images: [] as TriedImage[],
  trial: null as Trial | null,
  thresholds: new Map<string, Thresholds>([["", DEFAULTS]]),
};

function parsed(text: string): { classes: ClassSpec[]; error: string } {
  try {
    return { classes: classesOfText(text), error: "" };
  } catch (error) {
    if (error instanceof BadLine) return { classes: [], error: error.message };
    throw error;
  }
}

export function TryView() {
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  const [text, setText] = useState(kept.text);
  const [images, setImages] = useState(kept.images);
  const [thresholds, setThresholds] = useState(kept.thresholds);
  const [at, setAt] = useState(0);
  const [chosen, setChosen] = useState(-1);
  const [rejected, setRejected] = useState(false);
  const dialog = useRef<HTMLDialogElement>(null);
  const { trial } = kept;
  Object.assign(kept, { text, images, thresholds });
  const { classes, error } = useMemo(() => parsed(text), [text]);
  const shownClasses = trial?.classes ?? classes;
  const names = shownClasses.map((one) => one.name ?? "");
  const colours = useMemo(() => classColours(names), [names.join("\u0000")]);

  useEffect(() => trial?.decide(thresholds), [thresholds]);
  useEffect(() => setChosen(-1), [at]);
  const add = (files: Iterable<File>) => {
    const fresh = [...files].map((file) => triedImage(file, file.name));
    setImages((was) => [...was, ...fresh].slice(0, MOST_IMAGES));
  };
  const run = () => {
    if (!images.length || !classes.length) return;
    trial?.stop();
    kept.trial = new Trial(images, classes, thresholds, () => update(0));
    void kept.trial.start();
    setChosen(-1);
    update(0);
  };
  const image = images[Math.min(at, images.length - 1)];
  const judgements = useMemo(
    () =>
      [...(image?.judgements ?? []).entries()].filter(
        ([, one]) => !one.wholeImage && (rejected || one.outcome !== "OUTCOME_REJECT"),
      ),
    [image?.judgements, rejected],
  );
  const one = image?.judgements[chosen];
  useKeys((key) => {
    const way = step(key);
    if (way && images.length) setAt(Math.min(Math.max(at + way[0], 0), images.length - 1));
    else if (key === "R") setRejected(!rejected);
    else return false;
    return Boolean(way?.[0]) || key === "R";
  });

  const done = images.filter((each) => each.state === "done").length;
  return (
    <div
      class="tryout"
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        add(event.dataTransfer?.files ?? []);
      }}
    >
      <section class="panel" aria-label={words.title}>
        <h1 class="unseen">{words.title}</h1>
        <Sources onFiles={add} onTaken={(fresh) => setImages([...images, ...fresh])} />
        <label>
          {words.classes}
          <textarea
            rows={5}
            spellcheck={false}
            placeholder={words.placeholder}
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>
        <p class="quiet small">{words.classesHelp}</p>
        <Failure message={error} />
        <div class="row">
          <button
            type="button"
            class="primary"
            onClick={run}
            disabled={!images.length || !classes.length || trial?.running}
          >
            {words.run}
          </button>
          {trial?.running && (
            <>
              <button type="button" onClick={() => trial.stop()}>
                {words.stop}
              </button>
              <span role="status">{words.running(done, images.length)}</span>
            </>
          )}
        </div>
        <Sliders classes={names} thresholds={thresholds} onChange={setThresholds} />
        <button
          type="button"
          onClick={() => dialog.current?.showModal()}
          disabled={!shownClasses.length}
        >
          {words.use}
        </button>
        <UseDialog
          hold={dialog}
          yaml={yamlOf(shownClasses, (name) => thresholds.get(name) ?? thresholds.get("")!)}
        />
      </section>
      <section class="tried" aria-label={words.images}>
        {image ? (
          <>
            <BoxedImage
              source={image.bytes}
              name={image.name}
              width={image.labelled?.width ?? 0}
              height={image.labelled?.height ?? 0}
              judgements={judgements}
              colours={colours}
              chosen={chosen}
              onChoose={setChosen}
            />
            <Failure message={image.failure} />
          </>
        ) : (
          <div class="stage">
            <p class="waiting">{words.noImages}</p>
          </div>
        )}
        <Strip images={images} at={at} onChoose={setAt} onRemove={(index) => remove(index)} />
      </section>
      <aside class="panel" aria-label={texts.browse.boxes}>
        <div class="row">
          <h2>{texts.browse.boxes}</h2>
          <span class="grow" />
          <label class="check">
            <input
              type="checkbox"
              checked={rejected}
              onChange={(event) => setRejected(event.currentTarget.checked)}
            />
            {texts.browse.rejected} <kbd aria-hidden="true">R</kbd>
          </label>
        </div>
        {image?.state === "done" && (
          <JudgementTable
            judgements={judgements}
            colours={colours}
            chosen={chosen}
            onChoose={setChosen}
          />
        )}
        {one && <JudgementFacts one={one} />}
      </aside>
    </div>
  );

  function remove(index: number): void {
    setImages(images.filter((_, place) => place !== index));
    setAt(Math.max(Math.min(at, images.length - 2), 0));
  }
}

/** Files from this computer, or images of a run. */
function Sources(props: {
  onFiles: (files: Iterable<File>) => void;
  onTaken: (images: TriedImage[]) => void;
}) {
  const [failure, setFailure] = useState("");
  const run = useRef<HTMLSelectElement>(null);
  const runs = useLoad((signal) => call(listRuns, { pageSize: 50 }, signal), []);
  const known = usefulFirst(runs.value?.runs ?? []);
  const take = async () => {
    const found = known.find((one) => one.name === run.current?.value);
    if (!found) return;
    const room = Math.max(Number(found.images ?? 0) - TAKEN, 0);
    const offset = String(Math.floor(Math.random() * (room + 1)));
    try {
      const request = { run: found.name ?? "", offset, pageSize: TAKEN };
      const { images = [] } = await call(listRunImages, request);
      const blobs = await Promise.all(images.map((one) => originalBlob(one.sha256 ?? "")));
      props.onTaken(blobs.map((blob, index) => triedImage(blob, images[index]?.name ?? "")));
      setFailure("");
    } catch (error) {
      setFailure(error instanceof Error ? error.message : String(error));
    }
  };
  return (
    <>
      <label class="drop">
        <span>{words.drop}</span>
        <input
          type="file"
          accept="image/*"
          multiple
          onChange={(event) => {
            props.onFiles(event.currentTarget.files ?? []);
            event.currentTarget.value = "";
          }}
        />
      </label>
      {known.length > 0 && (
        <div class="take">
          <label>
            {words.fromRun}
            <select ref={run}>
              {known.map((one) => (
                <option key={one.name}>{one.name}</option>
              ))}
            </select>
          </label>
          <button type="button" onClick={() => void take()}>
            {words.take}
          </button>
        </div>
      )}
      <Failure message={failure} />
    </>
  );
}

/** The images that are tried, small. */
function Strip(props: {
  images: TriedImage[];
  at: number;
  onChoose: (index: number) => void;
  onRemove: (index: number) => void;
}) {
  return (
    <ul class="strip">
      {props.images.map((image, index) => (
        <li key={image.id}>
          <button
            type="button"
            class="tile"
            title={image.name}
            aria-label={image.name}
            aria-pressed={index === props.at}
            onClick={() => props.onChoose(index)}
          >
            <Thumbnail bytes={image.bytes} />
          </button>
          <span class="under">
            <span class={image.state === "failed" ? "outcome rejected" : "quiet"}>
              {stateOf(image)}
            </span>
            <button
              type="button"
              class="plain"
              aria-label={words.remove(image.name)}
              onClick={() => props.onRemove(index)}
            >
              ×
            </button>
          </span>
        </li>
      ))}
    </ul>
  );
}

function stateOf(image: TriedImage): string {
  if (image.state !== "done") return words.states[image.state];
  const accepted = image.judgements.filter((one) => one.outcome === "OUTCOME_ACCEPT").length;
  const unsure = image.judgements.filter((one) => one.outcome === "OUTCOME_UNSURE").length;
  return texts.browse.counts(accepted, unsure);
}

function Thumbnail({ bytes }: { bytes: Blob }) {
  const address = useMemo(() => URL.createObjectURL(bytes), [bytes]);
  useEffect(() => () => URL.revokeObjectURL(address), [address]);
  return <img src={address} alt="" draggable={false} />;
}
