"""Runs with Frida in its own environment: KIND ADDRESS READS PROGRAM [ARGUMENT...].

KIND: `js`, a JavaScript function; `c`, a function compiled by CModule; each with `-leave` where
what is counted are the returns.
"""

import sys
import threading

import frida

kind, address, reads, *argv = sys.argv[1:]
SCRIPT = """
const site = ptr('%(address)s'), reads = %(reads)s;
let hits = 0, sum = 0, report = () => [hits, sum];
const [kind, leave] = '%(kind)s'.split('-');
const event = leave ? 'onLeave' : 'onEnter';
if (kind === 'c') {
  const counter = Memory.alloc(16);
  const code = new CModule(`
    #include <gum/guminterceptor.h>
    extern volatile gint64 counter[2];
    void ${event}(GumInvocationContext *ic) {
      counter[0]++;
      ${reads ? 'counter[1] += (gint64) gum_invocation_context_get_nth_argument(ic, 0);' : ''}
    }`, { counter });
  Interceptor.attach(site, { [event]: code[event] });
  report = () => [Number(counter.readS64()), Number(counter.add(8).readS64())];
  globalThis.kept = code;
} else if (leave) {
  Interceptor.attach(site, { onLeave() { hits++; } });
} else if (reads) {
  Interceptor.attach(site, function (args) { hits++; sum += args[0].toUInt32(); });
} else {
  Interceptor.attach(site, function (args) { hits++; });
}
// The program's last words, while it is still there to be asked.
let told = false;
const exit = Module.findGlobalExportByName('exit');
Interceptor.attach(exit, { onEnter() {
  if (told) return;
  told = true;
  send(report());
  recv('go', () => {}).wait();
} });
Interceptor.flush();
"""

ended = threading.Event()
answer = []
device = frida.get_local_device()
pid = device.spawn(argv, stdio="inherit")
session = device.attach(pid)
session.on("detached", lambda *_: ended.set())
script = session.create_script(
    SCRIPT % {"address": address, "kind": kind, "reads": "true" if reads == "1" else "false"}
)


def on_message(message, data):
    if message["type"] == "send":
        answer[:] = message["payload"]
        script.post({"type": "go"})
    else:
        print(message, flush=True)
        ended.set()


script.on("message", on_message)
script.load()
device.resume(pid)
ended.wait(60)
if answer:
    print("hits", answer[0])
    print("sum", answer[1], flush=True)
