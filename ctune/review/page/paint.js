// What NiiVue does in shaders over whole volumes, done once in plain loops: a CT of 512 x 512 x 200 took a machine without a
// graphics card a minute to show. Also: pictures once a frame, and no more of a drawing is sent than the pen has changed.

const { NVImage } = globalThis.niivue;
const CHUNK = 4 << 20; // Voxels painted at a time: what is held beside the texture stays small.

// The CT's own range, by one pass over all voxels; NiiVue's estimates a window by a histogram that nobody asks for here.
NVImage.prototype.calMinMax = function () {
  let low = Infinity, high = -Infinity;
  const img = this.img, { scl_slope: slope, scl_inter: inter, cal_min, cal_max } = this.hdr;
  for (let i = 0; i < img.length; i++) { const v = img[i]; if (v < low) low = v; if (v > high) high = v; }
  [this.global_min, this.global_max] = [low * slope + inter, high * slope + inter];
  [this.cal_min, this.cal_max] = Number.isFinite(cal_min) && cal_max > cal_min ? [cal_min, cal_max] : [this.global_min, this.global_max];
  [this.robust_min, this.robust_max] = [this.cal_min, this.cal_max];
  return [this.cal_min, this.cal_max, this.global_min, this.global_max];
};

export class Painter {
  // partly: while the pen is down, only what lies around it is drawn anew.
  constructor(nv, partly) {
    this.nv = nv;
    this.range = null; // The window that the CT's texture was painted with.
    this.box = null; // What the pen has changed since the drawing was sent: [x0, y0, z0, x1, y1, z1].
    this.prepare = nv.updateGLVolume.bind(nv);
    nv.updateGLVolume = () => this.update();
    nv.drawAddUndoBitmap = () => {}; // The page keeps its own history.
    this.#onceAFrame();
    this.#asThePen();
    if (partly) this.#aroundThePen();
  }

  // All that NiiVue calls when anything about the volumes has changed.
  update() {
    const nv = this.nv, ct = nv.volumes[0];
    if (!ct) return nv.drawScene();
    if (this.of !== ct) { this.of = ct; this.range = null; this.#unpainted(() => this.prepare()); }
    nv.refreshColormaps();
    if (this.range?.[0] !== ct.cal_min || this.range[1] !== ct.cal_max) this.#ct(ct);
    nv.drawScene();
  }
  // NiiVue's own way of setting up a volume, without its passes over all voxels: their textures would be thrown away.
  #unpainted(work) {
    const { nv } = this, { gl } = nv, kept = nv.rgbaTex;
    const large = [gl.TEXTURE0, gl.TEXTURE2];
    nv.rgbaTex = (old, unit, dims) => kept.call(nv, old, unit, large.includes(unit) ? dims : [2, 2, 2, 2]);
    nv.overlays = [null]; // One overlay, which is not a volume of NiiVue's.
    const none = () => {}, idle = { drawArrays: none, texSubImage3D: none, framebufferTextureLayer: none, checkFramebufferStatus: () => gl.FRAMEBUFFER_COMPLETE };
    Object.assign(gl, idle);
    try { work(); } finally { for (const name of Object.keys(idle)) delete gl[name]; }
    nv.overlayTexture = nv.rgbaTex(nv.overlayTexture, gl.TEXTURE2, nv.back.dims);
    nv.rgbaTex = kept;
  }

  #ct(ct) {
    const { scl_slope: slope, scl_inter: inter } = ct.hdr, { img, cal_min: low, cal_max: high } = ct;
    const colours = new Uint32Array(new Uint8ClampedArray(this.nv.colormap("gray")).buffer);
    const scale = 255 / (high - low), shade = (raw) => colours[Math.max(0, Math.min(255, Math.round((raw * slope + inter - low) * scale)))];
    const by16 = img instanceof Int16Array ? 32768 : img instanceof Uint16Array || img instanceof Uint8Array ? 0 : null;
    const all = by16 === null ? null : Uint32Array.from({ length: 65536 }, (_, i) => shade(i - by16));
    this.#paint(this.nv.volumeTexture, this.nv.gl.TEXTURE0, all ? (i) => all[img[i] + by16] : (i) => shade(img[i]));
    this.range = [low, high];
  }
  // Labels and heat (file order, heat may be null) as colours: `table` has 256 shades of heat for each label.
  overlay(labels, heat, table) {
    const of = heat ? (i) => { const l = labels[i], h = heat[i]; return l || h ? table[256 * l + h] : 0; } : (i) => { const l = labels[i]; return l ? table[256 * l] : 0; };
    this.#paint(this.nv.overlayTexture, this.nv.gl.TEXTURE2, of);
    this.nv.drawScene();
  }
  // colour(i): RGBA of voxel i of the file. The texture lies in RAS order.
  #paint(texture, unit, colour) {
    const { gl, volumes } = this.nv, { img2RASstep: step, img2RASstart: start, dimsRAS: dims } = volumes[0];
    const [nx, ny, nz] = dims.slice(1, 4), first = start[0] + start[1] + start[2], dx = step[0];
    const deep = Math.max(1, Math.min(nz, Math.floor(CHUNK / (nx * ny)))), out = new Uint32Array(nx * ny * deep), bytes = new Uint8Array(out.buffer);
    gl.activeTexture(unit);
    gl.bindTexture(gl.TEXTURE_3D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    for (let from = 0; from < nz; from += deep) {
      const to = Math.min(nz, from + deep);
      let at = 0;
      for (let z = from; z < to; z++) for (let y = 0; y < ny; y++) {
        let i = first + y * step[1] + z * step[2];
        for (let x = 0; x < nx; x++, i += dx) out[at++] = colour(i);
      }
      gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, from, nx, ny, to - from, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    }
  }

  // One stroke asks for three pictures a move; one is seen.
  #onceAFrame() {
    const { nv } = this, draw = nv.drawScene.bind(nv);
    let asked = 0;
    const picture = () => {
      const { gl } = nv, part = this.around?.();
      asked = 0;
      if (!part) return draw();
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(...part);
      nv.clearBounds = (mask = gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT) => gl.clear(mask); // NiiVue's own ends the scissors.
      draw();
      delete nv.clearBounds;
      gl.disable(gl.SCISSOR_TEST);
    };
    nv.drawScene = () => { asked ||= requestAnimationFrame(picture); };
  }
  // Drawing all three planes anew for each move of the pen costs a processor 50 ms. Crosshair and other planes wait until it is lifted.
  #aroundThePen() {
    const { nv } = this, { canvas } = nv, width = nv.opts.crosshairWidth;
    let from = null, to = null, whole = false; // In pixels of the canvas, y downwards.
    const at = (event) => { const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width; return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale]; };
    const down = (event) => { if (event.button === 0 && nv.opts.drawingEnabled) { from = to = this.last = at(event); whole = true; nv.opts.crosshairWidth = 0; } };
    const move = (event) => { if (from) { const [x, y] = at(event); from = [Math.min(from[0], x), Math.min(from[1], y)]; to = [Math.max(to[0], x), Math.max(to[1], y)]; this.last = [x, y]; } };
    const up = () => { if (from) { from = null; nv.opts.crosshairWidth = width; nv.drawScene(); } };
    canvas.addEventListener("mousedown", down, true);
    addEventListener("mousemove", move, true);
    for (const kind of ["mouseup", "blur"]) addEventListener(kind, up);
    canvas.addEventListener("mouseleave", up);
    this.around = () => {
      if (!from) return null;
      if (whole) { whole = false; return null; }
      const tile = nv.screenSlices.reduce((most, s) => Math.max(most, s.leftTopWidthHeight[2]), 0), pad = Math.ceil(nv.opts.penSize * tile / Math.min(...nv.back.dims.slice(1, 4))) + 8;
      const part = [from[0] - pad, canvas.height - to[1] - pad, to[0] - from[0] + 2 * pad, to[1] - from[1] + 2 * pad].map(Math.round);
      from = to = this.last;
      return part;
    };
  }
  #asThePen() {
    const { nv } = this, { drawPt, drawPenLine, drawPenFilled } = nv;
    const note = (...points) => {
      const r = Math.ceil(nv.opts.penSize / 2) + 1, box = this.box ?? [Infinity, Infinity, Infinity, -1, -1, -1];
      for (const p of points) for (let k = 0; k < 3; k++) { box[k] = Math.min(box[k], p[k] - r); box[k + 3] = Math.max(box[k + 3], p[k] + r); }
      this.box = box;
    };
    nv.drawPt = (x, y, z, ...more) => { note([x, y, z]); drawPt.call(nv, x, y, z, ...more); };
    nv.drawPenLine = (a, b, value) => { note(a, b); drawPenLine.call(nv, a, b, value); };
    nv.drawPenFilled = () => { this.box = [-Infinity, -Infinity, -Infinity, Infinity, Infinity, Infinity]; drawPenFilled.call(nv); };
    nv.refreshDrawing = (draw = true) => { this.send(this.box); this.box = null; if (draw) nv.drawScene(); };
  }
  // The drawing to the graphics card: all of it, or a box of it in voxels.
  send(box) {
    const { gl, back, drawBitmap, drawTexture } = this.nv, size = back.dims.slice(1, 4);
    if (!drawBitmap || !drawTexture) return;
    const from = size.map((n, k) => Math.max(0, Math.min(n, box ? box[k] : 0)));
    const to = size.map((n, k) => Math.max(0, Math.min(n, box ? box[k + 3] + 1 : n)));
    const extent = to.map((n, k) => n - from[k]);
    if (extent.some((n) => n <= 0)) return;
    gl.activeTexture(gl.TEXTURE7);
    gl.bindTexture(gl.TEXTURE_3D, drawTexture);
    const layout = [[gl.UNPACK_ALIGNMENT, 1], [gl.UNPACK_ROW_LENGTH, size[0]], [gl.UNPACK_IMAGE_HEIGHT, size[1]],
      [gl.UNPACK_SKIP_PIXELS, from[0]], [gl.UNPACK_SKIP_ROWS, from[1]], [gl.UNPACK_SKIP_IMAGES, from[2]]];
    for (const [name, value] of layout) gl.pixelStorei(name, value);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, ...from, ...extent, gl.RED, gl.UNSIGNED_BYTE, drawBitmap);
    for (const [name] of layout.slice(1)) gl.pixelStorei(name, 0);
  }
}
