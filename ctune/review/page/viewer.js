// The pictures: NiiVue draws the CT, the locked classes, the attention map and the class that is edited.
// Its drawing lies in RAS order; everything that is sent or fetched lies in the file's own order. Both are turned here.

import "./vendor/niivue-0.69.0.umd.js"; // Puts itself at globalThis.niivue.

import { Painter } from "./paint.js";

const { Niivue, NVImage } = globalThis.niivue;
const COLD = 40; // Attention (0 to 255) up to here is not shown.

export const WINDOWS = { "Soft tissue": [-160, 240], Liver: [-20, 180], Lung: [-1350, 150], Bone: [-200, 1000], "Full range": null };
const LAYOUTS = ["planes", "axial", "render"];

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.nv = new Niivue({ isColorbar: false, show3Dcrosshair: true, crosshairWidth: 0.15, multiplanarShowRender: 1, multiplanarLayout: 2,
      isOrientCube: false, backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.45], textHeight: 0.035, dragAndDropEnabled: false, loadingText: "", logLevel: "error" });
    this.layout = 0; this.strength = 0.55; this.warmth = 0.35;
  }
  async start() {
    // Without a graphics card every picture of the volume costs seconds, each brush stroke too: then 3-D comes only when asked for.
    this.software = withoutCard();
    // A stroke's own surroundings alone can be drawn anew where the rest of the picture is kept.
    this.canvas.getContext("webgl2", { alpha: true, antialias: !this.software, preserveDrawingBuffer: this.software });
    await this.nv.attachToCanvas(this.canvas, !this.software);
    this.nv.opts.multiplanarShowRender = this.software ? 0 : 1;
    this.painter = new Painter(this.nv, this.software);
  }

  // The CT alone: the first picture. What lies over it comes with `overlays`.
  async show(ct, range) {
    const nv = this.nv;
    nv.drawBitmap = null; this.labels = this.heatmap = this.density = null;
    while (nv.volumes.length) nv.removeVolume(nv.volumes.at(-1));
    const [cal_min, cal_max] = WINDOWS[range] ?? [NaN, NaN];
    nv.addVolume(await NVImage.loadFromUrl({ url: ct, name: "ct.nii", colormap: "gray", cal_min, cal_max }));
    this.dims = nv.volumes[0].dimsRAS.slice(1, 4);
    this.#setLayout();
  }
  // labels, heat: NIfTI files of uint8 on the CT's grid; heat may be null. Nothing is painted before `edit`.
  overlays(labels, heat, classes, opacity, warmth) {
    this.classes = classes; this.strength = opacity; this.warmth = warmth;
    this.whole = voxelsOf(labels);
    this.labels = this.whole.slice();
    this.heatmap = heat && voxelsOf(heat);
    const nv = this.nv;
    nv.drawBitmap = new Uint8Array(this.whole.length);
    nv.drawTexture = nv.r8Tex(nv.drawTexture, nv.gl.TEXTURE7, nv.back.dims);
    nv.setDrawOpacity(Math.min(1, opacity * 1.3));
  }
  // Densities in RAS order, once a tool asks for them.
  get image() { this.density ??= this.nv.volumes[0].img2RAS(); return this.density; }

  // Class `number` (from 1) is drawn on; all others are the locked overlay.
  edit(number, colour, voxels) {
    this.number = number;
    const [r, g, b] = rgb(colour);
    this.nv.setDrawColormap({ R: [0, r], G: [0, g], B: [0, b], A: [0, 255], I: [0, 1], labels: ["", "class"] });
    this.#turn(voxels, this.nv.drawBitmap, true);
    for (let i = 0; i < this.whole.length; i++) this.labels[i] = this.whole[i] === number ? 0 : this.whole[i];
    this.#overlay();
    this.refresh();
  }
  #overlay() {
    if (!this.labels) return;
    const inferno = this.nv.colormap("inferno"), table = new Uint32Array(256 * (this.classes.length + 1)), bytes = new Uint8Array(table.buffer);
    [[0, 0, 0], ...this.classes.map((c) => rgb(c.colour))].forEach((colour, label) => {
      for (let h = 0; h < 256; h++) {
        const under = label ? this.strength : 0, shade = Math.round(255 * Math.max(0, h - COLD) / (255 - COLD));
        const over = h > COLD ? this.warmth : 0, alpha = under + (1 - under) * over, share = alpha && over / alpha;
        for (let k = 0; k < 3; k++) bytes[4 * (256 * label + h) + k] = Math.min(255, colour[k] * (1 - share) + inferno[4 * shade + k] * share);
        bytes[4 * (256 * label + h) + 3] = 255 * alpha;
      }
    });
    this.painter.overlay(this.labels, this.heatmap, table);
  }
  // Back into the whole, before another class is edited.
  keep() {
    const voxels = this.voxels();
    for (let i = 0; i < voxels.length; i++) {
      if (this.whole[i] === this.number) this.whole[i] = 0;
      if (voxels[i] && !this.whole[i]) this.whole[i] = this.number;
    }
  }
  get bitmap() { return this.nv.drawBitmap; }
  set bitmap(next) { this.nv.drawBitmap.set(next); this.refresh(); }
  refresh() { this.nv.refreshDrawing(true); }

  // (X, Y, Z) of the edited class in the file's own order.
  voxels() {
    const out = new Uint8Array(this.whole.length);
    this.#turn(this.nv.drawBitmap, out, false);
    return out;
  }
  // Whether voxel `i`, in RAS order, belongs to a locked class.
  locked(i) { return this.#label(i) > 0; }
  #label(i) {
    const { img2RASstep: step, img2RASstart: start } = this.nv.volumes[0], [nx, ny] = this.dims;
    const x = i % nx, y = Math.floor(i / nx) % ny, z = Math.floor(i / (nx * ny));
    return this.labels[start[0] + start[1] + start[2] + x * step[0] + y * step[1] + z * step[2]];
  }
  // From the file's order to RAS, or back; row by row, since volumes have tens of millions of voxels.
  #turn(from, to, toRas) {
    const { img2RASstep: step, img2RASstart: start } = this.nv.volumes[0], [nx, ny, nz] = this.dims;
    const first = start[0] + start[1] + start[2], dx = step[0];
    let ras = 0;
    for (let z = 0; z < nz; z++) for (let y = 0; y < ny; y++) {
      let file = first + y * step[1] + z * step[2];
      if (toRas) for (let x = 0; x < nx; x++, file += dx) to[ras++] = from[file];
      else for (let x = 0; x < nx; x++, file += dx) to[file] = from[ras++];
    }
  }

  tool(name, size) {
    const nv = this.nv;
    nv.opts.drawingEnabled = name !== "look";
    nv.opts.penSize = size;
    nv.setPenValue(name === "eraser" ? 0 : 1, name === "outline");
  }
  window(name) {
    const ct = this.nv.volumes[0], range = WINDOWS[name];
    [ct.cal_min, ct.cal_max] = range ?? [ct.global_min, ct.global_max];
    this.nv.updateGLVolume();
  }
  opacity(value) { this.strength = value; this.nv.setDrawOpacity(Math.min(1, value * 1.3)); this.#overlay(); }
  heat(value) { this.warmth = value; this.#overlay(); }
  nextLayout() { this.layout = (this.layout + 1) % LAYOUTS.length; this.#setLayout(); }
  #setLayout() { const nv = this.nv; nv.setSliceType([nv.sliceTypeMultiplanar, nv.sliceTypeAxial, nv.sliceTypeRender][this.layout]); }
  step(x, y, z) { this.nv.moveCrosshairInVox(x, y, z); }
  // The brush or eraser set down where the crosshair stands: to draw by keys alone.
  stamp() {
    this.nv.drawPenAxCorSag = 0;
    this.nv.drawPt(...this.at.map(Math.round), this.nv.opts.penValue);
    this.refresh();
    this.nv.createOnLocationChange();
  }
  // In words what lies under the crosshair, for who cannot tell by colours.
  classHere(editing) {
    if (!this.labels || !this.bitmap) return "";
    const [x, y, z] = this.at.map(Math.round), [nx, ny] = this.dims, i = x + nx * (y + ny * z);
    const name = this.bitmap[i] ? editing : this.classes[this.#label(i) - 1]?.name;
    return name ? name.replaceAll("_", " ") : "no class";
  }
  // Crosshair in RAS voxels.
  get at() { return [...this.nv.frac2vox(this.nv.scene.crosshairPos)]; }
  // To voxel (X, Y, Z) of the file: by steps and not by millimetres, which NiiVue squares up on slanted grids.
  jump(voxel) {
    const { img2RASstep: step, hdr } = this.nv.volumes[0], strides = [1, hdr.dims[1], hdr.dims[1] * hdr.dims[2]];
    const ras = step.map((s, k) => { const at = voxel[strides.indexOf(Math.abs(s))]; return s > 0 ? at : this.dims[k] - 1 - at; });
    this.nv.scene.crosshairPos = this.nv.vox2frac(ras);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }
}

function withoutCard() {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2"), about = gl?.getExtension("WEBGL_debug_renderer_info");
  return !gl || /swiftshader|llvmpipe|software|basic render/i.test(gl.getParameter(about ? about.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}
// The voxels of a NIfTI file of uint8, as the server writes them.
const voxelsOf = (data) => new Uint8Array(data).subarray(new DataView(data).getFloat32(108, true));
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
