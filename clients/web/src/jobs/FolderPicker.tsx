// Chooses a folder of the server, among those that it may read.

import { useEffect, useState } from "preact/hooks";
import { call } from "../api/connect";
import { listFolders } from "../api/messages";
import { texts } from "../texts";
import { Failure, useLoad } from "../ui/parts";

const words = texts.runs.folder;

interface Props {
  path: string;
  onChoose: (path: string) => void;
}

/** The last part of a path. */
function nameOf(path: string): string {
  return path.split("/").filter(Boolean).at(-1) ?? path;
}

export function FolderPicker({ path, onChoose }: Props) {
  const [typed, setTyped] = useState(path);
  useEffect(() => setTyped(path), [path]);
  const roots = useLoad((signal) => call(listFolders, {}, signal), []);
  const inside = useLoad(
    async (signal) => (path ? call(listFolders, { path }, signal) : null),
    [path],
  );
  const known = roots.value?.folders ?? [];
  const root = known.find((one) => path === one || path.startsWith(`${one}/`));
  const shown = path ? inside.value : roots.value;
  const folders = shown?.folders ?? [];
  const up = root && path !== root ? path.slice(0, path.lastIndexOf("/")) : "";
  return (
    <div class="folders">
      <label>
        {words.path}
        <input
          type="text"
          value={typed}
          spellcheck={false}
          maxLength={4096}
          placeholder={known[0] ?? "/photos"}
          onInput={(event) => setTyped(event.currentTarget.value)}
          onChange={(event) => onChoose(event.currentTarget.value.trim())}
        />
      </label>
      <Failure message={(path && inside.error) || roots.error} />
      {roots.value && !known.length && <p class="quiet">{words.none}</p>}
      {path && !inside.error && (
        <p class="row">
          <button type="button" onClick={() => onChoose(up)}>
            {up ? words.up : words.all}
          </button>
          {inside.value && <span>{words.images(inside.value.images ?? 0)}</span>}
        </p>
      )}
      {!(path && inside.error) && folders.length > 0 && (
        <ul class="folder-list" aria-label={words.label}>
          {folders.map((one) => (
            <li key={one}>
              <button type="button" class="plain" title={one} onClick={() => onChoose(one)}>
                {path ? nameOf(one) : one}
              </button>
            </li>
          ))}
        </ul>
      )}
      {shown?.more && <p class="quiet">{words.more}</p>}
    </div>
  );
}
