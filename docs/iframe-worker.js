// A page opened from a folder may start no worker: the search's then runs in a frame that is not shown.
if (location.protocol === "file:") {
  window.Worker = class {
    #frame = document.createElement("iframe");
    #loaded = new Promise((loaded) => {
      this.#frame.onload = loaded;
    });

    constructor(url) {
      this.#frame.hidden = true;
      this.#frame.srcdoc =
        "<script>postMessage = (data) => frameElement.tell(data)</script>" +
        `<script src="${new URL(url, location)}"></script>`;
      // As a worker's, messages are copies and come later, not within the call that sends them.
      this.#frame.tell = (data) => {
        setTimeout(() => this.onmessage?.({ data: structuredClone(data) }));
      };
      document.body.append(this.#frame);
    }

    postMessage(data) {
      const copy = structuredClone(data);
      this.#loaded.then(() => setTimeout(() => this.#frame.contentWindow?.onmessage({ data: copy })));
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
