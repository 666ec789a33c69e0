// An image of the server in the document: by its address, or fetched with the token.
//
// The browser loads a plain address quickest, but sends no token with it. With one the bytes are
// fetched and shown from memory; the browser keeps them as it keeps those of addresses.

import { useEffect, useState } from "preact/hooks";
import { imageBlobAt } from "../api/connect";
import { shownToken } from "../session/token";

interface Props {
  address: string;
  /** What it shows, where that is told nowhere else. */
  alt?: string;
}

export function StoredImage({ address, alt = "" }: Props) {
  return shownToken() ? (
    <FetchedImage address={address} alt={alt} />
  ) : (
    <img src={address} alt={alt} draggable={false} />
  );
}

function FetchedImage({ address, alt = "" }: Props) {
  const [source, setSource] = useState("");
  useEffect(() => {
    const controller = new AbortController();
    let made = "";
    imageBlobAt(address, controller.signal)
      .then((blob) => {
        if (controller.signal.aborted) return;
        made = URL.createObjectURL(blob);
        setSource(made);
      })
      .catch(() => undefined); // as with a plain address, the frame stays empty
    return () => {
      controller.abort();
      if (made) URL.revokeObjectURL(made);
    };
  }, [address]);
  return source ? <img src={source} alt={alt} draggable={false} /> : null;
}
