// A Worker in a hidden frame, for pages opened as files, where browsers allow no real one.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise((done) => (this.frame.onload = done))
      document.documentElement.append(this.frame)
      const scope = this.frame.contentWindow
      scope.document.open()
      scope.postMessage = (data) => this.receive(data)
      scope.importScripts = (...files) => Promise.all(files.map((file) => this.load(file)))
      scope.document.close()
      this.ready = this.load(url)
    }
    load(url) {
      const scope = this.frame.contentWindow
      return new Promise((done, fail) => {
        const script = scope.document.createElement("script")
        Object.assign(script, { src: new URL(url, location), onload: done, onerror: fail })
        scope.document.documentElement.append(script)
      })
    }
    receive(data) {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      if (this.onmessage) this.onmessage(event)
    }
    postMessage(data) {
      const scope = this.frame.contentWindow
      this.ready.then(() => {
        const event = new scope.MessageEvent("message", { data })
        scope.dispatchEvent(event)
      })
    }
    terminate() {
      this.frame.remove()
    }
  }
}
