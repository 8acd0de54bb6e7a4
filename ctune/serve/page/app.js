// Drop a CT, see its masks. Everything goes to this service alone and stays in this window.

import "./vendor/niivue-0.69.0.umd.js"; // Puts itself at globalThis.niivue.

const { Niivue, NVImage } = globalThis.niivue;
const $ = (id) => document.getElementById(id);
const viewer = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, dragAndDropEnabled: false, logLevel: "error" });
const SHOWN = /\.(nii|nii\.gz|nrrd)$/i;

const colour = (k) => { // As far apart on the wheel as the golden angle brings them.
  const h = (k * 137.5) % 360, f = (n) => { const t = (n + h / 30) % 12; return Math.round(255 * (0.6 - 0.32 * Math.max(-1, Math.min(t - 3, 9 - t, 1)))); };
  return [f(0), f(8), f(4)];
};
const headers = () => { const token = $("token").value.trim(); return token ? { authorization: `Bearer ${token}` } : {}; };

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers() });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

async function card() {
  try {
    const model = await (await ask("/model")).json();
    $("model").textContent = `${model.name} · ${model.model.slice(0, 19)} · ${model.runtime}`;
    $("use").textContent = model.intended_use;
    $("classes").replaceChildren(...Object.keys(model.heads).map((name) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, value: name });
      const label = document.createElement("label");
      label.append(box, ` ${name}`);
      return label;
    }));
  } catch (error) { $("model").textContent = error.message; }
}

async function segment(file) {
  const chosen = [...document.querySelectorAll("#classes input:checked")].map((box) => box.value);
  const begun = performance.now();
  $("state").textContent = "at work…";
  $("drop").setAttribute("aria-busy", "true");
  try {
    const answer = await ask(`/segment?classes=${encodeURIComponent(chosen.join(","))}`, { method: "POST", body: file });
    const volumes = JSON.parse(answer.headers.get("x-ctune-volumes-ml")), labels = await answer.blob();
    table(volumes);
    URL.revokeObjectURL($("save").href);
    $("save").href = URL.createObjectURL(labels);
    $("save").hidden = false;
    if (SHOWN.test(file.name)) await show(file, labels, Object.keys(volumes));
    $("state").textContent = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
  } catch (error) { $("state").textContent = error.message; }
  $("drop").removeAttribute("aria-busy");
}

function table(volumes) {
  $("volumes").hidden = false;
  $("volumes").tBodies[0].replaceChildren(...Object.entries(volumes).map(([name, ml], k) => {
    const row = document.createElement("tr"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${colour(k)})`;
    row.insertCell().append(swatch, name);
    row.insertCell().append(ml.toFixed(1));
    return row;
  }));
}

async function show(file, labels, names) {
  while (viewer.volumes.length) viewer.removeVolume(viewer.volumes.at(-1));
  const ct = await NVImage.loadFromFile({ file, name: file.name, colormap: "gray", cal_min: -160, cal_max: 240 });
  const masks = await NVImage.loadFromFile({ file: new File([labels], "labels.nii.gz"), name: "labels.nii.gz", opacity: 0.55 });
  viewer.addVolume(ct);
  viewer.addVolume(masks);
  const colours = names.map((_, k) => colour(k)), of = (i) => [0, ...colours.map((c) => c[i])];
  viewer.volumes[1].setColormapLabel({ R: of(0), G: of(1), B: of(2), A: [0, ...names.map(() => 255)], I: [0, ...names.map((_, k) => k + 1)], labels: ["", ...names] });
  viewer.updateGLVolume();
}

const drop = $("drop");
for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, (event) => {
  event.preventDefault();
  drop.classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files.length) segment(event.dataTransfer.files[0]);
});
$("file").addEventListener("change", () => { if ($("file").files.length) segment($("file").files[0]); });
$("token").addEventListener("change", card);
await viewer.attachToCanvas($("canvas"));
await card();
document.body.dataset.ready = "true";
