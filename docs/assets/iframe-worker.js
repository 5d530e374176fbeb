// Browsers refuse workers to pages opened from disk: there the search's script runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.frame = frame;
      const inner = frame.contentWindow;
      inner.__send = data => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      this.ready = new Promise(resolve => { inner.__ready = resolve; });
      inner.document.open();
      inner.document.write(
        "<script>postMessage = data => __send(data);" +
        "importScripts = (...urls) => urls.reduce((done, url) => done.then(() => new Promise(next => {" +
        "const script = document.createElement('script'); script.src = url; script.onload = next; document.body.appendChild(script);" +
        "})), Promise.resolve());</script>" +
        '<body><script src="' + url + '" onload="__ready()"></script></body>');
      inner.document.close();
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() { this.frame.remove(); }
  };
}
