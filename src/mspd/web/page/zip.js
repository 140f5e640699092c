// A zip file of pictures, stored as they are (PNG does not shrink further): local headers, directory, end.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// Little-endian fields: [bytes, value], ...
function pack(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 4) view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
    at += size;
  }
  return view.buffer;
}

function unique(name, taken) {
  const [stem, ending] = [name.replace(/\.[^.]*$/, ""), name.match(/\.[^.]*$/)?.[0] ?? ""];
  let free = name;
  for (let n = 2; taken.has(free); n++) free = `${stem} (${n})${ending}`;
  taken.add(free);
  return free;
}

// files: [name, blob], ... in groups that a zip each has room for, which is 4 GB; each gets a name of its own.
export function volumes(files, most = 4e9) {
  const [groups, taken] = [[], new Set()];
  let size = Infinity;
  for (const [name, blob] of files) {
    if (size + blob.size > most) {
      groups.push([]);
      size = 0;
    }
    groups.at(-1).push([unique(name, taken), blob]);
    size += blob.size + 1000; // its name and headers, twice
  }
  return groups;
}

// files: one of `volumes`.
export async function zip(files) {
  const [parts, directory] = [[], []];
  let at = 0;
  for (const [wanted, blob] of files) {
    const name = new TextEncoder().encode(wanted);
    const sum = crc32(new Uint8Array(await blob.arrayBuffer()));
    // version 2.0, names in UTF-8, stored, 1 January 1980 at midnight
    const common = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21], [4, sum], [4, blob.size], [4, blob.size], [2, name.length], [2, 0]];
    parts.push(pack([4, 0x04034b50], ...common), name, blob);
    directory.push(pack([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), name);
    at += 30 + name.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = pack([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, at], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
