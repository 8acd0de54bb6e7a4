// What changes a bitmap: (nx, ny, nz) voxels of 0 and 1, x fastest. Every function returns a new bitmap.

// Everything connected to voxel `at` whose density lies in [low, high], within `reach` voxels of it.
export function grow(bitmap, image, dims, at, low, high, reach = 60) {
  const [nx, ny, nz] = dims, out = bitmap.slice(), seen = new Uint8Array(bitmap.length);
  const stack = [at[0] + nx * (at[1] + ny * at[2])];
  while (stack.length) {
    const i = stack.pop();
    if (seen[i] || image[i] < low || image[i] > high) continue;
    const x = i % nx, y = Math.floor(i / nx) % ny, z = Math.floor(i / (nx * ny));
    if (Math.max(Math.abs(x - at[0]), Math.abs(y - at[1]), Math.abs(z - at[2])) > reach) continue;
    seen[i] = 1; out[i] = 1;
    if (x > 0) stack.push(i - 1);
    if (x < nx - 1) stack.push(i + 1);
    if (y > 0) stack.push(i - nx);
    if (y < ny - 1) stack.push(i + nx);
    if (z > 0) stack.push(i - nx * ny);
    if (z < nz - 1) stack.push(i + nx * ny);
  }
  return out;
}

// Background of slice z that the slice's edge cannot reach becomes mask.
export function fillHoles(bitmap, dims, z) {
  const [nx, ny] = dims, start = z * nx * ny, out = bitmap.slice(), outside = new Uint8Array(nx * ny), stack = [];
  for (let x = 0; x < nx; x++) stack.push(x, x + nx * (ny - 1));
  for (let y = 0; y < ny; y++) stack.push(nx * y, nx * y + nx - 1);
  while (stack.length) {
    const i = stack.pop();
    if (outside[i] || bitmap[start + i]) continue;
    outside[i] = 1;
    const x = i % nx, y = Math.floor(i / nx);
    if (x > 0) stack.push(i - 1);
    if (x < nx - 1) stack.push(i + 1);
    if (y > 0) stack.push(i - nx);
    if (y < ny - 1) stack.push(i + nx);
  }
  for (let i = 0; i < nx * ny; i++) if (!outside[i]) out[start + i] = 1;
  return out;
}

// Empty slices between two drawn ones get the shape between them: distances to the boundary, mixed by position.
export function interpolate(bitmap, dims) {
  const [nx, ny, nz] = dims, size = nx * ny, out = bitmap.slice(), drawn = [];
  for (let z = 0; z < nz; z++) if (bitmap.subarray(z * size, (z + 1) * size).includes(1)) drawn.push(z);
  for (let k = 0; k + 1 < drawn.length; k++) {
    const [a, b] = [drawn[k], drawn[k + 1]];
    if (b - a < 2) continue;
    const one = signed(bitmap.subarray(a * size, (a + 1) * size), nx, ny);
    const two = signed(bitmap.subarray(b * size, (b + 1) * size), nx, ny);
    for (let z = a + 1; z < b; z++) {
      const t = (z - a) / (b - a);
      for (let i = 0; i < size; i++) if ((1 - t) * one[i] + t * two[i] > 0) out[z * size + i] = 1;
    }
  }
  return out;
}

// Distance to the boundary in pixels (chamfer), positive inside.
function signed(slice, nx, ny) {
  const inside = chamfer(slice, nx, ny, 0), outside = chamfer(slice, nx, ny, 1);
  return inside.map((d, i) => d - outside[i]);
}

function chamfer(slice, nx, ny, target) {
  const d = new Float32Array(nx * ny).fill(1e6);
  for (let i = 0; i < d.length; i++) if (slice[i] === target) d[i] = 0;
  const pass = (y, x, s) => {
    const i = y * nx + x, near = (dx, dy, w) => {
      const u = x + dx, v = y + dy;
      if (u >= 0 && u < nx && v >= 0 && v < ny) d[i] = Math.min(d[i], d[v * nx + u] + w);
    };
    near(-s, 0, 1); near(0, -s, 1); near(-s, -s, 1.414); near(s, -s, 1.414);
  };
  for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++) pass(y, x, 1);
  for (let y = ny - 1; y >= 0; y--) for (let x = nx - 1; x >= 0; x--) pass(y, x, -1);
  return d;
}

// Where two bitmaps differ: four voxels at a time, since most do not.
export function differences(before, now) {
  const out = [], words = now.length >> 2;
  const a = new Uint32Array(before.buffer, before.byteOffset, words), b = new Uint32Array(now.buffer, now.byteOffset, words);
  for (let w = 0; w < words; w++) if (a[w] !== b[w]) for (let i = 4 * w; i < 4 * w + 4; i++) if (before[i] !== now[i]) out.push(i);
  for (let i = 4 * words; i < now.length; i++) if (before[i] !== now[i]) out.push(i);
  return out;
}

// Undo and redo, as the voxels that changed: `before` and `now` are whole bitmaps, the difference is kept.
export class History {
  constructor() { this.done = []; this.undone = []; }
  add(before, now) {
    const changed = differences(before, now);
    if (!changed.length) return false;
    this.done.push({ where: Uint32Array.from(changed), was: Uint8Array.from(changed, (i) => before[i]), is: Uint8Array.from(changed, (i) => now[i]) });
    this.undone = [];
    return true;
  }
  undo(bitmap) { return this.#move(this.done, this.undone, bitmap, "was"); }
  redo(bitmap) { return this.#move(this.undone, this.done, bitmap, "is"); }
  #move(from, to, bitmap, side) {
    const step = from.pop();
    if (!step) return false;
    step.where.forEach((i, k) => { bitmap[i] = step[side][k]; });
    to.push(step);
    return true;
  }
}
