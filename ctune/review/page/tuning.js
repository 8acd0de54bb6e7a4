// The live loop: begin the next round, watch it, and say when its cases are in the queue.

import { json, post } from "./api.js";

const $ = (id) => document.getElementById(id);
const EVERY_MS = 1000;
const WORDS = { predict: "predicting the pool", score: "scoring", evaluate: "measuring on the test cases", cache: "preparing", tune: "tuning", start: "starting" };

export class Tuning {
  // ended: called once for each tuning that was seen to run and is over.
  constructor(ended, say) { this.ended = ended; this.say = say; this.seen = false; this.timer = 0; }

  async begin() { await post("/tuning"); this.seen = true; await this.look(); }

  async look(role) {
    if (role) this.role = role;
    clearTimeout(this.timer);
    const status = await json("/tuning").catch(() => ({ state: "away" }));
    const running = status.state === "running";
    $("tune").hidden = this.role !== "tune";
    $("tune").disabled = running;
    $("tuning").hidden = !running && !this.seen;
    $("tuning-bar").hidden = !running;
    if (running) {
      this.seen = true;
      $("tuning-bar").max = status.total || 1; $("tuning-bar").value = status.done;
      $("tuning-words").textContent = `Round ${status.round}, ${WORDS[status.stage] ?? status.stage}: ${status.done} of ${status.total} ${status.detail}`;
    } else if (this.seen && status.state !== "away") {
      this.#over(status);
    }
    if (running || status.state === "away") this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  #over(status) {
    this.seen = false;
    const dice = Object.entries(status.dice).filter(([, [before, after]]) => after !== null && before !== after)
      .map(([name, [before, after]]) => `${name.replaceAll("_", " ")} ${before === null ? "new" : before.toFixed(2)} → ${after.toFixed(2)}`).join(", ");
    const words = status.state === "done" ? `Tuned. ${dice ? `Dice on the test cases: ${dice}.` : ""} ${status.detail}` : `The tuning ${status.state}. ${status.error}`;
    $("tuning-words").textContent = words;
    $("tuning-words").classList.toggle("bad", status.state !== "done");
    this.say(words, status.state !== "done");
    this.ended(status);
  }
}
