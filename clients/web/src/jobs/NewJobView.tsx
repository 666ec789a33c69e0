// Starts a job: over a folder that the server may read, or over files of this computer.

import { useMemo, useState } from "preact/hooks";
import { call } from "../api/connect";
import {
  createJob,
  getServerInfo,
  listGuarantees,
  uploadImage,
  type CreateJobRequest,
} from "../api/messages";
import { may } from "../session/session";
import { texts } from "../texts";
import { parsedClasses } from "../tryout/ontology";
import { dropped, Failure, ImageInput, useLoad } from "../ui/parts";
import { useSubmit } from "../ui/submit";
import { FolderPicker } from "./FolderPicker";
import { beginUpload, currentUpload, MOST_FILES } from "./upload";

const words = texts.runs.make;
/** What a message has besides its image. */
const OVERHEAD = 2 ** 20;

function proposedName(): string {
  return `job ${new Date().toISOString().slice(0, 16).replace("T", " ")}`;
}

export function NewJobView() {
  const [name, setName] = useState(proposedName);
  const [source, setSource] = useState<"folder" | "files">("folder");
  const [folder, setFolder] = useState("");
  const [files, setFiles] = useState<File[]>([]);
  const [text, setText] = useState("");
  const [guarantee, setGuarantee] = useState("");
  const info = useLoad((signal) => call(getServerInfo, {}, signal), []);
  const { classes, error } = useMemo(() => parsedClasses(text), [text]);
  const own = (info.value?.defaultOntology?.classes ?? []).map((one) => one.name ?? "");
  const ready =
    name.trim() !== "" &&
    (source === "folder" ? folder !== "" : files.length > 0) &&
    (guarantee !== "" || (!error && (classes.length > 0 || own.length > 0)));

  const { submit, busy, failure } = useSubmit(async () => {
    const request: CreateJobRequest = { name: name.trim() };
    if (guarantee) request.guarantee = guarantee;
    else if (classes.length) request.ontology = { classes };
    if (source === "folder") await call(createJob, { ...request, folder: { path: folder } });
    else {
      const most = Number(info.value?.maxMessageBytes ?? 0) || Number.POSITIVE_INFINITY;
      await beginUpload(request, files, most - OVERHEAD);
    }
    location.hash = "#/jobs";
  });
  if (!may(createJob)) return <p>{words.notAllowed}</p>;
  return (
    <form class="new-job" onSubmit={submit}>
      <h1>{words.title}</h1>
      <label>
        {words.name}
        <input
          type="text"
          value={name}
          required
          maxLength={200}
          onInput={(event) => setName(event.currentTarget.value)}
        />
      </label>
      <fieldset>
        <legend>{words.source}</legend>
        <div class="row">
          {(["folder", "files"] as const).map((one) => (
            <label class="check" key={one}>
              <input
                type="radio"
                name="source"
                checked={source === one}
                disabled={one === "files" && !may(uploadImage)}
                onChange={() => setSource(one)}
              />
              {words.sources[one]}
            </label>
          ))}
        </div>
        {source === "folder" ? (
          <FolderPicker path={folder} onChoose={setFolder} />
        ) : (
          <Files files={files} onChange={setFiles} />
        )}
      </fieldset>
      <Guarantees value={guarantee} onChange={setGuarantee} />
      {guarantee ? (
        <p class="quiet">{words.guaranteed}</p>
      ) : (
        <>
          <label>
            {texts.tryout.classes}
            <textarea
              rows={5}
              spellcheck={false}
              placeholder={own.length ? words.own(own) : texts.tryout.placeholder}
              value={text}
              onInput={(event) => setText(event.currentTarget.value)}
            />
          </label>
          <p class="quiet small">{texts.tryout.classesHelp}</p>
        </>
      )}
      <Failure message={error || failure || info.error} />
      <div class="row">
        <button
          type="submit"
          class="primary"
          disabled={!ready || busy || (source === "files" && currentUpload()?.running)}
        >
          {words.start}
        </button>
        <a class="button" href="#/jobs">
          {texts.cancel}
        </a>
      </div>
    </form>
  );
}

/** Under which guarantee boxes are accepted, where there is one that holds. */
function Guarantees(props: { value: string; onChange: (name: string) => void }) {
  const { value } = useLoad((signal) => call(listGuarantees, { pageSize: 200 }, signal), []);
  const holding = (value?.guarantees ?? []).filter((one) => one.state === "holds");
  if (!holding.length) return null;
  return (
    <label>
      {words.guarantee}
      <select
        value={props.value}
        onChange={(event) => props.onChange(event.currentTarget.value)}
      >
        <option value="">{words.noGuarantee}</option>
        {holding.map((one) => (
          <option key={one.name} value={one.name}>
            {one.name}
          </option>
        ))}
      </select>
    </label>
  );
}

/** Files of this computer, dropped or chosen. */
function Files(props: { files: File[]; onChange: (files: File[]) => void }) {
  const add = (more: Iterable<File>) => {
    const found = [...more].filter((one) => one.type.startsWith("image/"));
    props.onChange([...props.files, ...found].slice(0, MOST_FILES));
  };
  const bytes = props.files.reduce((sum, one) => sum + one.size, 0);
  return (
    <>
      <label
        class="drop"
        {...dropped(add)}
      >
        <span>{words.drop}</span>
        <ImageInput onFiles={add} />
      </label>
      {props.files.length > 0 && (
        <p class="row">
          <span>{words.chosen(props.files.length, bytes)}</span>
          <button type="button" class="plain" onClick={() => props.onChange([])}>
            {words.forget}
          </button>
        </p>
      )}
      {props.files.length >= MOST_FILES && <p class="quiet">{words.most(MOST_FILES)}</p>}
    </>
  );
}
