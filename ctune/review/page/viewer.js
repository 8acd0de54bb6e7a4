// The pictures: NiiVue draws the CT, the locked classes, the attention map and the class that is edited.
// Its drawing lies in RAS order; everything that is sent or fetched lies in the file's own order. Both are turned here.

import "./vendor/niivue-0.69.0.umd.js"; // Puts itself at globalThis.niivue.

const { Niivue, NVImage } = globalThis.niivue;

export const WINDOWS = { "Soft tissue": [-160, 240], Liver: [-20, 180], Lung: [-1350, 150], Bone: [-200, 1000], "Full range": null };
const LAYOUTS = ["planes", "axial", "render"];

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.nv = new Niivue({ isColorbar: false, show3Dcrosshair: true, crosshairWidth: 0.15, multiplanarShowRender: 1, multiplanarLayout: 2,
      isOrientCube: false, backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.45], textHeight: 0.035, dragAndDropEnabled: false, logLevel: "error" });
    this.layout = 0;
  }
  async start() {
    await this.nv.attachToCanvas(this.canvas);
    // Without a graphics card every picture of the volume costs seconds, each brush stroke too: then 3-D comes only when asked for.
    const gl = this.nv.gl, about = gl.getExtension("WEBGL_debug_renderer_info");
    this.software = /swiftshader|llvmpipe|software|basic render/i.test(gl.getParameter(about ? about.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    this.nv.opts.multiplanarShowRender = this.software ? 0 : 1;
  }

  // The CT alone: the first picture. What lies over it comes with `overlays`.
  async show(ct, range) {
    const nv = this.nv;
    nv.drawBitmap = null;
    while (nv.volumes.length) nv.removeVolume(nv.volumes.at(-1));
    const [cal_min, cal_max] = WINDOWS[range] ?? [NaN, NaN];
    nv.addVolume(await load(ct, "ct.nii", { colormap: "gray", cal_min, cal_max }));
    this.#setLayout();
  }
  // Nothing is drawn before `edit`: each drawing of all volumes anew takes seconds without a graphics card.
  async overlays(labels, heat, classes, opacity, heatOpacity) {
    const nv = this.nv;
    const volumes = [await load(labels, "labels.nii", { opacity })];
    if (heat) volumes.push(await load(heat, "attention.nii.gz", { colormap: "inferno", opacity: heatOpacity, cal_min: 40, cal_max: 255 }));
    nv.volumes.push(...volumes);
    nv.overlays = nv.volumes.slice(1); // As addVolume does, without drawing.
    nv.drawOpacity = Math.min(1, opacity * 1.3);
    this.labels = nv.volumes[1];
    this.labels.setColormapLabel(table(classes));
    this.whole = Uint8Array.from(this.labels.img);
    this.image = nv.volumes[0].img2RAS();
    this.dims = nv.volumes[0].dimsRAS.slice(1, 4);
    nv.createEmptyDrawing();
  }

  // Class `number` (from 1) is drawn on; all others are the locked overlay.
  edit(number, colour, voxels) {
    this.number = number;
    this.nv.drawLut = null;
    this.nv.setDrawColormap({ R: [0, ...rgb(colour, 0)], G: [0, ...rgb(colour, 1)], B: [0, ...rgb(colour, 2)], A: [0, 255], I: [0, 1], labels: ["", "class"] });
    this.nv.drawBitmap.fill(0);
    this.#turn(voxels, this.nv.drawBitmap, true);
    this.labels.img.set(this.whole);
    for (let i = 0; i < this.whole.length; i++) if (this.whole[i] === number) this.labels.img[i] = 0;
    this.nv.updateGLVolume();
    this.refresh();
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
  locked(i) {
    const { img2RASstep: step, img2RASstart: start } = this.nv.volumes[0], [nx, ny] = this.dims;
    const x = i % nx, y = Math.floor(i / nx) % ny, z = Math.floor(i / (nx * ny));
    return this.labels.img[start[0] + start[1] + start[2] + x * step[0] + y * step[1] + z * step[2]] > 0;
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
  opacity(value) { this.nv.setOpacity(1, value); this.nv.drawOpacity = Math.min(1, value * 1.3); this.nv.drawScene(); }
  heat(value) { if (this.nv.volumes[2]) this.nv.setOpacity(2, value); }
  nextLayout() { this.layout = (this.layout + 1) % LAYOUTS.length; this.#setLayout(); }
  #setLayout() { const nv = this.nv; nv.setSliceType([nv.sliceTypeMultiplanar, nv.sliceTypeAxial, nv.sliceTypeRender][this.layout]); }
  step(by) { this.nv.moveCrosshairInVox(0, 0, by); }
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

const load = (data, name, more) => NVImage.loadFromFile({ file: new File([data], name), name, ...more });
const rgb = (hex, i) => [parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16)];
const table = (classes) => ({
  R: [0, ...classes.flatMap((c) => rgb(c.colour, 0))], G: [0, ...classes.flatMap((c) => rgb(c.colour, 1))], B: [0, ...classes.flatMap((c) => rgb(c.colour, 2))],
  A: [0, ...classes.map(() => 255)], I: [0, ...classes.map((_, i) => i + 1)], labels: ["", ...classes.map((c) => c.name)],
});
