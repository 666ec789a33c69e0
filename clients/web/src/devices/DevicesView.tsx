// Captured streams: what devices sent, and the last frame of each.

import { call, imageUrl } from "../api/connect";
import { listStreams, type CapturedStream } from "../api/messages";
import { texts } from "../texts";
import { Failure, useLoad } from "../ui/parts";
import { StoredImage } from "../ui/StoredImage";
import { ago } from "../ui/time";

const words = texts.devices;
const FRAME = 512;

export function DevicesView() {
  const { value, error, again } = useLoad(
    (signal) => call(listStreams, { pageSize: 200 }, signal),
    [],
  );
  const streams = value?.streams ?? [];
  return (
    <>
      <div class="row">
        <h1>{words.title}</h1>
        <span class="grow" />
        <button type="button" onClick={again}>
          {words.again}
        </button>
      </div>
      <p class="quiet">{words.intro}</p>
      <Failure message={error} />
      {value && !streams.length && <p>{words.none}</p>}
      <ul class="cards">
        {streams.map((one) => (
          <li key={one.name} class="card">
            <Stream stream={one} />
          </li>
        ))}
      </ul>
    </>
  );
}

function Stream({ stream }: { stream: CapturedStream }) {
  const { name = "", lastSha256 = "", lastName = "", lastAt = 0 } = stream;
  const [frames, labelled, failed] = [stream.frames, stream.labelled, stream.failed].map((one) =>
    Number(one ?? 0),
  ) as [number, number, number];
  return (
    <>
      <div class="last-frame">
        {lastSha256 ? (
          <StoredImage address={imageUrl(lastSha256, FRAME)} alt={words.last(name)} />
        ) : (
          <span class="quiet">{words.noFrame}</span>
        )}
      </div>
      <div class="row">
        <strong>{name}</strong>
        <span class="grow" />
        <a href={`#/browse/${encodeURIComponent(name)}`} aria-label={words.browseLabel(name)}>
          {texts.runs.browse}
        </a>
      </div>
      <span>{words.frames(frames, labelled)}</span>
      {failed > 0 && <span class="outcome rejected">{texts.runs.failed(failed)}</span>}
      {lastSha256 && (
        <span class="quiet">
          {words.lastAt(lastName, ago(lastAt))}
        </span>
      )}
      {stream.deviceModel && <span>{words.runs(stream.deviceModel)}</span>}
      {stream.guarantee && <span class="quiet">{texts.runs.under(stream.guarantee)}</span>}
    </>
  );
}
