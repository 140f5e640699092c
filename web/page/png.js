// PNG of 8-bit RGB, written row by row. Not by a canvas: some browsers change pixels that a page reads from one.

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(kind, data) {
  const out = new Uint8Array(data.length + 12);
  const numbers = new DataView(out.buffer);
  numbers.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) out[4 + i] = kind.charCodeAt(i);
  out.set(data, 8);
  let crc = 0xffffffff;
  for (let i = 4; i < data.length + 8; i++) crc = CRC[(crc ^ out[i]) & 0xff] ^ (crc >>> 8);
  numbers.setUint32(data.length + 8, ~crc);
  return out;
}

/** Each row less its Paeth prediction (PNG specification, 9.4), with the filter's number before it. */
function filtered(rows, count, row, above) {
  const out = new Uint8Array(count * (row + 1));
  for (let y = 0; y < count; y++) {
    const at = y * row;
    const to = y * (row + 1) + 1;
    out[to - 1] = 4;
    for (let i = 0; i < row; i++) {
      const up = y > 0 ? rows[at - row + i] : above[i];
      const left = i < 3 ? 0 : rows[at + i - 3];
      const corner = i < 3 ? 0 : y > 0 ? rows[at - row + i - 3] : above[i - 3];
      const toLeft = Math.abs(up - corner);
      const toUp = Math.abs(left - corner);
      const toCorner = Math.abs(left + up - 2 * corner);
      const predicted = toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
      out[to + i] = rows[at + i] - predicted;
    }
  }
  return out;
}

/** A writer of one picture: write(rows, count) for each strip in turn, then close() -> Blob. */
export function pngWriter(height, width) {
  const row = width * 3;
  const header = new Uint8Array(13);
  const numbers = new DataView(header.buffer);
  numbers.setUint32(0, width);
  numbers.setUint32(4, height);
  header.set([8, 2, 0, 0, 0], 8); // 8 bits, RGB
  const parts = [
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk("IHDR", header),
    chunk("sRGB", Uint8Array.of(0)),
  ];
  const zlib = new CompressionStream("deflate");
  const input = zlib.writable.getWriter();
  const collected = (async () => {
    const reader = zlib.readable.getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      parts.push(chunk("IDAT", piece.value));
    }
  })();
  let above = new Uint8Array(row);
  return {
    async write(rows, count) {
      await input.write(filtered(rows, count, row, above));
      above = rows.slice((count - 1) * row, count * row);
    },
    async close() {
      await input.close();
      await collected;
      return new Blob([...parts, chunk("IEND", new Uint8Array(0))], { type: "image/png" });
    },
  };
}
