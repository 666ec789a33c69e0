// What browsers leave out of a page that came by plain HTTP from another machine (--insecure).

if (!("randomUUID" in crypto)) {
  const randomUUID = (): ReturnType<Crypto["randomUUID"]> => {
    const hex = [...(crypto as Crypto).getRandomValues(new Uint8Array(16))].map((byte) =>
      byte.toString(16).padStart(2, "0"),
    );
    const parts = [hex.slice(0, 4), hex.slice(4, 6), hex.slice(6, 8), hex.slice(8, 10)];
    const [a, b, c, d] = parts.map((part) => part.join(""));
    return `${a}-${b}-${c}-${d}-${hex.slice(10).join("")}` as ReturnType<Crypto["randomUUID"]>;
  };
  Object.assign(crypto, { randomUUID });
}

export {};
