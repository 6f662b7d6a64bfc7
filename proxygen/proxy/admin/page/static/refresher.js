/** Milliseconds between the beginnings of two readings: a burst of events is one reading. */
const GAP = 250;

/** Runs one piece of work at a time, at once when it is asked for, and once more when it was asked for meanwhile. */
export class Refresher {
  /** @param {() => Promise<void>} work */
  constructor(work) {
    this.work = work;
    this.began = -GAP;
    this.wanted = false;
    /** @type {Promise<void> | undefined} */
    this.running = undefined;
  }

  /** Have the work done soon. */
  ask() {
    this.wanted = true;
    this.running ??= this.run();
  }

  /** Have the work done from now on, and wait for it. */
  async now() {
    this.ask();
    await this.running;
  }

  async run() {
    try {
      while (this.wanted) {
        const early = this.began + GAP - performance.now();
        // Also where there is nothing to wait for: `ask` must note that this runs before it can end.
        await new Promise((resolve) => setTimeout(resolve, Math.max(0, early)));
        this.wanted = false;
        this.began = performance.now();
        await this.work();
      }
    } finally {
      this.running = undefined;
    }
  }
}
