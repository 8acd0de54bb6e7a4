// The page: which case is open, which class is edited, what is saved.

import { Refused, bytes, call, json, post, sendDraft, signIn } from "./api.js";
import { History, differences, fillHoles, grow, interpolate } from "./tools.js";
import { Tuning } from "./tuning.js";
import { Viewer, WINDOWS } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...inside) => { const e = Object.assign(document.createElement(tag), props); e.append(...inside); return e; };
const viewer = new Viewer($("canvas"));
const SHAPES = ["M7 1a6 6 0 1 0 .01 0z", "M1 1h12v12H1z", "M7 0l7 13H0z", "M7 0l7 7-7 7-7-7z", "M5 0h4v5h5v4H9v5H5V9H0V5h5z", "M0 1h14L7 14z"];
const AUTOSAVE_MS = 1000, AT_MOST_MS = 3000, RETRY_MS = 2000, IDLE_MS = 30000;
const page = { items: [], open: null, editing: null, tool: "look", histories: {}, before: null, dirty: false, saving: null, judging: false, seconds: 0, unsent: 0, touched: 0, spot: -1, role: "view" };

// Words ---------------------------------------------------------------------------------------------------------------
function say(text, bad = false) {
  $("toast").textContent = text;
  $("toast").className = bad ? "on bad" : "on";
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { $("toast").className = ""; }, bad ? 7000 : 3000);
}
function failed(error) {
  if (error instanceof Refused && error.status === 401) $("sign").open || $("sign").showModal();
  say(error.message, true);
}
const guarded = (work) => (...args) => Promise.resolve().then(() => work(...args)).catch(failed);
const tuning = new Tuning(guarded(loadQueue), say);
window.review = { page, viewer, tuning }; // What tests and the curious look at.
function saved(state, text) { $("saved").dataset.state = state; $("saved").textContent = text; }

// Queue ---------------------------------------------------------------------------------------------------------------
async function loadQueue() {
  const found = await json("/queue");
  page.items = found.items; page.role = found.role; page.me = found.expert; offer();
  $("who").textContent = `${found.expert} · ${found.role}`;
  $("round").textContent = `Round ${found.round}: ${found.done} of ${found.total} cases judged`;
  $("progress").max = found.total || 1; $("progress").value = found.done;
  options($("by-class"), "every class", found.items.flatMap((i) => i.classes));
  options($("by-expert"), "every expert", found.items.flatMap((i) => i.experts));
  drawQueue();
  if (page.open) showEarlier();
  await tuning.look(found.role);
}
function options(select, every, values) {
  const chosen = select.value;
  select.replaceChildren(new Option(every, ""), ...[...new Set(values)].sort().map((v) => new Option(v, v)));
  select.value = chosen;
}
const shown = () => page.items.filter((i) => (!$("by-class").value || i.classes.includes($("by-class").value))
  && (!$("by-expert").value || i.experts.includes($("by-expert").value)));
function drawQueue() {
  $("items").replaceChildren(...shown().map((item) => {
    const busy = item.lease && item.lease !== page.me;
    const words = busy ? `with ${item.lease}` : item.state === "apart" ? "a third decides" : item.state === "open" && item.draft ? "draft" : item.state;
    const kind = busy ? "busy" : item.state;
    const top = make("span", { className: "top" }, `${item.rank}. ${item.id}`, make("span", { className: `tag ${kind}`, textContent: (kind === "done" ? "✓ " : "") + words }));
    const dice = item.agreement === null ? "" : ` Experts agree: Dice ${item.agreement.toFixed(2)}.`;
    const button = make("button", { onclick: guarded(() => open(item.id)) }, top, make("span", { className: "why", textContent: item.reason + "." + dice }));
    if (page.open?.id === item.id) button.setAttribute("aria-current", "true");
    return make("li", {}, button);
  }));
}
async function next(by = 1) {
  const all = shown(), here = all.findIndex((i) => i.id === page.open?.id);
  const target = here < 0 ? all.find((i) => i.state === "open") ?? all[0] : all[here + by];
  if (target) await open(target.id); else say("That was the last case of the queue.");
}

// One case ------------------------------------------------------------------------------------------------------------
// One after the other; of those asked for while one is on its way, the last.
function open(id) {
  page.wanted = id;
  page.opening ??= (async () => { while (page.wanted) { const id = page.wanted; page.wanted = null; await show(id); } })().finally(() => { page.opening = null; });
  return page.opening;
}
async function show(id) {
  await leave();
  page.editing = null; viewer.tool("look", 1); // What is drawn from here on would belong to no case.
  const at = `/cases/${encodeURIComponent(id)}`, opened = performance.now();
  const [about, ct] = await Promise.all([json(at), bytes(`${at}/ct?unpacked=1`)]);
  const later = [bytes(`${at}/labels?round=${about.round}`), bytes(`${at}/attention`).catch(() => null), json(`${at}/spots`)];
  later.forEach((one) => one.catch(() => {})); // Told below, where it is waited for.
  await viewer.show(ct, $("window").value);
  page.firstPicture = performance.now() - opened;
  try { if (page.role !== "view") await post(`${at}/lease`); } catch (error) { failed(error); }
  const [labels, heat, spots] = await Promise.all(later);
  Object.assign(about, spots);
  viewer.overlays(labels, heat, about.classes, $("opacity").value / 100, $("heat").value / 100);
  Object.assign(page, { open: about, histories: {}, seconds: about.seconds, unsent: 0, spot: -1, dirty: false });
  $("empty").hidden = true; $("case").textContent = id; $("why").textContent = about.reason; $("comment").value = "";
  showEarlier();
  $("agreement").hidden = about.agreement === null;
  if (about.agreement !== null) $("agreement").textContent = `${about.experts.join(" and ")} have revised this case. Lowest Dice: ${about.agreement.toFixed(2)}`;
  $("spot").textContent = `${about.spots.length} hot spots`;
  saved("idle", Object.keys(about.drafts).length ? "your draft goes on" : "nothing to save");
  await edit(about.to_revise[0] ?? about.classes[0].name);
  if (about.spots.length) spot();
  drawQueue(); clock(); offer();
}
// Only what can be done now can be clicked; the keys say why not.
function offer() {
  document.querySelectorAll("[data-do]").forEach((b) => {
    b.disabled = draws.includes(b.dataset.do) ? !page.open || page.role === "view" : ["spot", "layout"].includes(b.dataset.do) && !page.open;
  });
}
// A draft from before the model predicted the case anew is neither laid over the new prediction nor forgotten: it is offered.
function showEarlier() {
  const names = Object.keys(page.open.earlier), stale = page.items.find((i) => i.id === page.open.id)?.round > page.open.round;
  $("earlier").hidden = !names.length && !stale;
  $("take-up").textContent = stale ? "Open it again" : "Go on with my draft";
  $("earlier-words").textContent = stale ? "The next round has predicted this case anew. What you draw here is kept as a draft."
    : `You have a draft of round ${page.open.earlier[names[0]]}: ${names.join(", ").replaceAll("_", " ")}. Shown is the new prediction.`;
}
async function takeUp() {
  if (!page.open || $("earlier").hidden) return say("No earlier draft of this case.");
  const { id } = page.open;
  await flush();
  if (page.open.round >= (page.items.find((i) => i.id === id)?.round ?? 0)) await post(`/cases/${encodeURIComponent(id)}/earlier`);
  await open(id);
}
async function leave() {
  if (!page.open) return;
  await flush();
  await sendSeconds();
  if (page.role !== "view") await call(`/cases/${encodeURIComponent(page.open.id)}/lease`, { method: "DELETE" });
}
async function edit(name) {
  if (page.editing === name) return;
  const about = page.open, number = 1 + about.classes.findIndex((c) => c.name === name);
  page.wish = name;
  const found = new Uint8Array(await bytes(`/cases/${encodeURIComponent(about.id)}/masks/${encodeURIComponent(name)}?round=${about.round}`));
  while (page.dirty || page.saving) await flush(); // What was drawn meanwhile belongs to the class before.
  if (page.wish !== name || page.open !== about) return;
  if (page.editing) viewer.keep();
  viewer.edit(number, about.classes[number - 1].colour, found.subarray(352));
  page.editing = name; page.histories[name] ??= new History(); page.before = viewer.bitmap.slice();
  drawClasses(); choose(page.tool);
}
function drawClasses() {
  $("classes").replaceChildren(...page.open.classes.map((c, i) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    mark.setAttribute("viewBox", "0 0 14 14"); path.setAttribute("d", SHAPES[i % SHAPES.length]); path.setAttribute("fill", c.colour); path.setAttribute("stroke", "currentColor"); path.setAttribute("stroke-width", ".6"); mark.append(path);
    const here = c.name === page.editing, wanted = page.open.to_revise.includes(c.name);
    const button = make("button", { title: c.reason, onclick: guarded(() => edit(c.name)) }, mark, make("span", { className: "name", textContent: c.name.replaceAll("_", " ") }),
      make("small", { textContent: here ? "editing" : wanted ? `to revise · ${i + 1}` : `locked · ${i + 1}` }));
    button.setAttribute("aria-pressed", here);
    return make("li", {}, button);
  }));
}
function choose(tool) {
  page.tool = page.role === "view" ? "look" : tool;
  if (page.editing) viewer.tool(page.tool, Number($("size").value));
  document.querySelectorAll("[data-tool]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.tool === page.tool));
}

// Drawing -------------------------------------------------------------------------------------------------------------
// After each stroke: what may not be painted is taken back, what remains can be undone and is saved.
function changed() {
  if (!page.editing) return;
  const now = viewer.bitmap, before = page.before;
  const low = Number($("low").value), high = Number($("high").value);
  let mended = false;
  for (const i of differences(before, now)) {
    if (!now[i]) continue;
    const outside = page.tool === "threshold" && (viewer.image[i] < low || viewer.image[i] > high);
    if (outside || viewer.locked(i)) { now[i] = before[i]; mended = true; }
  }
  if (mended) viewer.refresh();
  if (page.histories[page.editing].add(before, now)) touch();
}
// A pause saves; who draws without one is saved all the same, also in the middle of a stroke (below).
function touch() {
  page.before.set(viewer.bitmap);
  if (!page.dirty) page.since = performance.now();
  page.dirty = true; saved("waiting", "not saved yet");
  schedule(Math.max(0, Math.min(AUTOSAVE_MS, page.since + AT_MOST_MS - performance.now())));
}
function apply(bitmap) { viewer.bitmap = bitmap; changed(); }
function back(way) {
  changed(); // A key may come before the end of the stroke has been looked at.
  if (page.editing && page.histories[page.editing][way](viewer.bitmap)) { viewer.refresh(); touch(); } else say(`Nothing to ${way}.`);
}
function schedule(ms) { clearTimeout(schedule.timer); schedule.timer = setTimeout(() => flush().catch(() => schedule(RETRY_MS)), ms); }
async function flush() {
  if (page.role !== "view") changed();
  clearTimeout(schedule.timer);
  while (page.saving) await page.saving.catch(() => {});
  if (!page.dirty) return;
  page.dirty = false; saved("waiting", "saving …");
  const { id, round } = page.open, name = page.editing;
  page.saving = sendDraft(id, name, viewer.voxels(), round);
  let version;
  try { ({ version } = await page.saving); } catch (error) {
    page.dirty = true;
    saved("failed", `not saved, trying again: ${error instanceof Refused ? error.message : "the server does not answer"}`);
    throw error;
  } finally { page.saving = null; }
  // It is kept: nothing from here on may be told as unsaved, or sent again.
  saved("saved", `${name} saved ${new Date().toLocaleTimeString()} (version ${version})`);
  const item = page.items.find((i) => i.id === id);
  if (item && !item.draft) { item.draft = true; drawQueue(); }
  if (!item) await loadQueue().catch(failed); // A queue that came meanwhile lacks the case; with a draft it is in there.
}
// One at a time: a key that is pressed twice must not judge a case that nobody has looked at.
async function verdict(kind) {
  if (!page.open || page.judging) return;
  page.judging = true;
  try { await judge(kind, page.open); } finally { page.judging = false; }
}
async function judge(kind, { id, round }) {
  const said = { verdict: kind, comment: $("comment").value, round }; // Of the case that is seen now.
  await flush(); await sendSeconds();
  // Refused: what stands in the queue may have changed, and the page says what to do.
  const done = await post(`/cases/${encodeURIComponent(id)}/verdict`, said).catch(async (error) => { await loadQueue().catch(() => {}); throw error; });
  const words = done.revised.map((r) => `${r.class_name} ${r.changed_ml.toFixed(1)} mL in ${r.slices_changed} slice${r.slices_changed === 1 ? "" : "s"}`).join(", ");
  const dice = done.agreement === null ? "" : ` Experts agree: Dice ${done.agreement.toFixed(2)}.`;
  const kept = kind === "cannot_judge" ? `${id} put aside.` : `${id} saved. Changed: ${words}.${dice}`;
  try { await loadQueue(); if (page.open.id === id && !page.opening) await next(); } catch (error) {
    failed(error);
    return say(`${kept} The next case was not opened: ${error.message}`, true);
  }
  say(kept);
}

// Where to look, and for how long ---------------------------------------------------------------------------------------
function spot() {
  const spots = page.open?.spots ?? [];
  if (!spots.length) return say("No hot spot in this case.");
  page.spot = (page.spot + 1) % spots.length;
  viewer.jump(spots[page.spot].voxel);
  const kind = page.open.stands_out ? "Hot spot" : "Nothing stands out; doubt";
  $("spot").textContent = `${kind} ${page.spot + 1} of ${spots.length}, ${spots[page.spot].ml.toFixed(2)} mL`;
}
function clock() { const s = Math.floor(page.seconds); $("timer").textContent = `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`; }
setInterval(() => {
  if (!page.open || document.hidden || performance.now() - page.touched > IDLE_MS) return;
  page.seconds += 1; page.unsent += 1; clock();
  if (page.unsent >= 10) sendSeconds().catch(() => {});
}, 1000);
setInterval(() => { if (page.open && page.role !== "view") post(`/cases/${encodeURIComponent(page.open.id)}/lease`).catch(failed); }, 60000);
$("canvas").addEventListener("pointerdown", () => { page.pen = true; });
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => { page.pen = false; });
setInterval(() => { if (page.pen && page.tool !== "look") changed(); }, AT_MOST_MS / 2);
async function sendSeconds() {
  if (!page.unsent || page.role === "view") return;
  const more = Math.min(page.unsent, 120);
  page.unsent -= more;
  try { await post(`/cases/${encodeURIComponent(page.open.id)}/seconds`, { seconds: more, round: page.open.round }); } catch (error) { page.unsent += more; throw error; }
}

// Keys ----------------------------------------------------------------------------------------------------------------
const cycle = (select) => { select.selectedIndex = (select.selectedIndex + 1) % select.options.length; select.dispatchEvent(new Event("input")); };
const slide = (input, by) => { input.value = Number(input.value) + by; input.dispatchEvent(new Event("input")); };
const swap = (input, other) => { const was = input.dataset.was ?? other; if (Number(input.value)) { input.dataset.was = input.value; input.value = 0; } else input.value = was; input.dispatchEvent(new Event("input")); };
const actions = {
  grow: () => {
    const at = viewer.at.map(Math.round);
    apply(grow(viewer.bitmap, viewer.image, viewer.dims, at, Number($("low").value), Number($("high").value)));
  },
  holes: () => apply(fillHoles(viewer.bitmap, viewer.dims, Math.round(viewer.at[2]))),
  interpolate: () => apply(interpolate(viewer.bitmap, viewer.dims)),
  absent: () => { viewer.bitmap = new Uint8Array(viewer.bitmap.length); page.histories[page.editing].add(page.before, viewer.bitmap); touch(); say(`${page.editing} marked as absent.`); },
  stamp: () => { if (["look", "outline"].includes(page.tool)) return say("Take the brush (B), the eraser (E) or the threshold (T) first."); viewer.stamp(); changed(); },
  undo: () => back("undo"), redo: () => back("redo"), spot, layout: () => viewer.nextLayout(), help: () => $("help").showModal(),
  tune: () => tuning.begin(), earlier: takeUp, edited: () => verdict("edited"), as_is: () => verdict("as_is"), cannot_judge: () => verdict("cannot_judge"),
};
const draws = ["stamp", "grow", "holes", "interpolate", "absent", "undo", "redo", "earlier", "edited", "as_is", "cannot_judge"];
const act = guarded((name) => (draws.includes(name) && (!page.editing || page.role === "view") ? say("Open a case with the role to revise first.") : actions[name]()));
const keys = {
  v: ["look and scroll", () => choose("look")], b: ["brush", () => choose("brush")], e: ["eraser", () => choose("eraser")],
  f: ["outline, filled when closed", () => choose("outline")], t: ["brush within the range of HU", () => choose("threshold")],
  g: ["grow from the crosshair", () => act("grow")], h: ["fill holes in this slice", () => act("holes")], i: ["interpolate between slices", () => act("interpolate")],
  z: ["undo", () => act("undo")], y: ["redo", () => act("redo")], n: ["next hot spot", () => act("spot")],
  "[": ["smaller brush", () => slide($("size"), -2)], "]": ["larger brush", () => slide($("size"), 2)],
  w: ["next window", () => cycle($("window"))], o: ["classes on and off", () => swap($("opacity"), 55)], a: ["attention on and off", () => swap($("heat"), 35)],
  "+": ["stronger classes", () => slide($("opacity"), 10)], "-": ["fainter classes", () => slide($("opacity"), -10)],
  ArrowUp: ["slice up (⇧ crosshair up)", (e) => (e.shiftKey ? viewer.step(0, 1, 0) : viewer.step(0, 0, 1))],
  ArrowDown: ["slice down (⇧ crosshair down)", (e) => (e.shiftKey ? viewer.step(0, -1, 0) : viewer.step(0, 0, -1))],
  ArrowLeft: ["crosshair left", () => viewer.step(-1, 0, 0)], ArrowRight: ["crosshair right", () => viewer.step(1, 0, 0)],
  " ": ["brush or eraser at the crosshair", () => act("stamp")], 0: ["this class is not in this case", () => act("absent")], m: ["planes, axial, 3-D", () => act("layout")],
  j: ["next case", guarded(() => next(1))], k: ["case before", guarded(() => next(-1))], c: ["comment", () => $("comment").focus()],
  Enter: ["accept with edits (⇧ as is)", (e) => act(e.shiftKey ? "as_is" : "edited")], x: ["cannot judge", () => act("cannot_judge")],
  r: ["go on with my earlier draft", () => act("earlier")],
  u: ["tune now", () => $("tune").hidden || $("tune").disabled || act("tune")], p: ["range of HU", () => $("low").focus()],
  d: ["dark or light", () => theme()], "?": ["this sheet", () => act("help")],
};
addEventListener("keydown", (event) => {
  page.touched = performance.now();
  if (event.target.matches("input[type=number], input[type=password], textarea, select")) { if (event.key === "Escape") event.target.blur(); return; }
  if (document.querySelector("dialog[open]") || event.altKey || (["Enter", " "].includes(event.key) && event.target.matches("button"))) return;
  if (event.key.startsWith("Arrow") && event.target.matches("input[type=range]")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, number = Number(key);
  if ((event.ctrlKey || event.metaKey) && !["z", "y"].includes(key)) return;
  if (event.repeat && ["Enter", "x"].includes(key)) return; // Held: the next case would be judged as soon as it is open.
  const found = key === "z" && event.shiftKey ? keys.y : keys[key];
  if (found) found[1](event);
  else if (number && page.open?.classes[number - 1]) guarded(edit)(page.open.classes[number - 1].name);
  else return;
  event.preventDefault(); event.stopImmediatePropagation();
}, true);
function theme(to) {
  const now = to ?? (document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  document.documentElement.dataset.theme = now; localStorage.setItem("ctune-theme", now);
}

// Start ---------------------------------------------------------------------------------------------------------------
function wire() {
  const key = (k) => make("dt", {}, make("kbd", { textContent: k }));
  $("keys").replaceChildren(...Object.entries(keys).flatMap(([k, [words]]) => [key(k === " " ? "Space" : k.startsWith("Arrow") ? "←↑→↓"["LURD".indexOf(k[5])] : k.length === 1 ? k.toUpperCase() : k), make("dd", { textContent: words })]), key("1 … 9"), make("dd", { textContent: "edit this class" }));
  $("window").replaceChildren(...Object.keys(WINDOWS).map((w) => new Option(w, w)));
  document.querySelectorAll("[data-tool]").forEach((b) => { b.onclick = () => choose(b.dataset.tool); });
  document.querySelectorAll("[data-do]").forEach((b) => { b.onclick = () => { act(b.dataset.do); b.blur(); }; });
  $("window").oninput = () => page.open && viewer.window($("window").value);
  $("opacity").oninput = () => page.open && viewer.opacity($("opacity").value / 100);
  $("heat").oninput = () => page.open && viewer.heat($("heat").value / 100);
  $("size").oninput = () => choose(page.tool);
  $("by-class").oninput = $("by-expert").oninput = drawQueue;
  $("theme").onclick = () => theme();
  $("enter").onclick = guarded(async () => { await signIn($("token").value); $("sign").close(); await loadQueue(); });
  for (const kind of ["pointerup", "mouseup", "touchend"]) addEventListener(kind, () => setTimeout(changed, 0));
  for (const kind of ["pointermove", "pointerdown", "wheel"]) addEventListener(kind, () => { page.touched = performance.now(); }, { passive: true });
  viewer.nv.onLocationChange = (at) => { $("place").textContent = `${Array.from(at.mm).slice(0, 3).map((v) => v.toFixed(1)).join(", ")} mm · ${Math.round(at.values[0].value)} HU · ${viewer.classHere(page.editing)}`; };
  addEventListener("beforeunload", (event) => { if (page.dirty) event.preventDefault(); });
  choose("look"); offer();
}
guarded(async () => {
  theme(localStorage.getItem("ctune-theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
  wire();
  await viewer.start();
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  history.replaceState(null, "", location.pathname);
  if (token) await signIn(token);
  await loadQueue();
})();
